#include "store/sqlite_readers.h"

#include <utility>

#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {

absl::Status SqliteReaders::Open() {
  std::vector<std::unique_ptr<SqliteTables>> opened;
  for (size_t i = 0; i < options_.readers; ++i) {
    HSM_ASSIGN_OR_RETURN(auto tables,
                         SqliteTables::Open(options_.path, SqliteTables::Role::kReader, options_));
    opened.push_back(std::move(tables));
  }
  MutexLock lock(mutex_);
  idle_ = std::move(opened);
  open_ = true;
  return absl::OkStatus();
}

void SqliteReaders::Close() {
  MutexLock lock(mutex_);
  open_ = false;
  given_.NotifyAll();
  while (out_ > 0) given_.Wait(mutex_);
  idle_.clear();
}

absl::Status SqliteReaders::Borrow(const std::function<absl::Status(SqliteTables&)>& use) {
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<SqliteTables> tables, Take());
  absl::Status status = use(*tables);
  Give(std::move(tables));
  return status;
}

absl::StatusOr<std::unique_ptr<SqliteTables>> SqliteReaders::Take() {
  MutexLock lock(mutex_);
  while (open_ && idle_.empty()) given_.Wait(mutex_);
  if (!open_) return Error(v1::REASON_STORE_FAILED, "store: closed after a disk error");
  std::unique_ptr<SqliteTables> tables = std::move(idle_.back());
  idle_.pop_back();
  ++out_;
  return tables;
}

void SqliteReaders::Give(std::unique_ptr<SqliteTables> tables) {
  MutexLock lock(mutex_);
  --out_;
  idle_.push_back(std::move(tables));
  given_.NotifyAll();
}

}  // namespace hsm
