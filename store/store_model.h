#pragma once
// The contract in a few lines of ordinary containers: the oracle of the differential test and the store of
// simulated clusters. Nothing survives it. Every operation is a switch point of a simulated scheduler.
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "store/store.h"

namespace hsm {

class StoreModel final : public Store {
 public:
  // What befalls one operation. For reads, everything but kNone is a STORE_FAILED.
  enum class Fault {
    kNone,
    kRefused,        // STORE_FAILED, nothing done
    kFull,           // STORE_FULL, nothing done
    kUnknownBefore,  // kUnknown, nothing done
    kUnknownAfter,   // kUnknown, done if the guards held
  };
  // `transaction` is null for anything but a commit. Called without the lock, on the caller's thread.
  using FaultHook = std::function<Fault(const StoreTransaction* transaction)>;

  struct State;  // everything, frozen

  explicit StoreModel(Clock& clock);
  ~StoreModel() override;

  StoreCommit Commit(const StoreTransaction& transaction) override;
  absl::StatusOr<std::vector<StoreRecord>> Get(std::span<const std::string> keys) override;
  absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after, size_t limit) override;
  absl::StatusOr<std::unique_ptr<StoreSnapshot>> Snapshot() override;
  absl::StatusOr<std::unique_ptr<StoreFeed>> Follow(const std::string& prefix, StoreRevision from) override;
  absl::StatusOr<StoreTerm> Campaign(const std::string& holder, absl::Duration ttl) override;
  absl::StatusOr<StoreTerm> Renew(const std::string& holder, Epoch epoch, absl::Duration ttl) override;
  absl::Status Resign(const std::string& holder, Epoch epoch) override;
  absl::Status Compact(StoreRevision keep_from) override;
  StoreHealth Health() override;

  // For tests. A null hook takes the faults away.
  void SetFaults(FaultHook hook);
  // The state now, and going back to it: what an operator does who restores an old copy of the file. Terms
  // end.
  std::shared_ptr<const State> Save();
  void RollBack(std::shared_ptr<const State> state);
  StoreRevision revision();

 private:
  class Feed;
  class Frozen;
  struct Shared;  // outlives the store while a feed or snapshot holds it
  Fault Strike(const StoreTransaction* transaction);
  StoreCommit Apply(const StoreTransaction& transaction);

  std::shared_ptr<Shared> shared_;
};

}  // namespace hsm
