#pragma once
// Which partition takes the next operation, and when one is left out for its errors. Decisions only: no
// locks, no I/O, no clock (times are parameters).
#include <cstdint>
#include <span>

#include "absl/time/time.h"
#include "hsm/v1/error.pb.h"

namespace hsm {

// What the choice between two partitions looks at.
struct RouteLoad {
  bool eligible = false;
  uint32_t in_flight = 0;
  bool busy = false;  // with a backup or restore: counts as more loaded
};
// The less loaded of two eligible partitions drawn by `random_bits`; -1 if none is eligible.
int ChoosePartition(std::span<const RouteLoad> partitions, uint64_t random_bits);

// Whether a failure speaks against the partition as a whole, and not only about one key, one caller or this
// moment. A partition without a lease or with another epoch is well: it gets a lease once it is READY again.
bool SpeaksAgainstPartition(v1::Reason reason);

// Leaves a partition out after 5 failures or 30 % failures within 10 s; after a pause lets single probes
// through and comes back after 3 good ones. One per partition.
class Breaker {
 public:
  enum class State { kClosed, kOpen, kHalfOpen };
  static constexpr uint32_t kFailuresMax = 5;
  static constexpr double kFailureShareMax = 0.3;
  static constexpr uint32_t kShareNeeds = 10;  // operations in the window before the share counts
  static constexpr absl::Duration kWindow = absl::Seconds(10);
  static constexpr absl::Duration kPause = absl::Seconds(1);  // doubles with each failed probe, up to 8 s
  static constexpr uint32_t kProbesNeeded = 3;

  void OnResult(bool ok, uint32_t operations, absl::Duration now);
  // Whether an operation may be sent at `now`; a half-open breaker admits one probe at a time.
  bool Admit(absl::Duration now);
  State state() const { return state_; }

 private:
  void Roll(absl::Duration now);
  void Open(absl::Duration now);

  State state_ = State::kClosed;
  absl::Duration window_start_;
  uint64_t good_ = 0, bad_ = 0;
  absl::Duration open_until_;
  absl::Duration pause_ = kPause;
  bool probing_ = false;
  absl::Duration probe_since_;
  uint32_t probes_good_ = 0;
};

}  // namespace hsm
