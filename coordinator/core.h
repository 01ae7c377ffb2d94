#pragma once
// The parts of a coordinator that act on each other, by reference, so that each can be built and tested
// alone. Owned and wired by coordinator/coordinator.cc.
#include "absl/status/status.h"
#include "common/clock.h"
#include "common/random.h"
#include "coordinator/authz.h"
#include "coordinator/cluster_state.h"
#include "coordinator/committer.h"
#include "coordinator/config.h"
#include "coordinator/fan_out.h"
#include "coordinator/hsm_state.h"
#include "coordinator/key_table.h"
#include "coordinator/revoker.h"
#include "store/catalogue.h"

namespace hsm {

struct Core {
  const CoordinatorConfig& config;
  Clock& clock;
  Random& random;
  Catalogue& catalogue;
  Committer& committer;
  ClusterState& cluster;
  HsmState& state;
  KeyTable& table;
  const Authz& authz;
  FanOut& fan_out;
  Revoker& revoker;

  rpc::Fence Fence() const;
  // OK while the HSM takes changes: active, leading, store not rolled back.
  absl::Status MayChange() const;
  // OK while the HSM serves reads of its keys: active.
  absl::Status MayRead() const;
};

}  // namespace hsm
