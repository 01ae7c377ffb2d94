// The crypto path over real partition cores on fake tokens: who may do what, and what happens when partitions
// fail.
#include "coordinator/crypto.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/error.h"
#include "common/mutex.h"
#include "tests/testing/local_cluster.h"

namespace hsm {
namespace {

class CryptoTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster_.StartCoordinator());
    crypto_ = std::make_unique<Crypto>(cluster_.coordinator().core());
    ASSERT_TRUE(cluster_.Create("ec", v1::KEY_TYPE_EC_HSM).ok());
    ASSERT_TRUE(cluster_.Create("aes", v1::KEY_TYPE_OCT_HSM).ok());
    cluster_.SetFilter([this](size_t partition, std::string_view call) -> absl::Status {
      if (call != "Crypto") return absl::OkStatus();
      MutexLock lock(mutex_);
      ++asked_[partition];
      auto found = failures_.find(partition);
      return found == failures_.end() ? absl::OkStatus() : found->second;
    });
  }

  void Fail(size_t partition, absl::Status status) {
    MutexLock lock(mutex_);
    failures_[partition] = std::move(status);
  }
  int Asked(size_t partition) {
    MutexLock lock(mutex_);
    return asked_[partition];
  }

  static v1::CryptoOp Sign(const std::string& key = "ec") {
    v1::CryptoOp op;
    op.set_operation(v1::CRYPTO_OPERATION_SIGN);
    op.set_algorithm(v1::ALGORITHM_ES256);
    op.set_key_name(key);
    op.set_data(std::string(32, 'd'));
    return op;
  }
  static v1::CryptoOp Random(uint32_t count) {
    v1::CryptoOp op;
    op.set_operation(v1::CRYPTO_OPERATION_RANDOM);
    op.set_count(count);
    return op;
  }
  // Signs until each of `partitions` was asked `times` times: with one caller they take turns, by the clock.
  void SignUntilAsked(const std::set<size_t>& partitions, int times) {
    auto open = [&] {
      return std::any_of(partitions.begin(), partitions.end(), [&](size_t i) { return Asked(i) < times; });
    };
    for (Deadline deadline(RealClock(), absl::Seconds(10)); open() && !deadline.Passed();) {
      ASSERT_EQ(Outcome(Sign()), v1::REASON_UNSPECIFIED);
    }
    ASSERT_FALSE(open());
  }
  v1::Reason Outcome(v1::CryptoOp op) { return Outcome(cluster_.caller(), std::move(op)); }
  v1::Reason Outcome(const Caller& caller, v1::CryptoOp op) {
    return ReasonOf(crypto_->ExecuteOne(caller, std::move(op)).status());
  }

  testing::LocalCluster cluster_;
  std::unique_ptr<Crypto> crypto_;
  Mutex mutex_;
  std::map<size_t, absl::Status> failures_;
  std::map<size_t, int> asked_;
};

