#pragma once
// The connections for reads: each serves one caller at a time, so that reads neither wait for the writer nor
// for each other. Thread-safe.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "store/sqlite_tables.h"

namespace hsm {

class SqliteReaders {
 public:
  explicit SqliteReaders(const StoreSqliteOptions& options) : options_(options) {}

  absl::Status Open();
  // Waits until all are given back, then closes them; until Open, reads fail.
  void Close();

  // Runs `read` inside one read transaction: everything it sees is one state, the last committed when it
  // began.
  template <typename Result, typename Read>
  absl::StatusOr<Result> InOneState(Read read) {
    absl::StatusOr<std::unique_ptr<SqliteTables>> tables = Take();
    if (!tables.ok()) return tables.status();
    absl::Status begun = (*tables)->Begin();
    absl::StatusOr<Result> result = begun.ok() ? read(**tables) : absl::StatusOr<Result>(begun);
    (*tables)->Rollback();
    Give(*std::move(tables));
    return result;
  }
  // Runs `use` on one connection, outside of a transaction.
  absl::Status Borrow(const std::function<absl::Status(SqliteTables&)>& use);

 private:
  absl::StatusOr<std::unique_ptr<SqliteTables>> Take();
  void Give(std::unique_ptr<SqliteTables> tables);

  const StoreSqliteOptions& options_;
  Mutex mutex_;
  CondVar given_;
  bool open_ HSM_GUARDED_BY(mutex_) = false;
  size_t out_ HSM_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<SqliteTables>> idle_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
