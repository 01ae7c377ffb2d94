#pragma once
// Who holds the term, for engines whose only process this is: in memory, because a process that ended holds
// nothing. Thread-safe.
#include <functional>
#include <string>

#include "common/clock.h"
#include "common/mutex.h"
#include "store/store.h"

namespace hsm {

class TermKeeper {
 public:
  explicit TermKeeper(Clock& clock) : clock_(clock) {}

  // `raise_epoch` adds one to the durable counter and returns it; called without a lock, by one campaign at a
  // time.
  absl::StatusOr<StoreTerm> Campaign(const std::string& holder, absl::Duration ttl,
                                     const std::function<absl::StatusOr<Epoch>()>& raise_epoch);
  absl::StatusOr<StoreTerm> Renew(const std::string& holder, Epoch epoch, absl::Duration ttl);
  absl::Status Resign(const std::string& holder, Epoch epoch);
  void End();

 private:
  bool Runs(const std::string& holder, Epoch epoch) HSM_REQUIRES(mutex_);

  Clock& clock_;
  Mutex mutex_;
  bool campaigning_ HSM_GUARDED_BY(mutex_) = false;
  std::string holder_ HSM_GUARDED_BY(mutex_);  // empty: nobody
  StoreTerm term_ HSM_GUARDED_BY(mutex_);
};

// The next value of the epoch key, given its present one ("" = absent).
absl::StatusOr<Epoch> NextEpoch(std::string_view value);

}  // namespace hsm
