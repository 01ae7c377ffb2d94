#include "store/store_sqlite.h"

#include <utility>

#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "store/change_feed.h"
#include "store/sqlite_disk.h"
#include "store/sqlite_readers.h"
#include "store/sqlite_writer.h"
#include "store/term_keeper.h"

namespace hsm {
namespace {

// A copy of the whole store in a file of its own: pages through it in bounded memory, keeps no read
// transaction open.
class SqliteSnapshot final : public StoreSnapshot {
 public:
  SqliteSnapshot(std::unique_ptr<SqliteTables> tables, std::string file, std::string vfs,
                 StoreRevision revision)
      : tables_(std::move(tables)), file_(std::move(file)), vfs_(std::move(vfs)), revision_(revision) {}
  ~SqliteSnapshot() override {
    tables_.reset();
    sqlite::RemoveDatabase(file_, vfs_);
  }
  StoreRevision revision() const override { return revision_; }
  absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after, size_t limit) override {
    HSM_RETURN_IF_ERROR(CheckScan(prefix, after, limit));
    return tables_->Scan(prefix, after, limit);
  }

 private:
  std::unique_ptr<SqliteTables> tables_;
  const std::string file_, vfs_;
  const StoreRevision revision_;
};

class StoreSqlite final : public Store, public ChangeSource {
 public:
  StoreSqlite(StoreSqliteOptions options, std::unique_ptr<SqliteDisk> disk)
      : options_(std::move(options)), disk_(std::move(disk)), terms_(*options_.clock) {}
  absl::Status Start() { return writer_.Start(); }

  StoreCommit Commit(const StoreTransaction& transaction) override {
    absl::Status status = CheckTransaction(transaction);
    if (!status.ok()) return {StoreOutcome::kRefused, 0, {}, std::move(status)};
    return writer_.Commit(transaction, false);
  }

  absl::StatusOr<std::vector<StoreRecord>> Get(std::span<const std::string> keys) override {
    HSM_RETURN_IF_ERROR(CheckKeys(keys));
    using Records = std::vector<StoreRecord>;
    return readers_.InOneState<Records>([&](SqliteTables& tables) -> absl::StatusOr<Records> {
      Records out;
      for (const std::string& key : keys) {
        HSM_ASSIGN_OR_RETURN(std::optional<StoreRecord> record, tables.Find(key));
        if (record) out.push_back(*std::move(record));
      }
      return out;
    });
  }

  absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after, size_t limit) override {
    HSM_RETURN_IF_ERROR(CheckScan(prefix, after, limit));
    return readers_.InOneState<StorePage>(
        [&](SqliteTables& tables) { return tables.Scan(prefix, after, limit); });
  }

  absl::StatusOr<std::unique_ptr<StoreSnapshot>> Snapshot() override;

  absl::StatusOr<std::unique_ptr<StoreFeed>> Follow(const std::string& prefix, StoreRevision from) override {
    HSM_RETURN_IF_ERROR(CheckScan(prefix, "", 1));
    return std::make_unique<ChangeFeed>(*this, *options_.clock, prefix, from);
  }

  absl::StatusOr<StoreTerm> Campaign(const std::string& holder, absl::Duration ttl) override {
    return terms_.Campaign(holder, ttl, [this] { return RaiseEpoch(); });
  }
  absl::StatusOr<StoreTerm> Renew(const std::string& holder, Epoch epoch, absl::Duration ttl) override {
    return terms_.Renew(holder, epoch, ttl);
  }
  absl::Status Resign(const std::string& holder, Epoch epoch) override {
    return terms_.Resign(holder, epoch);
  }

  absl::Status Compact(StoreRevision keep_from) override { return writer_.Compact(keep_from); }
  StoreHealth Health() override;

 private:
  absl::StatusOr<StoreChanges> ChangesAfter(StoreRevision revision) override {
    return readers_.InOneState<StoreChanges>(
        [&](SqliteTables& tables) { return tables.ChangesAfter(revision); });
  }
  bool AwaitChange(StoreRevision revision, absl::Duration timeout) override {
    return writer_.AwaitRevisionAbove(revision, timeout);
  }
  absl::StatusOr<Epoch> RaiseEpoch();
  absl::StatusOr<std::string> NewSnapshotName();
  absl::StatusOr<std::unique_ptr<StoreSnapshot>> OpenCopy(const std::string& file);
  absl::StatusOr<int64_t> BytesUsed();

