#pragma once
// The leader's hold on the store: every commit is guarded by the epoch key, so that nothing a stale leader
// still has under way can land after a newer campaign. The only writer type the coordinator uses.
// Thread-safe.
#include <memory>
#include <string>
#include <vector>

#include "store/store.h"

namespace hsm {

class FencedStore final : public Store {
 public:
  // FENCED if the term's epoch is no longer the store's. `store` outlives this.
  static absl::StatusOr<std::unique_ptr<FencedStore>> Open(Store& store, const StoreTerm& term);

  // As the store's, but kRefused with FENCED once a newer campaign has won; that is final for this object.
  StoreCommit Commit(const StoreTransaction& transaction) override;
  Epoch epoch() const { return epoch_; }

  absl::StatusOr<std::vector<StoreRecord>> Get(std::span<const std::string> keys) override;
  absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after, size_t limit) override;
  absl::StatusOr<std::unique_ptr<StoreSnapshot>> Snapshot() override;
  absl::StatusOr<std::unique_ptr<StoreFeed>> Follow(const std::string& prefix, StoreRevision from) override;
  // CONFLICT: who wants a new term campaigns on the bare store and opens a new FencedStore.
  absl::StatusOr<StoreTerm> Campaign(const std::string& holder, absl::Duration ttl) override;
  absl::StatusOr<StoreTerm> Renew(const std::string& holder, Epoch epoch, absl::Duration ttl) override;
  absl::Status Resign(const std::string& holder, Epoch epoch) override;
  absl::Status Compact(StoreRevision keep_from) override;
  StoreHealth Health() override;

 private:
  FencedStore(Store& store, Epoch epoch, StoreRevision revision)
      : store_(store), epoch_(epoch), revision_(revision) {}
  Store& store_;
  const Epoch epoch_;
  const StoreRevision revision_;  // of the epoch key when this term began
};

}  // namespace hsm
