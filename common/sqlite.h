#pragma once
// The few SQLite calls we use, behind RAII; sqlite3.h is included by sqlite.cc alone. A Database and its
// Statements serve one thread at a time (connections are opened without SQLite's own mutex). Errors:
// STORE_FULL when the disk or the page limit is full, STORE_FAILED otherwise; both name what failed. Library
// hsm::sqlite.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_stmt;

namespace hsm::sqlite {

struct OpenOptions {
  std::string vfs;  // "" = the operating system's; tests name theirs
  bool create = false;
  bool read_only = false;  // and immutable: nobody changes the file while it is open
  int busy_timeout_ms = 5'000;
};

// A prepared statement; made by Database::Prepare, must not outlive it. Text and blobs are bound without a
// copy: they must live until the next Reset. Columns are valid until the next Step or Reset.
class Statement {
 public:
  Statement() = default;
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&& other) noexcept;
  ~Statement();

  Statement& Reset();
  Statement& Blob(int index, std::string_view value);  // index from 1
  Statement& Text(int index, std::string_view value);
  Statement& Int(int index, int64_t value);
  absl::StatusOr<bool> Step();  // true: a row is there
  absl::Status Run();           // steps to the end, then resets

  std::string_view BlobAt(int column) const;  // column from 0
  int64_t IntAt(int column) const;
  int64_t FullScanSteps() const;  // rows it ever went through without an index
  int64_t Steps() const;          // instructions of SQLite's machine it ever took

 private:
  friend class Database;
  sqlite3_stmt* handle_ = nullptr;
};

class Database {
 public:
  static absl::StatusOr<Database> Open(const std::string& path, const OpenOptions& options);
  Database(Database&& other) noexcept;
  Database& operator=(Database&& other) noexcept;
  ~Database();

  absl::StatusOr<Statement> Prepare(std::string_view sql);
  absl::Status Exec(const std::string& sql);  // one or more statements, rows ignored
  absl::StatusOr<int64_t> QueryInt(
      std::string_view sql);  // first column of the first row; 0 if it is NULL or there is none
  absl::StatusOr<std::string> QueryText(std::string_view sql);
  bool InTransaction() const;
  void RollbackIfOpen();

  // Copies the write-ahead log into the database as far as readers allow; with `truncate`, waits a quarter of
  // a second for them, then cuts the log to nothing. Readers in the way are no error: the log just stays.
  absl::Status Checkpoint(bool truncate);
  // Takes checkpoints out of SQLite's hands: from now on LogPages() grows until Checkpoint is called.
  void CheckpointByHand();
  int LogPages() const { return *log_pages_; }
  // Closing normally checkpoints and deletes the log; after a failed sync it must not (see RewriteLog).
  void KeepLogOnClose();

 private:
  explicit Database(sqlite3* handle) : handle_(handle) {}
  absl::Status Failure(std::string_view doing) const;
  sqlite3* handle_ = nullptr;
  int busy_timeout_ms_ = 0;
  std::unique_ptr<int> log_pages_ = std::make_unique<int>(0);
};

// After a failed sync the kernel may hold pages of the write-ahead log that look clean and never reached the
// disk. Writes the whole log of `path` again, byte by byte the same, and syncs it, so that what the next
// recovery reads is what the disk has. No connection to `path` may be open. Succeeds when there is no log.
absl::Status RewriteLog(const std::string& path, const std::string& vfs);

// Deletes a closed database with whatever lies beside it.
void RemoveDatabase(const std::string& path, const std::string& vfs);

std::string_view Version();  // "3.40.1"

}  // namespace hsm::sqlite
