#include "coordinator/barrier.h"

#include <gtest/gtest.h>

#include <vector>

namespace hsm {
namespace {

const absl::Duration kNow = absl::Seconds(100);
const BarrierPart kTaken{.taken = true};
const BarrierPart kOpen{};
BarrierPart Missed(absl::Duration lease_until) { return {.missed = true, .lease_until = lease_until}; }

TEST(BarrierTest, HoldsWhenAllHaveTakenIt) {
  BarrierVerdict verdict = JudgeBarrier(std::vector{kTaken, kTaken, kTaken}, kNow);
  EXPECT_TRUE(verdict.holds);
  EXPECT_EQ(verdict.taken, 3u);
}

TEST(BarrierTest, AMajorityIsNotEnough) {
  BarrierVerdict verdict = JudgeBarrier(std::vector{kTaken, kTaken, kOpen}, kNow);
  EXPECT_FALSE(verdict.holds);
  EXPECT_FALSE(verdict.wait_until.has_value()) << "nobody knows yet whether that one took it";
}

TEST(BarrierTest, WaitsForTheLeaseOfOneThatMissedIt) {
  std::vector<BarrierPart> parts = {kTaken, Missed(kNow + absl::Seconds(2)), kTaken};
  BarrierVerdict verdict = JudgeBarrier(parts, kNow);
  EXPECT_FALSE(verdict.holds);
  EXPECT_EQ(verdict.wait_until, kNow + absl::Seconds(2));
  EXPECT_TRUE(JudgeBarrier(parts, kNow + absl::Seconds(2)).holds);
}

TEST(BarrierTest, HoldsWithNobodyThereOnceAllLeasesAreOver) {
  EXPECT_TRUE(JudgeBarrier(std::vector{Missed(kNow), Missed(kNow - absl::Seconds(9))}, kNow).holds);
}

TEST(BarrierTest, AMissedOneOfUnknownLeaseBlocks) {
  EXPECT_FALSE(JudgeBarrier(std::vector{BarrierPart{.missed = true}}, kNow).holds);
}

}  // namespace
}  // namespace hsm