TEST_F(CryptoTest, SignsAndEachOperationHasItsOwnOutcome) {
  v1::CryptoBatch batch;
  *batch.add_ops() = Sign();
  *batch.add_ops() = Sign("absent");
  *batch.add_ops() = Random(16);
  *batch.add_ops() = Sign("aes");
  for (int i = 0; i < batch.ops_size(); ++i) batch.mutable_ops(i)->set_id(static_cast<uint64_t>(100 + i));
  v1::CryptoBatchResult results;
  crypto_->Execute(cluster_.caller(), batch, results);
  ASSERT_EQ(results.results_size(), 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(results.results(i).id(), static_cast<uint64_t>(100 + i));
  EXPECT_EQ(results.results(0).reason(), v1::REASON_UNSPECIFIED) << results.results(0).message();
  EXPECT_EQ(results.results(0).value().size(), 64u);
  EXPECT_EQ(results.results(0).version().size(), 16u);
  EXPECT_EQ(results.results(1).reason(), v1::REASON_KEY_NOT_FOUND);
  EXPECT_EQ(results.results(2).value().size(), 16u);
  EXPECT_NE(results.results(3).reason(), v1::REASON_UNSPECIFIED);
}

TEST_F(CryptoTest, AStrangerGetsNothingAndLearnsNothing) {
  Caller stranger = cluster_.caller();
  stranger.principal.value[3] ^= 1;
  EXPECT_EQ(Outcome(stranger, Sign()), v1::REASON_PERMISSION_DENIED);
  EXPECT_EQ(Outcome(stranger, Sign("absent")), v1::REASON_PERMISSION_DENIED);
  EXPECT_EQ(Outcome(stranger, Random(1)), v1::REASON_PERMISSION_DENIED);
  EXPECT_EQ(Asked(0) + Asked(1) + Asked(2), 0);
}

TEST_F(CryptoTest, ARouteFromTheClientIsIgnored) {
  v1::CryptoOp op = Sign();
  op.mutable_route()->set_uid(std::string(16, 'x'));
  op.mutable_route()->set_principal(std::string(16, 'y'));
  EXPECT_EQ(Outcome(op), v1::REASON_UNSPECIFIED);
}

TEST_F(CryptoTest, MistakesOfTheCallerAreAnsweredWithoutAPartition) {
  v1::CryptoOp mismatch = Sign();
  mismatch.set_algorithm(v1::ALGORITHM_RS256);
  EXPECT_EQ(Outcome(mismatch), v1::REASON_ALGORITHM_MISMATCH);
  v1::CryptoOp version = Sign();
  version.set_version(std::string(16, 'v'));
  EXPECT_EQ(Outcome(version), v1::REASON_KEY_NOT_FOUND);
  v1::CryptoOp large = Sign();
  large.set_data(std::string(limits::kCryptoDataBytesMax + 1, 'x'));
  EXPECT_EQ(Outcome(large), v1::REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(Outcome(Random(0)), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(Outcome(Random(129)), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(Outcome(v1::CryptoOp()), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(Asked(0) + Asked(1) + Asked(2), 0);
}

TEST_F(CryptoTest, ABatchBeyondTheBoundIsRefusedWhole) {
  v1::CryptoBatch batch;
  for (size_t i = 0; i <= limits::kBatchOpsMax; ++i) *batch.add_ops() = Random(1);
  v1::CryptoBatchResult results;
  crypto_->Execute(cluster_.caller(), batch, results);
  EXPECT_EQ(results.results(0).reason(), v1::REASON_LIMIT_EXCEEDED);
}

class CryptoFailoverTest : public CryptoTest, public ::testing::WithParamInterface<v1::Reason> {};

TEST_P(CryptoFailoverTest, OneFailingPartitionIsNotSeenByCallers) {
  Fail(1, Error(GetParam(), "made by the test"));
  SignUntilAsked({0, 1, 2}, 3);
}

TEST_P(CryptoFailoverTest, TwoFailingPartitionsAreNotSeenByCallers) {
  Fail(0, Error(GetParam(), "made by the test"));
  Fail(1, Error(GetParam(), "made by the test"));
  SignUntilAsked({0, 1, 2}, 3);
}

INSTANTIATE_TEST_SUITE_P(Crypto, CryptoFailoverTest,
                         ::testing::Values(v1::REASON_UNREACHABLE, v1::REASON_DEADLINE_EXCEEDED,
                                           v1::REASON_TOKEN_FAILED, v1::REASON_INTERNAL),
                         [](const auto& tested) { return std::string(ReasonName(tested.param)); });

TEST_F(CryptoTest, ABrokenPartitionIsLeftAloneAfterAFewFailures) {
  Fail(1, Error(v1::REASON_UNREACHABLE, "made by the test"));
  SignUntilAsked({1}, 3);
  for (int i = 0; i < 200; ++i) ASSERT_EQ(Outcome(Sign()), v1::REASON_UNSPECIFIED);
  EXPECT_LT(Asked(1), 30);
}

TEST_F(CryptoTest, ARestartedPartitionComesBack) {
  cluster_.StopNode(1);
  SignUntilAsked({1}, 3);
  cluster_.StartNode(1);
  EXPECT_TRUE(cluster_.AwaitReady(3));
}

TEST_F(CryptoTest, NoPartitionAtAllIsSaidInsideTheDeadline) {
  for (size_t i = 0; i < 3; ++i) Fail(i, Error(v1::REASON_UNREACHABLE, "made by the test"));
  v1::CryptoOp op = Sign();
  op.set_timeout_ms(300);
  absl::Duration before = RealClock().Uptime();
  v1::Reason outcome = Outcome(op);
  EXPECT_TRUE(outcome == v1::REASON_UNREACHABLE || outcome == v1::REASON_NO_PARTITION) << outcome;
  EXPECT_LT(RealClock().Uptime() - before, absl::Seconds(2));
}

TEST_F(CryptoTest, ADisabledKeyStopsAtOnce) {
  v1::SetKeyAttributesRequest request;
  request.set_op_id(SystemRandom().NewOpId(RealClock()).Raw());
  request.set_name("ec");
  request.set_enabled(false);
  ASSERT_TRUE(cluster_.coordinator().SetKeyAttributes(cluster_.caller(), request).ok());
  EXPECT_EQ(Outcome(Sign()), v1::REASON_KEY_DISABLED);
  EXPECT_EQ(Asked(0) + Asked(1) + Asked(2), 0) << "the partitions would refuse as well, but are not asked";
}

TEST_F(CryptoTest, ADeletedKeyIsGone) {
  ASSERT_TRUE(cluster_.Destroy("ec").ok());
  EXPECT_EQ(Outcome(Sign()), v1::REASON_KEY_NOT_FOUND);
}

TEST_F(CryptoTest, AllPartitionsDoTheirShare) { SignUntilAsked({0, 1, 2}, 6); }

}  // namespace
}  // namespace hsm