  const StoreSqliteOptions options_;
  const std::unique_ptr<SqliteDisk> disk_;  // its lock goes last
  TermKeeper terms_;
  Mutex mutex_;
  uint64_t snapshots_ HSM_GUARDED_BY(mutex_) = 0;
  SqliteReaders readers_{options_};
  SqliteWriter writer_{options_, disk_.get(), readers_};
};

absl::StatusOr<std::string> StoreSqlite::NewSnapshotName() {
  MutexLock lock(mutex_);
  if (disk_ != nullptr) return disk_->NewSnapshotFile();
  std::string name = options_.path + ".snapshot-" + std::to_string(++snapshots_);
  sqlite::RemoveDatabase(name, options_.vfs);
  return name;
}

absl::StatusOr<int64_t> StoreSqlite::BytesUsed() {
  return readers_.InOneState<int64_t>([](SqliteTables& tables) -> absl::StatusOr<int64_t> {
    HSM_ASSIGN_OR_RETURN(int64_t pages, tables.database().QueryInt("PRAGMA page_count"));
    HSM_ASSIGN_OR_RETURN(int64_t page_bytes, tables.database().QueryInt("PRAGMA page_size"));
    return pages * page_bytes;
  });
}

absl::StatusOr<std::unique_ptr<StoreSnapshot>> StoreSqlite::Snapshot() {
  HSM_ASSIGN_OR_RETURN(int64_t bytes, BytesUsed());
  if (disk_ != nullptr && disk_->FreeBytes() < static_cast<uint64_t>(bytes) + options_.free_bytes_min) {
    return Error(v1::REASON_STORE_FULL, "store: no space for a snapshot");
  }
  HSM_ASSIGN_OR_RETURN(std::string file, NewSnapshotName());
  absl::StatusOr<std::unique_ptr<StoreSnapshot>> snapshot = OpenCopy(file);
  if (!snapshot.ok()) sqlite::RemoveDatabase(file, options_.vfs);
  return snapshot;
}

absl::StatusOr<std::unique_ptr<StoreSnapshot>> StoreSqlite::OpenCopy(const std::string& file) {
  HSM_RETURN_IF_ERROR(readers_.Borrow([&](SqliteTables& tables) { return tables.CopyInto(file); }));
  HSM_ASSIGN_OR_RETURN(auto tables, SqliteTables::Open(file, SqliteTables::Role::kSnapshot, options_));
  HSM_ASSIGN_OR_RETURN(StoreRevision revision, tables->Revision());
  return std::make_unique<SqliteSnapshot>(std::move(tables), file, options_.vfs, revision);
}

absl::StatusOr<Epoch> StoreSqlite::RaiseEpoch() {
  const std::string key(kEpochKey);
  HSM_ASSIGN_OR_RETURN(std::vector<StoreRecord> found, Get({&key, 1}));
  HSM_ASSIGN_OR_RETURN(Epoch epoch, NextEpoch(found.empty() ? "" : found[0].value));
  StoreTransaction raise;
  raise.guards = {found.empty() ? StoreGuard::Absent(key)
                                : StoreGuard::ModRevisionIs(key, found[0].mod_revision)};
  raise.ops = {StoreOp::Put(key, std::to_string(epoch))};
  StoreCommit commit = writer_.Commit(raise, true);
  if (commit.outcome == StoreOutcome::kCommitted) return epoch;
  if (commit.outcome == StoreOutcome::kConflict) return Error(v1::REASON_CONFLICT, "another campaign won");
  return commit.status;
}

StoreHealth StoreSqlite::Health() {
  StoreHealth health;
  health.engine = "sqlite " + std::string(sqlite::Version());
  health.bytes_used = static_cast<uint64_t>(BytesUsed().value_or(0));
  health.bytes_free = disk_ != nullptr ? disk_->FreeBytes() : UINT64_MAX;
  health.read_only = writer_.read_only();
  return health;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenStoreSqlite(StoreSqliteOptions options) {
  std::unique_ptr<SqliteDisk> disk;
  if (options.vfs.empty()) {
    HSM_ASSIGN_OR_RETURN(disk, SqliteDisk::Open(options.path, options.reserve_bytes, options.free_bytes_min));
  }
  auto store = std::make_unique<StoreSqlite>(std::move(options), std::move(disk));
  HSM_RETURN_IF_ERROR(store->Start());
  return store;
}

}  // namespace hsm
