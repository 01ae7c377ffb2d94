#pragma once
#include <memory>

#include "tests/sim/sim_cluster.h"

namespace hsm::testing {

// Which faults a scenario allows; a weight each.
struct NemesisOptions {
  uint32_t kill_node = 3, power_loss = 2, wipe_node = 1;
  uint32_t kill_coordinator = 2;
  uint32_t netsplit = 2;
  uint32_t bad_network = 3;
  uint32_t store_faults = 2;
  uint32_t pause_node = 1;
  uint32_t token_faults = 2;
  absl::Duration pause_max = absl::Seconds(4);  // between two faults
};

// Makes faults, one after the other with overlaps, until `*stop`; then sets `*stopped`. Everything it broke
// is put right by HealAll.
void StartNemesis(SimCluster& cluster, const NemesisOptions& options, std::shared_ptr<bool> stop,
                  std::shared_ptr<bool> stopped);
void HealAll(SimCluster& cluster);

// The safety phase (callers and faults together), then the liveness phase: faults off, callers finish, the
// cluster must be whole again within a minute.
bool SettleDown(SimCluster& cluster, std::shared_ptr<int> callers_left, std::shared_ptr<bool> stop,
                std::shared_ptr<bool> stopped);

}  // namespace hsm::testing
