#include "coordinator/throughput.h"

#include <gtest/gtest.h>

namespace hsm {
namespace {

// Samples every 100 ms; `per_stretch` are the operations of each second, by one partition.
std::vector<OpsSample> Samples(const std::vector<uint64_t>& per_stretch) {
  std::vector<OpsSample> samples{{absl::ZeroDuration(), {0}, {4}}};
  for (uint64_t operations : per_stretch) {
    for (int i = 0; i < 10; ++i) {
      samples.push_back(
          {samples.back().at + absl::Milliseconds(100), {samples.back().done[0] + operations / 10}, {4}});
    }
  }
  return samples;
}

TEST(ThroughputTest, AWindowIsWhatHappenedBetweenItsEnds) {
  const auto window = WindowOf(Samples({100, 200}));
  ASSERT_TRUE(window);
  EXPECT_EQ(window->operations, 300u);
  EXPECT_DOUBLE_EQ(window->operations_per_second(), 150);
  EXPECT_DOUBLE_EQ(window->in_flight, 4);
}

TEST(ThroughputTest, OneSampleIsNoWindow) { EXPECT_FALSE(WindowOf(Samples({}))); }

struct SteadyCase {
  const char* name;
  std::vector<uint64_t> per_second;
  double want_seconds, want_rate;
};
class SteadyEndTest : public testing::TestWithParam<SteadyCase> {};

TEST_P(SteadyEndTest, TakesTheLongestSteadyPart) {
  const auto window = SteadyEnd(Samples(GetParam().per_second), absl::Seconds(1));
  ASSERT_TRUE(window);
  EXPECT_NEAR(absl::ToDoubleSeconds(window->length), GetParam().want_seconds, 0.01);
  EXPECT_NEAR(window->operations_per_second(), GetParam().want_rate, 0.1);
}

INSTANTIATE_TEST_SUITE_P(Throughput, SteadyEndTest,
                         testing::Values(SteadyCase{"LoadJustBegan", {0, 0, 0, 1000}, 1, 1000},
                                         SteadyCase{"LoadJustEnded", {1000, 1000, 0}, 1, 0},
                                         SteadyCase{"Steady", {1000, 1000, 1000}, 3, 1000},
                                         SteadyCase{"LittleNoise", {1000, 1100, 1000}, 3, 1033.3},
                                         SteadyCase{
                                             "NotBeyondFive", {500, 500, 500, 500, 500, 500, 500}, 5, 500}),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST(ThroughputTest, WithoutAWholeWindowThereIsNoBaseline) {
  std::vector<OpsSample> samples = Samples({100});
  samples.pop_back();
  EXPECT_FALSE(SteadyEnd(samples, absl::Seconds(1)));
}

// A model of what the keeper acts on: an export that runs all the time costs a third of the throughput.
double RatioAt(double duty) { return 1 - duty / 3; }

TEST(FloorKeeperTest, HoldsTheFloorFromTheStart) {
  FloorKeeper keeper(0.8, RatioAt(1));
  double sum = 0;
  int calls = 0;
  for (; calls < 500; ++calls) {
    const double live = RatioAt(keeper.duty());
    sum += live;
    keeper.Pause(live, sum / (calls + 1), absl::Milliseconds(50));
    EXPECT_GE(sum / (calls + 1), 0.8);
  }
  EXPECT_GT(keeper.duty(), 0.3);  // and does not starve the export either
}

TEST(FloorKeeperTest, RestsLongerTheLowerTheDuty) {
  FloorKeeper keeper(0.9, 0.6);
  const absl::Duration before = keeper.Pause(0.95, 0.95, absl::Milliseconds(100));
  const absl::Duration after = keeper.Pause(0.5, 0.5, absl::Milliseconds(100));
  EXPECT_GT(after, before);
}

}  // namespace
}  // namespace hsm
