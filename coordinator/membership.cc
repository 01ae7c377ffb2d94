#include "coordinator/membership.h"

namespace hsm {

using internal::v1::NodeState;

v1::PartitionState DecideState(const PartitionFacts& facts, const MembershipTimes& times,
                               absl::Duration now) {
  if (!facts.refused.empty()) return v1::PARTITION_STATE_REFUSED;
  absl::Duration silent = now - facts.last_heartbeat.value_or(times.started);
  if (silent >= times.down_after) return v1::PARTITION_STATE_DOWN;
  if (!facts.last_heartbeat) return v1::PARTITION_STATE_STARTING;
  if (facts.node == NodeState::NODE_STATE_REFUSED) return v1::PARTITION_STATE_REFUSED;
  if (silent >= times.suspect_after) return v1::PARTITION_STATE_SUSPECT;
  if (facts.drained || facts.sponsoring || facts.node == NodeState::NODE_STATE_DRAINING)
    return v1::PARTITION_STATE_DRAINED;
  if (facts.node != NodeState::NODE_STATE_SERVING || !facts.right_hsm) return v1::PARTITION_STATE_STARTING;
  if (!facts.synced) return v1::PARTITION_STATE_SYNCING;
  if (facts.breaker_open) return v1::PARTITION_STATE_SUSPECT;
  return v1::PARTITION_STATE_READY;
}

bool TakesRecords(v1::PartitionState state, const PartitionFacts& facts) {
  if (facts.node != NodeState::NODE_STATE_SERVING || !facts.right_hsm) return false;
  return state == v1::PARTITION_STATE_READY || state == v1::PARTITION_STATE_SYNCING ||
         state == v1::PARTITION_STATE_SUSPECT || state == v1::PARTITION_STATE_DRAINED;
}

}  // namespace hsm
