#include "common/witnessed_time.h"

#include <gtest/gtest.h>

namespace hsm {
namespace {

constexpr int64_t kStart = 1'800'000'000;
const absl::Duration kUp = absl::Hours(5);

WitnessedTime::Uptimes Of(absl::Duration p1, absl::Duration p2, absl::Duration p3) {
  return {{"p1", p1}, {"p2", p2}, {"p3", p3}};
}

TEST(WitnessedTimeTest, RunsWithThisMachineAlone) {
  WitnessedTime time(kStart, kUp);
  EXPECT_EQ(time.Advance(kUp + absl::Minutes(1), {}), kStart + 60);
  EXPECT_EQ(time.Advance(kUp + absl::Minutes(1), {}), kStart + 60);
  EXPECT_EQ(time.Advance(absl::Seconds(5), {}), kStart + 60) << "this machine has restarted";
  EXPECT_EQ(time.Advance(absl::Seconds(9), {}), kStart + 64);
}

TEST(WitnessedTimeTest, AMachineThatRunsFastHurriesNothing) {
  WitnessedTime time(kStart, kUp);
  const absl::Duration a = absl::Hours(1), day = absl::Hours(24);
  time.Advance(kUp, Of(a, a, a));
  EXPECT_EQ(time.Advance(kUp + day, Of(a + absl::Minutes(1), a + absl::Minutes(1), a + day)), kStart + 60)
      << "this machine and p3 are fast";
  EXPECT_EQ(time.Unconfirmed(kUp + day), day - absl::Minutes(1));
  EXPECT_EQ(time.Advance(kUp + day, Of(a + day, a + absl::Minutes(2), a + day)), kStart + 86'400)
      << "what most have lived through counts, also when it is heard of late";
}

TEST(WitnessedTimeTest, APartitionThatIsNewCountsFromThen) {
  WitnessedTime time(kStart, kUp);
  const absl::Duration minute = absl::Minutes(1);
  EXPECT_EQ(time.Advance(kUp + 2 * minute, {{"p1", absl::Hours(1)}}), kStart + 120) << "nobody else yet";
  EXPECT_EQ(time.Advance(kUp + 3 * minute, {{"p1", absl::Hours(1) + minute}}), kStart + 180);
}

TEST(WitnessedTimeTest, APartitionThatRestartsCountsFromThen) {
  WitnessedTime time(kStart, kUp);
  time.Advance(kUp, {{"p1", absl::Hours(1'000)}});
  EXPECT_EQ(time.Advance(kUp + absl::Minutes(30), {{"p1", absl::Minutes(1)}}), kStart);
  EXPECT_EQ(time.Advance(kUp + absl::Minutes(31), {{"p1", absl::Minutes(2)}}), kStart + 60);
}

TEST(WitnessedTimeTest, APartitionThatWasAwayDoesNotStopIt) {
  WitnessedTime time(kStart, kUp);
  const absl::Duration a = absl::Hours(1), step = absl::Minutes(1);
  time.Advance(kUp, Of(a, a, a));
  EXPECT_EQ(time.Advance(kUp + step, {{"p1", a + step}, {"p2", a + step}}), kStart + 60);
  EXPECT_EQ(time.Advance(kUp + 2 * step, Of(a + 2 * step, a + 2 * step, a + 2 * step)), kStart + 120);
}

TEST(WitnessedTimeTest, GoesOnByWhatThePartitionsHaveLivedThrough) {
  WitnessedTime time(kStart, kUp);
  const absl::Duration a = absl::Hours(10);
  time.Resume(Of(a, a, a), Of(a + absl::Hours(1), absl::Minutes(7), a + absl::Hours(200)));
  EXPECT_EQ(time.seconds(), kStart + 3'600) << "p2 has restarted, p3 is fast";
  EXPECT_EQ(time.Advance(kUp + absl::Minutes(1), {{"p1", a + absl::Minutes(61)}}), kStart + 3'660);
  WitnessedTime strangers(kStart, kUp);
  strangers.Resume({{"p9", a}}, Of(a, a, a));
  EXPECT_EQ(strangers.seconds(), kStart);
}

}  // namespace
}  // namespace hsm
