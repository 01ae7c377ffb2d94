#include "common/virtual_clock.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "common/error.h"
#include "common/file.h"
#include "common/thread.h"
#include "tests/testing/eventually.h"
#include "tests/testing/fake_clock.h"

namespace hsm {
namespace {

TEST(VirtualClockTest, PassesAndJumps) {
  testing::FakeClock base;
  VirtualClock clock(base);
  const absl::Time now = base.Now();
  const absl::Duration uptime = base.Uptime();
  clock.Pass(absl::Hours(48));
  EXPECT_EQ(clock.Now(), now + absl::Hours(48));
  EXPECT_EQ(clock.Uptime(), uptime + absl::Hours(48));
  clock.Jump(-absl::Hours(100));
  EXPECT_EQ(clock.Now(), now - absl::Hours(52));
  EXPECT_EQ(clock.Uptime(), uptime + absl::Hours(48));
}

TEST(VirtualClockTest, AwaitEndsWhenItsTimeHasPassed) {
  VirtualClock clock(RealClock());
  Mutex mutex;
  CondVar changed;
  std::atomic<bool> waits{false};
  Thread pusher("pusher", [&] {
    EXPECT_TRUE(testing::Eventually([&] { return waits.load(); }));
    clock.Pass(absl::Hours(1));
  });
  MutexLock lock(mutex);
  auto never = [&] {
    waits = true;
    return false;
  };
  EXPECT_FALSE(clock.Await(mutex, changed, never, absl::Minutes(59)));
}

class FollowTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/virtual-clock-XXXXXX";
    directory_ = mkdtemp(name);
    path_ = JoinPath(directory_, "clock");
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string directory_, path_;
};

TEST_F(FollowTest, FollowsItsFileAndNeverBackwards) {
  testing::FakeClock base;
  ASSERT_TRUE(WriteClockShift(path_, {absl::Hours(1), -absl::Hours(5)}).ok());
  auto clock = VirtualClock::Follow(base, path_);
  ASSERT_TRUE(clock.ok()) << clock.status();
  EXPECT_EQ((*clock)->Uptime(), base.Uptime() + absl::Hours(1));
  EXPECT_EQ((*clock)->Now(), base.Now() - absl::Hours(4));
  ASSERT_TRUE(WriteClockShift(path_, {absl::Minutes(1), absl::ZeroDuration()}).ok());
  base.Advance(absl::Seconds(1));
  EXPECT_EQ((*clock)->Uptime(), base.Uptime() + absl::Hours(1));
  std::filesystem::remove(path_);
  base.Advance(absl::Seconds(1));
  EXPECT_EQ((*clock)->Uptime(), base.Uptime() + absl::Hours(1));
}

TEST_F(FollowTest, AFileThatIsNoneIsRefused) {
  testing::FakeClock base;
  EXPECT_FALSE(VirtualClock::Follow(base, path_).ok());
  for (const char* bad : {"", "1", "1 2 3", "x y", "-1 0", "0 99999999999999"}) {
    ASSERT_TRUE(WriteFileAtomic(path_, ToBytes(bad)).ok());
    EXPECT_EQ(ReasonOf(VirtualClock::Follow(base, path_).status()), v1::REASON_CONFIG_INVALID) << bad;
  }
}

}  // namespace
}  // namespace hsm
