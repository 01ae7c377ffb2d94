#include "coordinator/membership.h"

#include <gtest/gtest.h>

#include <functional>

namespace hsm {
namespace {

const MembershipTimes kTimes{absl::Seconds(2), absl::Seconds(5), absl::Seconds(10)};
const absl::Duration kNow = absl::Seconds(100);

PartitionFacts Healthy() {
  PartitionFacts facts;
  facts.last_heartbeat = kNow - absl::Seconds(1);
  facts.node = internal::v1::NODE_STATE_SERVING;
  facts.synced = true;
  facts.right_hsm = true;
  return facts;
}

struct Case {
  const char* name;
  std::function<void(PartitionFacts&)> set;
  v1::PartitionState want;
};
class DecideStateTest : public ::testing::TestWithParam<Case> {};

TEST_P(DecideStateTest, FollowsTheFacts) {
  PartitionFacts facts = Healthy();
  GetParam().set(facts);
  EXPECT_EQ(DecideState(facts, kTimes, kNow), GetParam().want);
}

INSTANTIATE_TEST_SUITE_P(
    Membership, DecideStateTest,
    ::testing::Values(
        Case{"Healthy", [](PartitionFacts&) {}, v1::PARTITION_STATE_READY},
        Case{"NotSynced", [](PartitionFacts& f) { f.synced = false; }, v1::PARTITION_STATE_SYNCING},
        Case{"Quiet", [](PartitionFacts& f) { f.last_heartbeat = kNow - absl::Seconds(3); },
             v1::PARTITION_STATE_SUSPECT},
        Case{"Silent", [](PartitionFacts& f) { f.last_heartbeat = kNow - absl::Seconds(5); },
             v1::PARTITION_STATE_DOWN},
        Case{"NeverHeardOf", [](PartitionFacts& f) { f.last_heartbeat.reset(); }, v1::PARTITION_STATE_DOWN},
        Case{"Errors", [](PartitionFacts& f) { f.breaker_open = true; }, v1::PARTITION_STATE_SUSPECT},
        Case{"Drained", [](PartitionFacts& f) { f.drained = true; }, v1::PARTITION_STATE_DRAINED},
        Case{"Sponsoring", [](PartitionFacts& f) { f.sponsoring = true; }, v1::PARTITION_STATE_DRAINED},
        Case{"DrainsItself", [](PartitionFacts& f) { f.node = internal::v1::NODE_STATE_DRAINING; },
             v1::PARTITION_STATE_DRAINED},
        Case{"WaitsForDomain", [](PartitionFacts& f) { f.node = internal::v1::NODE_STATE_NO_DOMAIN; },
             v1::PARTITION_STATE_STARTING},
        Case{"OtherHsm", [](PartitionFacts& f) { f.right_hsm = false; }, v1::PARTITION_STATE_STARTING},
        Case{"RefusedItself", [](PartitionFacts& f) { f.node = internal::v1::NODE_STATE_REFUSED; },
             v1::PARTITION_STATE_REFUSED},
        Case{"RefusedEvenWhenSilent",
             [](PartitionFacts& f) {
               f.refused = "wrong key";
               f.last_heartbeat.reset();
             },
             v1::PARTITION_STATE_REFUSED}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(DecideStateTest, SilenceSaysNothingJustAfterTheStart) {
  PartitionFacts facts;
  EXPECT_EQ(DecideState(facts, kTimes, absl::Seconds(12)), v1::PARTITION_STATE_STARTING);
}

TEST(TakesRecordsTest, OnlyWhereTheDomainIs) {
  PartitionFacts facts = Healthy();
  EXPECT_TRUE(TakesRecords(v1::PARTITION_STATE_SYNCING, facts));
  EXPECT_FALSE(TakesRecords(v1::PARTITION_STATE_DOWN, facts));
  EXPECT_FALSE(TakesRecords(v1::PARTITION_STATE_REFUSED, facts));
  facts.right_hsm = false;
  EXPECT_FALSE(TakesRecords(v1::PARTITION_STATE_READY, facts));
}

}  // namespace
}  // namespace hsm
