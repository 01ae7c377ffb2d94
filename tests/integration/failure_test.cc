// Partitions that die, hang or lose their token while eight callers sign: no call of theirs may fail.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/integration/load.h"
#include "tests/testing/dev_cluster.h"

namespace hsm::testing {
namespace {

constexpr char kDigest[] = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

class FailureTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = DevCluster::Up();
    if (cluster_ != nullptr) cluster_->Answer({"key", "create", "--name", "loaded", "--kty", "EC-HSM"});
  }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    ASSERT_NE(cluster_, nullptr);
    ASSERT_TRUE(cluster_->AwaitReady());
  }
  static Ended Sign() {
    return cluster_->Qhsm(
        {"key", "sign", "--name", "loaded", "--algorithm", "ES256", "--digest", kDigest, "-o", "json"});
  }
  static std::unique_ptr<DevCluster> cluster_;
};
std::unique_ptr<DevCluster> FailureTest::cluster_;

TEST_F(FailureTest, AnyPartitionKilledUnderLoad) {
  for (const char* victim : {"p1", "p2", "p3"}) {
    Load load(*cluster_, "loaded", "5");
    cluster_->Kill(victim);
    PauseFor(absl::Seconds(2));
    cluster_->Start(victim);
    load.ExpectNoFailedCall();
    ASSERT_TRUE(cluster_->AwaitReady()) << victim;
  }
}

TEST_F(FailureTest, APartitionThatHangsUnderLoad) {
  Load load(*cluster_, "loaded", "8");
  cluster_->Kill("p2", "STOP");
  PauseFor(absl::Seconds(4));
  cluster_->Start("p2");
  load.ExpectNoFailedCall();
}

TEST_F(FailureTest, TwoOfThreeDown) {
  cluster_->Kill("p1");
  cluster_->Kill("p3");
  EXPECT_EQ(Sign().exit_code, 0);
  Ended create = cluster_->Qhsm({"key", "create", "--name", "not-made", "--kty", "EC-HSM", "-o", "json"});
  EXPECT_EQ(create.exit_code, 1);
  EXPECT_EQ(At(create.Document(), "error.code"), "NO_QUORUM");
  EXPECT_LE(create.took, absl::Seconds(5));
  cluster_->Start("p1");
  cluster_->Start("p3");
  ASSERT_TRUE(cluster_->AwaitReady());
  EXPECT_EQ(cluster_->Qhsm({"key", "show", "--name", "not-made"}).exit_code, 1);
}

TEST_F(FailureTest, AllStoppedAndStarted) {
  for (const char* name : {"p1", "p2", "p3"}) cluster_->Kill(name);
  EXPECT_NE(Sign().exit_code, 0);
  for (const char* name : {"p1", "p2", "p3"}) cluster_->Start(name);
  ASSERT_TRUE(cluster_->AwaitReady());
  EXPECT_EQ(Sign().exit_code, 0);
  Json proofs = cluster_->Answer({"key", "prove", "--name", "loaded"});
  EXPECT_EQ(At(proofs, "partitions[].result"), R"(["proved","proved","proved"])");
}

TEST_F(FailureTest, TheCoordinatorComesBackWithEverything) {
  Json before = cluster_->Answer({"key", "create", "--name", "before-crash", "--kty", "EC-HSM"});
  cluster_->Kill("coordinator");
  cluster_->Start("coordinator");
  ASSERT_TRUE(cluster_->AwaitReady());
  EXPECT_EQ(At(cluster_->Answer({"key", "show", "--name", "before-crash"}), "key.kid"),
            At(before, "key.kid"));
  EXPECT_EQ(Sign().exit_code, 0);
}

TEST_F(FailureTest, AWipedTokenIsHealedUnderLoad) {
  Load load(*cluster_, "loaded", "15");
  cluster_->Kill("p3");
  std::string serial = At(cluster_->Answer({"partition", "show", "--name", "p3"}), "token_serial");
  for (const auto& entry : std::filesystem::directory_iterator(cluster_->Folder("p3/tokens"))) {
    std::filesystem::remove_all(entry);
  }
  cluster_->Start("p3");
  ASSERT_TRUE(cluster_->AwaitReady());
  Json proofs = cluster_->Answer({"key", "prove", "--name", "loaded"});
  EXPECT_EQ(At(proofs, "partitions[].result"), R"(["proved","proved","proved"])") << proofs.Dump();
  EXPECT_NE(At(cluster_->Answer({"partition", "show", "--name", "p3"}), "token_serial"), serial);
  load.ExpectNoFailedCall();
}

}  // namespace
}  // namespace hsm::testing
