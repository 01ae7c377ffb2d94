#pragma once
// The one thread that writes. It takes what waits, judges each transaction by its own guards on top of the
// ones before it, and makes the whole group durable with one sync. Failures and what they answer:
// docs/store.md.
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/mutex.h"
#include "common/thread.h"
#include "store/sqlite_disk.h"
#include "store/sqlite_readers.h"
#include "store/sqlite_tables.h"

namespace hsm {

class SqliteWriter {
 public:
  // `disk` is null on a file system that is not the operating system's. All outlive this.
  SqliteWriter(const StoreSqliteOptions& options, SqliteDisk* disk, SqliteReaders& readers);
  ~SqliteWriter();
  absl::Status Start();

  // Thread-safe from here on.
  // `system` writes are the engine's own: they are taken even when space is short.
  StoreCommit Commit(const StoreTransaction& transaction, bool system);
  absl::Status Compact(StoreRevision keep_from);
  bool AwaitRevisionAbove(StoreRevision revision, absl::Duration timeout);
  bool read_only() const { return read_only_; }

 private:
  struct Request {
    const StoreTransaction* transaction = nullptr;
    bool system = false;
    StoreRevision compact_from = 0;  // when there is no transaction
    StoreCommit answer;
    bool done = false;
    CondVar answered;

    bool Deletes() const;
    bool Writes() const { return transaction != nullptr && !transaction->ops.empty(); }
  };
  using Group = std::span<const std::shared_ptr<Request>>;

  StoreCommit Submit(const std::shared_ptr<Request>& request);
  void Run();
  std::vector<std::shared_ptr<Request>> TakeGroup() HSM_REQUIRES(mutex_);
  void Serve(Group group);
  void Alone(const std::shared_ptr<Request>& shared);
  absl::Status Attempt(Group group);
  absl::Status Judge(Request& request, StoreRevision& revision);
  void AnswerUnknown(Group group, const absl::Status& why);
  absl::Status CompactNow(StoreRevision keep_from);
  absl::Status ForgetTo(StoreRevision floor);
  bool ReleaseReserve();
  void LookAtDisk();
  void TendLog();
  absl::Status OpenTables();
  void CloseTables(const absl::Status& why);

  const StoreSqliteOptions& options_;
  SqliteDisk* const disk_;
  SqliteReaders& readers_;

  // The writer thread's own.
  std::unique_ptr<SqliteTables> tables_;  // null after a disk error, until it could be opened again
  StoreRevision committed_ = 0, floor_ = 0;
  std::atomic<bool> read_only_{false};

  Mutex mutex_;
  CondVar arrived_, changed_;
  std::deque<std::shared_ptr<Request>> queue_ HSM_GUARDED_BY(mutex_);
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  StoreRevision revision_ HSM_GUARDED_BY(mutex_) = 0;
  Thread thread_;
};

}  // namespace hsm
