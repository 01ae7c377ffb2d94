#include "coordinator/routing.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace hsm {
namespace {

uint64_t Bits(uint32_t first, uint32_t second) { return static_cast<uint64_t>(second) << 32 | first; }

TEST(ChoosePartitionTest, TakesTheLessLoadedOfTwo) {
  std::vector<RouteLoad> loads = {{true, 5}, {true, 2}, {true, 9}};
  EXPECT_EQ(ChoosePartition(loads, Bits(0, 0)), 1);  // drawn: 0 and 1
  EXPECT_EQ(ChoosePartition(loads, Bits(0, 1)), 0);  // drawn: 0 and 2
  EXPECT_EQ(ChoosePartition(loads, Bits(2, 1)), 1);  // drawn: 2 and 1
}

TEST(ChoosePartitionTest, LeavesTheIneligibleOut) {
  EXPECT_EQ(ChoosePartition(std::vector<RouteLoad>{{false, 0}, {true, 100}, {false, 0}}, Bits(7, 3)), 1);
  EXPECT_EQ(ChoosePartition(std::vector<RouteLoad>{{false, 0}, {false, 0}}, Bits(7, 3)), -1);
}

TEST(ChoosePartitionTest, CountsABusyOneAsMoreLoaded) {
  std::vector<RouteLoad> loads = {{true, 1, true}, {true, 4, false}};
  EXPECT_EQ(ChoosePartition(loads, Bits(0, 0)), 1);
  loads[1].in_flight = 40;
  EXPECT_EQ(ChoosePartition(loads, Bits(0, 0)), 0);
}

TEST(ChoosePartitionTest, SpreadsOverAllWhenEquallyLoaded) {
  std::vector<RouteLoad> loads = {{true, 3}, {true, 3}, {true, 3}};
  std::array<int, 3> chosen{};
  for (uint32_t i = 0; i < 3'000; ++i) ++chosen[static_cast<size_t>(ChoosePartition(loads, Bits(i, i / 3)))];
  for (int times : chosen) EXPECT_GT(times, 800);
}

absl::Duration At(double seconds) { return absl::Seconds(100) + absl::Seconds(seconds); }

TEST(BreakerTest, OpensAfterFiveFailures) {
  Breaker breaker;
  for (int i = 0; i < 4; ++i) breaker.OnResult(false, 1, At(0));
  EXPECT_TRUE(breaker.Admit(At(0)));
  breaker.OnResult(false, 1, At(0));
  EXPECT_EQ(breaker.state(), Breaker::State::kOpen);
  EXPECT_FALSE(breaker.Admit(At(0.5)));
}

TEST(BreakerTest, OpensAtThirtyPercent) {
  Breaker breaker;
  breaker.OnResult(true, 6, At(0));
  for (int i = 0; i < 3; ++i) breaker.OnResult(false, 1, At(1));
  EXPECT_EQ(breaker.state(), Breaker::State::kClosed);
  breaker.OnResult(false, 1, At(1));  // 4 of 10
  EXPECT_EQ(breaker.state(), Breaker::State::kOpen);
}

TEST(BreakerTest, ForgetsOldFailures) {
  Breaker breaker;
  for (int i = 0; i < 4; ++i) breaker.OnResult(false, 1, At(0));
  for (int i = 0; i < 4; ++i) breaker.OnResult(false, 1, At(11));
  EXPECT_EQ(breaker.state(), Breaker::State::kClosed);
}

TEST(BreakerTest, ComesBackAfterThreeGoodProbes) {
  Breaker breaker;
  for (int i = 0; i < 5; ++i) breaker.OnResult(false, 1, At(0));
  for (int probe = 0; probe < 3; ++probe) {
    ASSERT_TRUE(breaker.Admit(At(2)));
    EXPECT_FALSE(breaker.Admit(At(2))) << "one probe at a time";
    breaker.OnResult(true, 1, At(2));
  }
  EXPECT_EQ(breaker.state(), Breaker::State::kClosed);
}

TEST(BreakerTest, ABadProbeDoublesThePause) {
  Breaker breaker;
  for (int i = 0; i < 5; ++i) breaker.OnResult(false, 1, At(0));
  ASSERT_TRUE(breaker.Admit(At(1)));
  breaker.OnResult(false, 1, At(1));
  EXPECT_FALSE(breaker.Admit(At(2.5)));
  EXPECT_TRUE(breaker.Admit(At(3.1)));
}

TEST(BreakerTest, ALostProbeDoesNotLockOutForEver) {
  Breaker breaker;
  for (int i = 0; i < 5; ++i) breaker.OnResult(false, 1, At(0));
  ASSERT_TRUE(breaker.Admit(At(1)));
  EXPECT_FALSE(breaker.Admit(At(5)));
  EXPECT_TRUE(breaker.Admit(At(6.5)));
}

}  // namespace
}  // namespace hsm
