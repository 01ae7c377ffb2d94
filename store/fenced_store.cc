#include "store/fenced_store.h"

#include <algorithm>

#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {

absl::StatusOr<std::unique_ptr<FencedStore>> FencedStore::Open(Store& store, const StoreTerm& term) {
  const std::string keys[] = {std::string(kEpochKey)};
  HSM_ASSIGN_OR_RETURN(std::vector<StoreRecord> found, store.Get(keys));
  if (found.empty() || found[0].value != std::to_string(term.epoch)) {
    return Error(v1::REASON_FENCED, "epoch " + std::to_string(term.epoch) + " is over");
  }
  return std::unique_ptr<FencedStore>(new FencedStore(store, term.epoch, found[0].mod_revision));
}

StoreCommit FencedStore::Commit(const StoreTransaction& transaction) {
  StoreTransaction fenced = transaction;
  if (!HSM_MUTANT("store-commit-unfenced")) {
    fenced.guards.push_back(StoreGuard::ModRevisionIs(std::string(kEpochKey), revision_));
  }
  bool asked = std::count(fenced.read_on_conflict.begin(), fenced.read_on_conflict.end(), kEpochKey) > 0;
  if (!asked) fenced.read_on_conflict.emplace_back(kEpochKey);

  StoreCommit commit = store_.Commit(fenced);
  if (commit.outcome != StoreOutcome::kConflict) return commit;
  auto epoch = std::find_if(commit.found.begin(), commit.found.end(),
                            [](const StoreRecord& record) { return record.key == kEpochKey; });
  bool mine = epoch != commit.found.end() && epoch->mod_revision == revision_;
  if (!mine) {
    return {StoreOutcome::kRefused,
            0,
            {},
            Error(v1::REASON_FENCED, "epoch " + std::to_string(epoch_) + " is over")};
  }
  if (!asked) commit.found.erase(epoch);
  return commit;
}

absl::StatusOr<std::vector<StoreRecord>> FencedStore::Get(std::span<const std::string> keys) {
  return store_.Get(keys);
}

absl::StatusOr<StorePage> FencedStore::Scan(const std::string& prefix, const std::string& after,
                                            size_t limit) {
  return store_.Scan(prefix, after, limit);
}

absl::StatusOr<std::unique_ptr<StoreSnapshot>> FencedStore::Snapshot() { return store_.Snapshot(); }

absl::StatusOr<std::unique_ptr<StoreFeed>> FencedStore::Follow(const std::string& prefix,
                                                               StoreRevision from) {
  return store_.Follow(prefix, from);
}

absl::StatusOr<StoreTerm> FencedStore::Campaign(const std::string&, absl::Duration) {
  return Error(v1::REASON_CONFLICT, "a fenced store belongs to one term");
}

absl::StatusOr<StoreTerm> FencedStore::Renew(const std::string& holder, Epoch epoch, absl::Duration ttl) {
  return store_.Renew(holder, epoch, ttl);
}

absl::Status FencedStore::Resign(const std::string& holder, Epoch epoch) {
  return store_.Resign(holder, epoch);
}
absl::Status FencedStore::Compact(StoreRevision keep_from) { return store_.Compact(keep_from); }
StoreHealth FencedStore::Health() { return store_.Health(); }

}  // namespace hsm
