#include "node/node_time.h"

#include <gtest/gtest.h>

#include "tests/testing/crash_vfs.h"
#include "tests/testing/fake_clock.h"

namespace hsm {
namespace {

class NodeTimeTest : public ::testing::Test {
 protected:
  testing::CrashVfs disk_{"node-time"};
  std::unique_ptr<BlobStore> blobs_ = *BlobStore::Open({.path = "node.db", .vfs = disk_.name()});
};

TEST_F(NodeTimeTest, GoesOnWithTheUptimeOfThisMachine) {
  testing::FakeClock clock;
  const int64_t start = absl::ToUnixSeconds(clock.Now());
  {
    NodeTime time(*blobs_, clock);
    EXPECT_EQ(time.Seconds(), start);
    clock.Advance(absl::Hours(1));
    ASSERT_TRUE(time.KeepDurably().ok());
  }
  clock.Advance(absl::Hours(2));  // no process is there
  clock.JumpWallClock(absl::Hours(10'000));
  NodeTime again(*blobs_, clock);
  EXPECT_EQ(again.Seconds(), start + 3 * 3'600);
}

TEST_F(NodeTimeTest, AMachineThatRestartedCountsFromItsStart) {
  testing::FakeClock before(absl::FromUnixSeconds(1'800'000'000), absl::Hours(1'000));
  {
    NodeTime time(*blobs_, before);
    ASSERT_TRUE(time.KeepDurably().ok());
  }
  testing::FakeClock after(absl::FromUnixSeconds(1'900'000'000), absl::Minutes(5));
  EXPECT_EQ(NodeTime(*blobs_, after).Seconds(), 1'800'000'000 + 300);
}

TEST_F(NodeTimeTest, IsWrittenOnceAMinute) {
  testing::FakeClock clock;
  NodeTime time(*blobs_, clock);
  ASSERT_TRUE(time.KeepDurably().ok());
  const std::string first = blobs_->State("witnessed");
  clock.Advance(absl::Seconds(59));
  ASSERT_TRUE(time.KeepDurably().ok());
  EXPECT_EQ(blobs_->State("witnessed"), first);
  clock.Advance(absl::Seconds(1));
  ASSERT_TRUE(time.KeepDurably().ok());
  EXPECT_NE(blobs_->State("witnessed"), first);
}

}  // namespace
}  // namespace hsm
