// The helper process as its parent sees it. This program is its own helper: run with "helper" it acts as one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/check.h"
#include "common/error.h"
#include "node/helper.h"
#include "tests/testing/softhsm.h"

namespace hsm {
namespace {

using internal::v1::HelperFrame;

std::string Name(const absl::Status& status) { return std::string(ReasonName(ReasonOf(status))); }
const absl::Duration kLong = absl::Seconds(60);

// The "configuration file" of this test: SoftHSM directory and label, one a line.
int HelperMain(char** arguments) {
  std::ifstream in(arguments[3]);
  std::string directory, label;
  std::getline(in, directory);
  std::getline(in, label);
  TokenConfig config;
  config.module = kSoftHsmModule;
  config.label = label;
  config.pin_file = directory + "/pin";
  config.so_pin_file = directory + "/so_pin";
  config.environment["SOFTHSM2_CONF"] = directory + "/softhsm2.conf";
  auto mode = ParseHelperMode(arguments[5]);
  HSM_CHECK(mode.ok());
  return RunHelper(*mode, config, directory + "/data-" + label, STDIN_FILENO, STDOUT_FILENO);
}

class HelperTest : public ::testing::Test {
 protected:
  std::string ConfigFile(const std::string& label) {
    std::string path = softhsm_.directory() + "/" + label + ".config";
    std::ofstream(path) << softhsm_.directory() << "\n" << label << "\n";
    std::filesystem::create_directories(softhsm_.directory() + "/data-" + label);
    return path;
  }
  absl::Status Start(HelperProcess& helper, const std::string& label, HelperMode mode) {
    return helper.Start("/proc/self/exe", ConfigFile(label), mode);
  }
  HelperFrame MakeDomain() {
    HelperFrame frame;
    frame.mutable_make_domain()->set_hsm_id(TestHsmId().Raw());
    frame.mutable_make_domain()->set_generation(1);
    return frame;
  }
  internal::v1::DomainBundle Make(const std::string& label) {
    HelperProcess helper;
    EXPECT_TRUE(Start(helper, label, HelperMode::kMakeDomain).ok());
    EXPECT_TRUE(helper.Write(MakeDomain(), kLong).ok());
    auto answer = helper.Read(kLong);
    EXPECT_TRUE(answer.ok()) << answer.status();
    auto done = helper.Read(kLong);
    EXPECT_TRUE(done.ok() && done->has_done());
    EXPECT_TRUE(helper.Wait(kLong).ok());
    return answer.ok() ? answer->bundle() : internal::v1::DomainBundle();
  }
  SoftHsm softhsm_;
};

TEST_F(HelperTest, DomainTravelsFromOneTokenToAnother) {
  internal::v1::DomainBundle bundle = Make("one");
  ASSERT_EQ(bundle.hsm_id(), TestHsmId().Raw());

  HelperProcess joiner;
  ASSERT_TRUE(Start(joiner, "two", HelperMode::kProvisionAndJoin).ok());
  HelperFrame join;
  join.mutable_join()->set_hsm_id(TestHsmId().Raw());
  join.mutable_join()->set_generation(1);
  ASSERT_TRUE(joiner.Write(join, kLong).ok());
  auto join_key = joiner.Read(kLong);
  ASSERT_TRUE(join_key.ok() && join_key->has_join_key()) << join_key.status();

  HelperProcess sponsor;
  ASSERT_TRUE(Start(sponsor, "one", HelperMode::kSponsor).ok());
  HelperFrame ask;
  ask.mutable_sponsor()->set_spki(join_key->join_key().spki());
  ask.mutable_sponsor()->set_oaep_hash(join_key->join_key().oaep_hash());
  ask.mutable_sponsor()->set_so_pin("3141592653");
  ASSERT_TRUE(sponsor.Write(ask, kLong).ok());
  auto keks = sponsor.Read(kLong);
  ASSERT_TRUE(keks.ok() && keks->has_keks()) << keks.status();
  ASSERT_TRUE(sponsor.Read(kLong).ok());
  EXPECT_TRUE(sponsor.Wait(kLong).ok());

  HelperFrame install;
  *install.mutable_install()->mutable_keks() = keks->keks();
  *install.mutable_install()->mutable_bundle() = bundle;
  ASSERT_TRUE(joiner.Write(install, kLong).ok());
  auto done = joiner.Read(kLong);
  ASSERT_TRUE(done.ok() && done->has_done()) << done.status();
  EXPECT_EQ(done->done().domain_tag(), TestHsmId().ToHex() + ":1");
  EXPECT_TRUE(joiner.Wait(kLong).ok());
}

TEST_F(HelperTest, WrongSoPinIsNamed) {
  Make("one");
  std::ofstream(softhsm_.directory() + "/so_pin") << "0000000000";
  HelperProcess helper;
  ASSERT_TRUE(Start(helper, "one", HelperMode::kMakeDomain).ok());
  ASSERT_TRUE(helper.Write(MakeDomain(), kLong).ok());
  EXPECT_EQ(Name(helper.Read(kLong).status()), "PIN_INCORRECT");
  EXPECT_EQ(Name(helper.Wait(kLong)), "UNREACHABLE");
}

TEST_F(HelperTest, OneHelperAtATime) {
  HelperProcess first, second;
  ASSERT_TRUE(Start(first, "one", HelperMode::kProvisionAndJoin).ok());
  HelperFrame join;
  join.mutable_join()->set_hsm_id(TestHsmId().Raw());
  join.mutable_join()->set_generation(1);
  ASSERT_TRUE(first.Write(join, kLong).ok());
  ASSERT_TRUE(first.Read(kLong).ok());  // it waits for the hand-over, lock in hand
  ASSERT_TRUE(Start(second, "one", HelperMode::kMakeDomain).ok());
  EXPECT_EQ(Name(second.Read(kLong).status()), "LOCKED");
}

TEST_F(HelperTest, UnexpectedFramesAndSilenceAreErrors) {
  HelperProcess helper;
  ASSERT_TRUE(Start(helper, "one", HelperMode::kSponsor).ok());
  EXPECT_EQ(Name(helper.Read(absl::Milliseconds(50)).status()), "DEADLINE_EXCEEDED");
  ASSERT_TRUE(helper.Write(MakeDomain(), kLong).ok());
  EXPECT_EQ(Name(helper.Read(kLong).status()), "INVALID_ARGUMENT");
}

TEST_F(HelperTest, HelperEndsWhenItsParentLetsGo) {
  HelperProcess helper;
  ASSERT_TRUE(Start(helper, "one", HelperMode::kSponsor).ok());
  EXPECT_EQ(Name(helper.Wait(kLong)), "UNREACHABLE");  // it reports that its input ended and exits
}

TEST_F(HelperTest, MissingProgramIsUnreachable) {
  HelperProcess helper;
  ASSERT_TRUE(helper.Start("/nonexistent", "x", HelperMode::kSponsor).ok());
  EXPECT_EQ(Name(helper.Read(kLong).status()), "UNREACHABLE");
}

TEST(FrameTest, OversizedFrameIsRefused) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const uint8_t header[] = {0xff, 0xff, 0xff, 0xff};
  ASSERT_EQ(write(ends[1], header, 4), 4);
  EXPECT_EQ(Name(ReadFrame(ends[0], absl::Seconds(1)).status()), "LIMIT_EXCEEDED");
  const uint8_t cut_off[] = {0, 0, 0, 9, 1};
  ASSERT_EQ(write(ends[1], cut_off, 5), 5);
  close(ends[1]);
  EXPECT_EQ(Name(ReadFrame(ends[0], absl::Seconds(1)).status()), "UNREACHABLE");
  close(ends[0]);
}

}  // namespace
}  // namespace hsm

int main(int argc, char** argv) {
  if (argc == 6 && std::string_view(argv[1]) == "helper") return hsm::HelperMain(argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
