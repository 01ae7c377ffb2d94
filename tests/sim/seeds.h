#pragma once
// Runs one simulated scenario under many seeds. Each block of seeds is a child process, for what crashed
// processes of the simulation leave behind is leaked, and so that a broken invariant (HSM_CHECK) is a finding
// like any other.
#include <functional>
#include <string>

#include "tests/testing/seeded_random.h"
#include "tests/testing/sim_scheduler.h"

namespace hsm::testing {

using Scenario = std::function<void(SimScheduler&)>;

struct SeedReport {
  uint64_t seed = 0;
  uint64_t trace_hash = 0;
  uint64_t steps = 0;
  absl::Duration simulated;
  std::string failure;  // empty = the scenario held
  std::string notes;
};
SeedReport RunSeed(uint64_t seed, const Scenario& scenario);

// Adds a gtest failure for the first seed that fails, with its number, its last events and how to run it
// again; stops there. Prints seeds, simulated time and speed.
void RunSeeds(const SeedRange& seeds, const Scenario& scenario);

// The first seed of the range that fails, 0 if none; says nothing about it. For seeded bugs.
uint64_t FirstFailingSeed(const SeedRange& seeds, const Scenario& scenario, std::string* failure);

}  // namespace hsm::testing
