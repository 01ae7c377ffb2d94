#pragma once
// The state of one partition, decided from what is known about it. Pure.
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "hsm/internal/v1/control.pb.h"
#include "hsm/v1/hsm.pb.h"

namespace hsm {

struct PartitionFacts {
  std::optional<absl::Duration> last_heartbeat;  // uptime when the newest came in
  internal::v1::NodeState node = internal::v1::NODE_STATE_UNSPECIFIED;
  bool drained = false;     // by an operator, or to sponsor a hand-over
  bool reprove = false;     // the next sync proves every key again
  bool sponsoring = false;  // a hand-over of the domain keys
  bool synced = false;      // holds what the catalogue says, all of it proved
  bool right_hsm = false;   // its domain is this HSM's
  bool breaker_open = false;
  std::string refused;  // why it is never routed to; empty = it is not
};
struct MembershipTimes {
  absl::Duration suspect_after;
  absl::Duration down_after;
  absl::Duration started;  // uptime at which this coordinator began to listen: silence before it says nothing
};

v1::PartitionState DecideState(const PartitionFacts& facts, const MembershipTimes& times, absl::Duration now);
// Whether records and control messages are sent to a partition in this state.
bool TakesRecords(v1::PartitionState state, const PartitionFacts& facts);

}  // namespace hsm
