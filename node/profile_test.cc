#include "node/profile.h"

#include <gtest/gtest.h>

#include <fstream>

#include "common/error.h"
#include "tests/testing/paths.h"

namespace hsm {
namespace {

constexpr KeySpec kP256{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
constexpr KeySpec kAes{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};

// Time moves only when somebody waits.
class JumpingClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::UnixEpoch() + uptime_; }
  absl::Duration Uptime() const override { return uptime_; }
  bool Await(Mutex&, CondVar&, const std::function<bool()>& ready, absl::Duration timeout) override {
    if (!ready() && advance_) uptime_ += timeout;
    return ready();
  }
  void Freeze() { advance_ = false; }

 private:
  absl::Duration uptime_ = absl::Hours(1);
  bool advance_ = true;
};

ProfileOptions TenSignsASecond() {
  ProfileOptions options;
  options.name = "test";
  options.rates[ProfileOperation::kSign]["P-256"] = 10;
  return options;
}

TEST(DeviceProfileTest, TakesTheDevicesTime) {
  JumpingClock clock;
  absl::Duration begin = clock.Uptime();
  DeviceProfile profile(TenSignsASecond(), clock);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(profile.Serve(ProfileOperation::kSign, kP256).ok());
  EXPECT_EQ(clock.Uptime() - begin, absl::Seconds(2));
}

TEST(DeviceProfileTest, UnpublishedRatesAreNotSlowed) {
  JumpingClock clock;
  absl::Duration begin = clock.Uptime();
  DeviceProfile profile(TenSignsASecond(), clock);
  ASSERT_TRUE(profile.Serve(ProfileOperation::kSign, kAes).ok());
  ASSERT_TRUE(profile.Serve(ProfileOperation::kVerify, kP256).ok());
  EXPECT_EQ(clock.Uptime(), begin);
}

TEST(DeviceProfileTest, LongQueueAnswersBusyWithAdvice) {
  JumpingClock clock;
  clock.Freeze();  // everybody arrives at the same moment
  DeviceProfile profile(TenSignsASecond(), clock);
  absl::Status status;
  int taken = 0;
  while ((status = profile.Serve(ProfileOperation::kSign, kP256)).ok()) ASSERT_LT(++taken, 100);
  EXPECT_EQ(ReasonOf(status), v1::REASON_BUSY);
  EXPECT_GE(DetailOf(status).retry_after_ms(), 2000u);
  EXPECT_EQ(taken, 21);  // starts at 0, 0.1, ... 2.0 s
}

TEST(DeviceProfileTest, ShippedProfilesLoad) {
  for (const char* name : {"azure-managed-hsm", "cloudhsm-hsm2m", "luna-a790"}) {
    auto options = DeviceProfile::Load(SourceDir() + "/deploy/config/profiles/" + name + ".toml");
    ASSERT_TRUE(options.ok()) << options.status();
    EXPECT_EQ(options->name, name);
    EXPECT_FALSE(options->source.empty());
    EXPECT_GT(options->rates.at(ProfileOperation::kSign).at("P-256"), 0);
  }
}

TEST(DeviceProfileTest, MistakesAreNamed) {
  std::string path = testing::TempDir() + "/profile.toml";
  for (const char* text : {"name = \"x\"\nunits = 0\n", "name = \"x\"\n[sign]\n\"P-256\" = -1.0\n",
                           "name = \"x\"\n[sing]\n\"P-256\" = 1.0\n", "units = 1\n"}) {
    std::ofstream(path) << text;
    EXPECT_EQ(ReasonOf(DeviceProfile::Load(path).status()), v1::REASON_CONFIG_INVALID) << text;
  }
}

}  // namespace
}  // namespace hsm
