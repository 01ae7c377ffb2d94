#pragma once
// The parts of a coordinator that act on each other, by reference, so that each can be built and tested
// alone. Owned and wired by coordinator/coordinator.cc.
#include <algorithm>
#include <atomic>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/random.h"
#include "coordinator/cluster_state.h"
#include "coordinator/committer.h"
#include "coordinator/config.h"
#include "coordinator/fan_out.h"
#include "coordinator/hsm_state.h"
#include "coordinator/key_table.h"
#include "coordinator/revoker.h"
#include "coordinator/role_state.h"
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
  RoleState& roles;
  FanOut& fan_out;
  Revoker& revoker;
  const std::atomic<int64_t>& witnessed;  // coordinator/retention.h; seconds since 1970 UTC

  rpc::Fence Fence() const;
  // OK while the HSM takes changes: active, leading, store not rolled back.
  absl::Status MayChange() const;
  // OK while the HSM serves reads of its keys: active.
  absl::Status MayRead() const;
  // From when retention counts, seconds: no clock that was set back makes it shorter.
  int64_t RetentionNow() const { return std::max(absl::ToUnixSeconds(clock.Now()), witnessed.load()); }
  // The caller's right; a refusal is audited. `key_name` empty: over the whole HSM.
  absl::Status Allow(const Caller& caller, DataAction action, std::string_view operation,
                     std::string_view key_name = {}) const;
};

// Writes the HSM's row, guarded by its being as in `before`, and makes the new view the one in force.
ChangeResult CommitHsm(Core& core, const HsmView& before, const rpc::StoredHsm& after,
                       const AuditFields& audit);

}  // namespace hsm
