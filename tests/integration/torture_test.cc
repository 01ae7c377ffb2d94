// A real cluster, signing without a pause, while faults are drawn from a seed: partitions killed, stopped,
// started in the middle of a start, tokens wiped, the coordinator killed, backups under all of it. After each
// round:
//   - no signing call has failed while a quorum of partitions was left alone (rounds that spare the
//   coordinator);
//   - every key whose creation was acknowledged is proved on each partition;
//   - a create that was not acknowledged exists whole or not at all.
// QHSM_TORTURE_SECONDS is the length (600), QHSM_SEED the seed (a new one each time).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <vector>

#include "common/clock.h"
#include "common/random.h"
#include "tests/integration/load.h"
#include "tests/testing/seeded_random.h"

namespace hsm::testing {
namespace {

constexpr const char* kPartitions[] = {"p1", "p2", "p3"};

absl::Duration Length() {
  const char* seconds = std::getenv("QHSM_TORTURE_SECONDS");
  return absl::Seconds(seconds == nullptr ? 600 : std::strtoull(seconds, nullptr, 10));
}

class TortureTest : public ::testing::Test {
 public:  // the table of faults takes pointers to its members
  TortureTest() : seed_(SeedsToRun({SystemRandom().Below(1'000'000), 1}).first), random_(seed_) {}

  void SetUp() override {
    fmt::print("seed {}\n", seed_);
    RecordProperty("seed", std::to_string(seed_));
    cluster_ = DevCluster::Up();
    ASSERT_NE(cluster_, nullptr);
    Create();
    ASSERT_EQ(keys_.size(), 1u) << "the first key could not be made";
  }

  std::string Partition() { return kPartitions[random_.Below(3)]; }
  void PauseAtMost(int milliseconds) {
    PauseFor(absl::Milliseconds(static_cast<int64_t>(random_.Below(static_cast<uint64_t>(milliseconds)))));
  }

  // One more key. Under a fault it may fail; what was acknowledged must stay.
  void Create() {
    const std::string name = fmt::format("key-{}", ++tried_);
    Ended made = cluster_->Qhsm({"key", "create", "--name", name, "--kty", "EC-HSM", "-o", "json"});
    (made.exit_code == 0 ? keys_ : unknown_).push_back(name);
  }

  void KillAndStart() {
    const std::string victim = Partition();
    cluster_->Kill(victim);
    PauseAtMost(2'000);
    Create();
    cluster_->Start(victim);
  }
  void KillWhileItStarts() {
    const std::string victim = Partition();
    for (int i = 0; i < 3; ++i) {
      cluster_->Kill(victim);
      cluster_->Start(victim);
      PauseAtMost(700);
    }
  }
  void StopAndGoOn() {
    const std::string victim = Partition();
    cluster_->Kill(victim, "STOP");
    PauseAtMost(5'000);
    Create();
    cluster_->Start(victim);
  }
  void WipeToken() {
    const std::string victim = Partition();
    cluster_->Kill(victim);
    for (const auto& entry : std::filesystem::directory_iterator(cluster_->Folder(victim + "/tokens"))) {
      std::filesystem::remove_all(entry);
    }
    cluster_->Start(victim);
    Create();
  }
  void BackupUnderKill() {
    const std::string victim = Partition();
    const std::string target = cluster_->Folder("backups");
    Ended backup;
    {
      Thread job("backup", [&] {
        backup =
            cluster_->Qhsm({"backup", "start", "--target", target, "--wait", "-o", "json"}, absl::Minutes(3));
      });
      PauseAtMost(1'500);
      cluster_->Kill(victim);
      PauseAtMost(1'500);
      cluster_->Start(victim);
    }
    EXPECT_EQ(backup.exit_code, 0) << backup.out << backup.err;
    ++backups_;
  }
  void KillCoordinator() {
    cluster_->Kill("coordinator");
    PauseAtMost(1'000);
    cluster_->Start("coordinator");
  }
  void LoseQuorum() {
    const uint64_t spared = random_.Below(3);
    for (uint64_t i = 0; i < 3; ++i) {
      if (i != spared) cluster_->Kill(kPartitions[i]);
    }
    Create();
    for (uint64_t i = 0; i < 3; ++i) {
      if (i != spared) cluster_->Start(kPartitions[i]);
    }
  }

  // A create of unknown outcome has one by now; then it holds what every other key holds.
  void SettleUnknown() {
    for (const std::string& name : unknown_) {
      if (cluster_->Qhsm({"key", "show", "--name", name, "-o", "json"}).exit_code == 0) keys_.push_back(name);
    }
    unknown_.clear();
  }
  void CheckKeys() {
    ASSERT_TRUE(cluster_->AwaitReady(absl::Seconds(120)));
    SettleUnknown();
    for (const std::string& name : keys_) {
      const Json proofs = cluster_->Answer({"key", "prove", "--name", name});
      ASSERT_EQ(At(proofs, "partitions[].result"), R"(["proved","proved","proved"])")
          << name << ": " << proofs.Dump();
    }
  }

  const uint64_t seed_;
  SeededRandom random_;
  std::unique_ptr<DevCluster> cluster_;
  std::vector<std::string> keys_, unknown_;
  int tried_ = 0, backups_ = 0;
};

TEST_F(TortureTest, FaultsUnderLoad) {
  struct Fault {
    const char* name;
    void (TortureTest::*act)();
    bool callers_notice;  // signing may fail meanwhile
  };
  const Fault faults[] = {{"kill", &TortureTest::KillAndStart, false},
                          {"kill while it starts", &TortureTest::KillWhileItStarts, false},
                          {"stop", &TortureTest::StopAndGoOn, false},
                          {"wipe", &TortureTest::WipeToken, false},
                          {"backup under kill", &TortureTest::BackupUnderKill, false},
                          {"lose the quorum", &TortureTest::LoseQuorum, false},
                          {"kill the coordinator", &TortureTest::KillCoordinator, true}};
  Deadline end(RealClock(), Length());
  int rounds = 0;
  while (!end.Passed() && !HasFailure()) {
    const Fault& fault = faults[random_.Below(std::size(faults))];
    fmt::print("round {}: {}\n", ++rounds, fault.name);
    std::fflush(stdout);
    SCOPED_TRACE(fmt::format("round {}: {}, seed {}", rounds, fault.name, seed_));
    if (fault.callers_notice) {
      (this->*fault.act)();
    } else {
      Load load(*cluster_, keys_[0], "8");
      (this->*fault.act)();
      load.ExpectNoFailedCall();
    }
    CheckKeys();
    if (keys_.size() > 40) keys_.erase(keys_.begin() + 1, keys_.begin() + 20);  // the check stays short
  }
  fmt::print("{} rounds, {} creates tried, {} backups\n", rounds, tried_, backups_);
}

}  // namespace
}  // namespace hsm::testing
