#include "node/executor.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "common/error.h"
#include "common/thread.h"
#include "node/public_part.h"
#include "tests/testing/eventually.h"
#include "tests/testing/node_fixture.h"

namespace hsm {
namespace {

using testing::Eventually;
using testing::TestDomain;
using testing::TestNode;

class ExecutorTest : public ::testing::Test {
 protected:
  v1::Reason ReasonFor(const v1::CryptoOp& op) { return node_.Run(op).reason(); }

  TestDomain domain_;
  TestNode node_{domain_, "p1"};
};

TEST_F(ExecutorTest, EncryptionsComeBack) {
  auto oct = *node_.Create("oct", v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256);
  auto rsa = *node_.Create("rsa", v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048);
  struct Case {
    const rpc::KeyRecords& key;
    v1::Algorithm algorithm;
    bool wraps;
    size_t size;
  };
  for (const Case& tested :
       {Case{oct, v1::ALGORITHM_A256GCM, false, 100}, Case{oct, v1::ALGORITHM_A256CBC, false, 64},
        Case{oct, v1::ALGORITHM_A256CBCPAD, false, 33}, Case{oct, v1::ALGORITHM_A256KW, true, 32},
        Case{rsa, v1::ALGORITHM_RSA_OAEP, false, 190}, Case{rsa, v1::ALGORITHM_RSA_OAEP_256, true, 32},
        Case{rsa, v1::ALGORITHM_RSA1_5, false, 16}}) {
    SCOPED_TRACE(AlgorithmName(tested.algorithm));
    std::string plaintext(tested.size, 'p');
    v1::CryptoOp op =
        node_.Op(tested.key, tested.wraps ? v1::CRYPTO_OPERATION_WRAP_KEY : v1::CRYPTO_OPERATION_ENCRYPT,
                 tested.algorithm, plaintext);
    bool cbc = tested.algorithm == v1::ALGORITHM_A256CBC || tested.algorithm == v1::ALGORITHM_A256CBCPAD;
    if (cbc) op.set_iv(std::string(16, 'i'));
    if (tested.algorithm == v1::ALGORITHM_A256GCM) op.set_aad("aad");
    v1::CryptoResult sealed = node_.Run(op);
    ASSERT_EQ(sealed.reason(), v1::REASON_UNSPECIFIED) << sealed.message();
    EXPECT_NE(sealed.value(), plaintext);
    op.set_operation(tested.wraps ? v1::CRYPTO_OPERATION_UNWRAP_KEY : v1::CRYPTO_OPERATION_DECRYPT);
    op.set_data(sealed.value());
    if (!cbc) op.set_iv(sealed.iv());
    op.set_tag(sealed.tag());
    v1::CryptoResult opened = node_.Run(op);
    ASSERT_EQ(opened.reason(), v1::REASON_UNSPECIFIED) << opened.message();
    EXPECT_EQ(opened.value(), plaintext);
    // One bit less true: unauthenticated CBC aside, it says so and says no more.
    if (!cbc) {
      std::string bad = sealed.value();
      bad[bad.size() / 2] ^= 1;
      op.set_data(bad);
      v1::CryptoResult refused = node_.Run(op);
      EXPECT_TRUE(refused.reason() == v1::REASON_DECRYPTION_FAILED || refused.value() != plaintext);
      EXPECT_TRUE(refused.value().empty() || tested.algorithm == v1::ALGORITHM_RSA1_5);
    }
  }
}

TEST_F(ExecutorTest, VerifyTellsGoodFromBad) {
  auto ec = *node_.Create("ec");
  auto oct = *node_.Create("oct", v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256);
  for (auto [key, algorithm] : {std::pair(&ec, v1::ALGORITHM_ES256), std::pair(&oct, v1::ALGORITHM_HS256)}) {
    v1::CryptoOp op = node_.Op(*key, v1::CRYPTO_OPERATION_SIGN, algorithm, std::string(32, 'd'));
    std::string signature = node_.Run(op).value();
    op.set_operation(v1::CRYPTO_OPERATION_VERIFY);
    op.set_signature(signature);
    EXPECT_TRUE(node_.Run(op).valid());
    signature[5] ^= 1;
    op.set_signature(signature);
    EXPECT_FALSE(node_.Run(op).valid());
    op.set_signature("short");
    EXPECT_FALSE(node_.Run(op).valid());
    EXPECT_EQ(node_.Run(op).reason(), v1::REASON_UNSPECIFIED);
  }
}

TEST_F(ExecutorTest, WhatDoesNotFitIsRefusedByReason) {
  auto ec = *node_.Create("ec");
  auto oct = *node_.Create("oct", v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 128);
  auto op = [&](const rpc::KeyRecords& key, v1::CryptoOperation operation, v1::Algorithm algorithm,
                size_t size) { return node_.Op(key, operation, algorithm, std::string(size, 'd')); };
  using enum v1::CryptoOperation;
  using enum v1::Algorithm;
  EXPECT_EQ(ReasonFor(op(ec, CRYPTO_OPERATION_SIGN, ALGORITHM_ES256, 31)), v1::REASON_DATA_INVALID);
  EXPECT_EQ(ReasonFor(op(ec, CRYPTO_OPERATION_SIGN, ALGORITHM_ES384, 48)), v1::REASON_ALGORITHM_MISMATCH);
  EXPECT_EQ(ReasonFor(op(ec, CRYPTO_OPERATION_SIGN, ALGORITHM_UNSPECIFIED, 32)), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(ReasonFor(op(ec, CRYPTO_OPERATION_ENCRYPT, ALGORITHM_ES256, 32)),
            v1::REASON_OPERATION_NOT_ALLOWED);
  EXPECT_EQ(ReasonFor(op(oct, CRYPTO_OPERATION_SIGN, ALGORITHM_A128GCM, 32)), v1::REASON_ALGORITHM_MISMATCH);
  EXPECT_EQ(ReasonFor(op(oct, CRYPTO_OPERATION_ENCRYPT, ALGORITHM_A256GCM, 32)),
            v1::REASON_ALGORITHM_MISMATCH);
  EXPECT_EQ(ReasonFor(op(oct, CRYPTO_OPERATION_ENCRYPT, ALGORITHM_A128CBC, 32)),
            v1::REASON_DATA_INVALID);  // no IV
  EXPECT_EQ(ReasonFor(op(oct, CRYPTO_OPERATION_WRAP_KEY, ALGORITHM_A128KW, 15)), v1::REASON_DATA_INVALID);
  EXPECT_EQ(ReasonFor(op(oct, CRYPTO_OPERATION_DECRYPT, ALGORITHM_A128GCM, 32)), v1::REASON_DATA_INVALID);
  EXPECT_EQ(ReasonFor(op(oct, CRYPTO_OPERATION_ENCRYPT, ALGORITHM_A128GCM, 70'000)),
            v1::REASON_LIMIT_EXCEEDED);
  v1::CryptoOp caller_iv = op(oct, CRYPTO_OPERATION_ENCRYPT, ALGORITHM_A128GCM, 32);
  caller_iv.set_iv(std::string(12, 'i'));
  EXPECT_EQ(ReasonFor(caller_iv), v1::REASON_INVALID_ARGUMENT);
  v1::CryptoOp random;
  random.set_operation(CRYPTO_OPERATION_RANDOM);
  random.set_count(129);
  EXPECT_EQ(ReasonFor(random), v1::REASON_DATA_INVALID);
  random.set_count(128);
  EXPECT_EQ(node_.Run(random).value().size(), 128u);
}

TEST_F(ExecutorTest, AStaleOrUnknownRouteIsFenced) {
  auto key = *node_.Create("k");
  v1::CryptoOp op = node_.Op(key, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_ES256, std::string(32, 'd'));
  op.mutable_route()->set_revision(2);  // the coordinator has seen a state this node has not
  EXPECT_EQ(ReasonFor(op), v1::REASON_FENCED);
  op.mutable_route()->set_revision(0);
  EXPECT_EQ(ReasonFor(op), v1::REASON_UNSPECIFIED);
  op.mutable_route()->set_incarnation(2);
  EXPECT_EQ(ReasonFor(op), v1::REASON_FENCED);
  op.mutable_route()->set_uid(std::string(16, 'u'));
  EXPECT_EQ(ReasonFor(op), v1::REASON_FENCED);
  op.mutable_route()->set_uid("short");
  EXPECT_EQ(ReasonFor(op), v1::REASON_INVALID_ARGUMENT);
}

struct Window {
  const char* name;
  bool enabled;
  std::optional<int64_t> not_before, expires;
  v1::Reason sign, decrypt;
};
class CheckKeyUseTest : public ::testing::TestWithParam<Window> {};
TEST_P(CheckKeyUseTest, FollowsAzuresRules) {
  const Window& window = GetParam();
  IndexEntry entry;
  entry.enabled = window.enabled;
  entry.not_before = window.not_before;
  entry.expires = window.expires;
  entry.operations = ~0u;
  EXPECT_EQ(ReasonOf(CheckKeyUse(entry, v1::CRYPTO_OPERATION_SIGN, 1000)), window.sign);
  EXPECT_EQ(ReasonOf(CheckKeyUse(entry, v1::CRYPTO_OPERATION_DECRYPT, 1000)), window.decrypt);
  EXPECT_EQ(ReasonOf(CheckKeyUse(entry, v1::CRYPTO_OPERATION_VERIFY, 1000)), window.decrypt);
}
constexpr v1::Reason kFine = v1::REASON_UNSPECIFIED;
INSTANTIATE_TEST_SUITE_P(
    Windows, CheckKeyUseTest,
    ::testing::Values(Window{"Always", true, {}, {}, kFine, kFine},
                      Window{"Inside", true, 1000, 1001, kFine, kFine},
                      Window{"TooEarly", true, 1001, {}, v1::REASON_KEY_OUTSIDE_VALIDITY, kFine},
                      Window{"Expired", true, {}, 1000, v1::REASON_KEY_OUTSIDE_VALIDITY, kFine},
                      Window{"Disabled", false, {}, {}, v1::REASON_KEY_DISABLED, v1::REASON_KEY_DISABLED}),
    [](const auto& tested) { return tested.param.name; });

TEST_F(ExecutorTest, NoLeaseNoUse) {
  auto key = *node_.Create("k");
  EXPECT_EQ(node_.Sign(key).reason(), kFine);
  node_.clock.Advance(absl::Milliseconds(2'999));
  EXPECT_EQ(node_.Sign(key).reason(), kFine);
  node_.clock.Advance(absl::Milliseconds(1));
  EXPECT_EQ(node_.Sign(key).reason(), v1::REASON_NOT_ACTIVE);
}

TEST_F(ExecutorTest, ALeaseThatEndsDuringTheCallReleasesNothing) {
  auto key = *node_.Create("k");
  EXPECT_EQ(node_.Sign(key).reason(), kFine);
  node_.token().Hang();
  v1::CryptoResult result;
  Thread signer("signer", [&] { result = node_.Sign(key); });
  ASSERT_TRUE(Eventually([&] { return node_->StatusForHeartbeat().in_flight() > 0; }));
  node_.clock.Advance(absl::Seconds(4));
  node_.token().Release();
  signer.Join();
  EXPECT_EQ(result.reason(), v1::REASON_NOT_ACTIVE);
  EXPECT_TRUE(result.value().empty());
}

TEST_F(ExecutorTest, AFaultySignatureIsNotReleased) {
  node_.options.verify_sample = 1;
  node_.Restart();
  auto ec = *node_.Create("ec");
  auto rsa = *node_.Create("rsa", v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048);
  node_.token().FlipSignatures(true);
  EXPECT_EQ(node_.Sign(ec).reason(), v1::REASON_TOKEN_FAILED);
  auto op = node_.Op(rsa, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_RS256, std::string(32, 'd'));
  EXPECT_EQ(ReasonFor(op), v1::REASON_TOKEN_FAILED);
  node_.token().FlipSignatures(false);
  EXPECT_EQ(ReasonFor(op), kFine);
}

// As it is set by default: each RSA signature, and a sample of each other key's, however the keys' uses mix.
TEST_F(ExecutorTest, TheDefaultSampleFindsAFaultyTokenWithEachKey) {
  auto rsa = *node_.Create("rsa", v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048);
  std::vector<rpc::KeyRecords> keys = {*node_.Create("a"), *node_.Create("b")};
  auto rsa_op = node_.Op(rsa, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_PS256, std::string(32, 'd'));
  EXPECT_EQ(ReasonFor(rsa_op), kFine);
  for (const rpc::KeyRecords& key : keys) EXPECT_EQ(node_.Sign(key).reason(), kFine);
  node_.token().FlipSignatures(true);
  std::vector<int> found(keys.size(), 0);
  for (int i = 0; i < 64; ++i) {
    v1::CryptoResult signature = node_.Run(rsa_op);
    EXPECT_EQ(signature.reason(), v1::REASON_TOKEN_FAILED);
    EXPECT_TRUE(signature.value().empty());
    for (size_t k = 0; k < keys.size(); ++k)
      found[k] += node_.Sign(keys[k]).reason() == v1::REASON_TOKEN_FAILED;
  }
  EXPECT_EQ(found, std::vector<int>({1, 1}));
}

TEST_F(ExecutorTest, ALostSessionObjectIsUnwrappedAgainOnce) {
  auto key = *node_.Create("k");
  node_.token().FailCalls("Sign", 1, v1::REASON_TOKEN_SESSION);
  EXPECT_EQ(node_.Sign(key).reason(), kFine);
  node_.token().FailCalls("Sign", 1, v1::REASON_TOKEN_SESSION, 2);
  EXPECT_EQ(node_.Sign(key).reason(), v1::REASON_TOKEN_SESSION);
}

TEST_F(ExecutorTest, TheCacheIsBoundedAndKeysComeBack) {
  node_.options.key_cache_max = 3;
  node_.Restart();
  std::vector<rpc::KeyRecords> keys;
  for (int i = 0; i < 6; ++i) keys.push_back(*node_.Create("k" + std::to_string(i)));
  for (int round = 0; round < 2; ++round) {
    for (const rpc::KeyRecords& key : keys) {
      EXPECT_EQ(node_.Sign(key).reason(), kFine);
      EXPECT_LE(node_.token().live_keys(), 3u + 3u);  // and the domain's three
    }
  }
}

TEST_F(ExecutorTest, EveryUseIsInTheLogWithItsOutcome) {
  auto key = *node_.Create("k");
  uint64_t before = node_.audit().Head().sequence;
  v1::CryptoBatch batch;
  batch.set_epoch(1);
  batch.set_data_set(1);
  *batch.add_ops() = node_.Op(key, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_ES256, std::string(32, 'd'));
  *batch.add_ops() = node_.Op(key, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_ES384, std::string(48, 'd'));
  v1::CryptoBatchResult results = node_->Crypto(batch);
  ASSERT_EQ(results.results_size(), 2);
  ASSERT_TRUE(node_.audit().Flush().ok());
  EXPECT_EQ(node_.audit().Head().sequence, before + 2);
}

TEST_F(ExecutorTest, NothingIsReleasedThatTheLogDoesNotTake) {
  auto key = *node_.Create("k");
  char name[] = "/tmp/executor-test-XXXXXX";
  std::string directory = mkdtemp(name);
  auto audit =
      *UseAudit::Open({.directory = directory, .node = "p1", .batch = absl::Milliseconds(1)}, RealClock());
  std::filesystem::remove_all(directory);
  FakeToken token(domain_.keks, domain_.random);
  Partition partition({.node = "p1"}, token, node_.blobs(), *audit, node_.clock, domain_.random);
  ASSERT_TRUE(partition.LoadDomain(domain_.bundle).ok());
  rpc::HeartbeatResponse lease;
  lease.set_epoch(1);
  lease.set_data_set(1);
  lease.set_lease_granted(true);
  lease.set_serve(true);
  lease.set_lease_ms(3'000);
  partition.OnHeartbeat(lease, node_.clock.Uptime());
  v1::CryptoBatch batch;
  batch.set_epoch(1);
  batch.set_data_set(1);
  *batch.add_ops() = node_.Op(key, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_ES256, std::string(32, 'd'));
  partition.Crypto(batch);  // may still be taken: that is the loss window
  EXPECT_EQ(ReasonOf(audit->Flush()), v1::REASON_AUDIT_FAILED);
  v1::CryptoResult result = partition.Crypto(batch).results(0);
  EXPECT_EQ(result.reason(), v1::REASON_AUDIT_FAILED);
  EXPECT_TRUE(result.value().empty());
}

TEST_F(ExecutorTest, AnOlderEpochIsRefusedAndANewerOneEndsTheOldLease) {
  auto key = *node_.Create("k");
  node_.epoch = 2;
  EXPECT_EQ(node_.Sign(key).reason(), v1::REASON_NOT_ACTIVE);  // adopted; its lease has yet to come
  node_.GrantLease();
  EXPECT_EQ(node_.Sign(key).reason(), kFine);
  node_.epoch = 1;
  EXPECT_EQ(node_.Sign(key).reason(), v1::REASON_FENCED);
  rpc::DigestRequest request;
  *request.mutable_fence() = node_.fence();
  EXPECT_EQ(ReasonOf(node_->Digest(request).status()), v1::REASON_FENCED);
  node_.Restart();  // GrantLease of Boot comes from the old epoch and brings nothing
  EXPECT_EQ(node_.Sign(key).reason(), v1::REASON_FENCED);
  EXPECT_EQ(node_->StatusForHeartbeat().epoch(), 2u);
}

}  // namespace
}  // namespace hsm
