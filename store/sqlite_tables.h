#pragma once
// One connection to the store's file and its statements; docs/store.md has the tables. One thread at a time.
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/sqlite.h"
#include "store/change_feed.h"
#include "store/store_sqlite.h"

namespace hsm {

class SqliteTables {
 public:
  enum class Role {
    kWriter,    // creates and checks the file; there is one
    kReader,    // beside the writer
    kSnapshot,  // of a copy nobody writes
  };
  static absl::StatusOr<std::unique_ptr<SqliteTables>> Open(const std::string& path, Role role,
                                                            const StoreSqliteOptions& options);

  // A failed Begin..Commit leaves a transaction that Rollback must end.
  absl::Status Begin();  // a reader's view is fixed by its first read
  absl::Status Commit();
  void Rollback() { database_.RollbackIfOpen(); }

  absl::StatusOr<StoreRevision> Revision();
  absl::StatusOr<StoreRevision> Floor();
  absl::StatusOr<std::optional<StoreRecord>> Find(const std::string& key);
  absl::StatusOr<bool> Holds(const StoreGuard& guard);
  absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after, size_t limit);
  absl::StatusOr<StoreChanges> ChangesAfter(StoreRevision revision);

  absl::Status Apply(const std::vector<StoreOp>& ops, StoreRevision revision);  // and its change row
  absl::Status SetRevision(StoreRevision revision);
  absl::Status Forget(StoreRevision up_to);  // changes; raises the floor

  // Writes the state of this moment as a database of its own; `file` is empty or does not exist. Outside
  // transactions.
  absl::Status CopyInto(const std::string& file);

  sqlite::Database& database() { return database_; }
  int64_t ScanStepsForTest() const { return scan_.Steps(); }

 private:
  explicit SqliteTables(sqlite::Database database) : database_(std::move(database)) {}
  absl::Status Prepare(bool writes);

  sqlite::Database database_;
  sqlite::Statement begin_, commit_, meta_, find_, revisions_, scan_, changes_;
  sqlite::Statement put_, delete_, add_change_, set_meta_, forget_;
};

}  // namespace hsm
