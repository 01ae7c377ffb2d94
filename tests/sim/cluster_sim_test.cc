// The whole cluster under many seeds: first faults and callers together (safety), then the faults end and
// everything must come back by itself (liveness). Invariants by their numbers in docs/architecture.md.
#include <gtest/gtest.h>

#include "tests/sim/scenarios.h"
#include "tests/sim/seeds.h"

namespace hsm::testing {
namespace {

TEST(ClusterSimTest, SameSeedSameTrace) {
  for (uint64_t seed : {3, 8}) {
    SeedReport first = RunSeed(seed, CallersUnderFaults);
    SeedReport second = RunSeed(seed, CallersUnderFaults);
    EXPECT_EQ(first.trace_hash, second.trace_hash) << "seed " << seed;
    EXPECT_EQ(first.steps, second.steps);
  }
}

TEST(ClusterSimTest, CallersWithoutFaults) { RunSeeds(SeedsToRun({1, 40}), CallersWithoutFaults); }
TEST(ClusterSimTest, CallersUnderFaults) { RunSeeds(SeedsToRun({1, 160}), CallersUnderFaults); }
TEST(ClusterSimTest, RevocationsAreFinal) { RunSeeds(SeedsToRun({1, 100}), RevocationsAreFinal); }
TEST(ClusterSimTest, AStaleLeaderHasNoEffect) { RunSeeds(SeedsToRun({1, 60}), AStaleLeaderHasNoEffect); }
TEST(ClusterSimTest, WipedNodesComeBack) { RunSeeds(SeedsToRun({1, 60}), WipedNodesComeBack); }
TEST(ClusterSimTest, APlantedWrongKeyNeverServes) {
  RunSeeds(SeedsToRun({1, 40}), APlantedWrongKeyNeverServes);
}
TEST(ClusterSimTest, BackupsAndRestores) { RunSeeds(SeedsToRun({1, 40}), BackupsAndRestores); }

}  // namespace
}  // namespace hsm::testing

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  hsm::testing::ReadSeedFlags(argc, argv);
  return RUN_ALL_TESTS();
}
