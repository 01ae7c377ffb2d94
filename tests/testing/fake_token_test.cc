#include "tests/testing/fake_token.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/thread.h"
#include "tests/testing/fake_crypto.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

const KeySpec kP256{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
const ObjectPolicy kSign{KeyUse::kPolicy, Bit(v1::KEY_OPERATION_SIGN)};

struct Signer {
  explicit Signer(uint64_t seed) : random(seed), token(std::make_shared<FakeDomain>(random), random) {}
  Bytes Sign() {
    GeneratedKey made = *token.Generate(kP256, kSign);
    spki = made.spki;
    key = made.key;
    return *token.Sign(made.key, kP256, v1::ALGORITHM_ES256, digest);
  }
  hsm::testing::SeededRandom random;
  FakeToken token;
  Bytes digest = Bytes(32, 5);
  Bytes spki;
  TokenKey key = 0;
};

TEST(FakeTokenTest, SameSeedSameBytes) {
  EXPECT_EQ(Signer(1).Sign(), Signer(1).Sign());
  EXPECT_NE(Signer(1).Sign(), Signer(2).Sign());
}

TEST(FakeTokenTest, NthCallFailsAndTheNextDoNot) {
  Signer signer(3);
  signer.Sign();
  signer.token.FailCalls("Sign", 2, v1::REASON_TOKEN_FAILED);
  auto sign = [&] {
    return signer.token.Sign(signer.key, kP256, v1::ALGORITHM_ES256, signer.digest).status();
  };
  EXPECT_TRUE(sign().ok());
  EXPECT_TRUE(signer.token.Probe().ok());  // other methods do not count
  EXPECT_EQ(ReasonOf(sign()), v1::REASON_TOKEN_FAILED);
  EXPECT_TRUE(sign().ok());
  signer.token.FailAll(v1::REASON_TOKEN_FAILED);
  EXPECT_FALSE(signer.token.Probe().ok());
  signer.token.FailAll(std::nullopt);
  EXPECT_TRUE(signer.token.Probe().ok());
}

TEST(FakeTokenTest, PlantedKeyIsAnotherKey) {
  Signer signer(4);
  signer.Sign();
  Bytes blob = *signer.token.Wrap(Kek::kReplication, signer.key);
  signer.token.PlantWrongKey();
  TokenKey wrong = *signer.token.Unwrap(Kek::kReplication, kP256, kSign, blob);
  TokenKey right = *signer.token.Unwrap(Kek::kReplication, kP256, kSign, blob);
  auto verifies = [&](TokenKey key) {
    return fake_crypto::VerifyEc(signer.spki, signer.digest,
                                 *signer.token.Sign(key, kP256, v1::ALGORITHM_ES256, signer.digest));
  };
  EXPECT_FALSE(verifies(wrong));
  EXPECT_TRUE(verifies(right));
  signer.token.FlipSignatures(true);
  EXPECT_FALSE(verifies(right));
}

TEST(FakeTokenTest, HangingCallsGoOnWhenReleased) {
  Signer signer(5);
  signer.token.Hang();
  absl::Status probed = absl::UnknownError("not yet");
  {
    Thread caller("caller", [&] { probed = signer.token.Probe(); });
    signer.token.Release();
  }
  EXPECT_TRUE(probed.ok());
}

TEST(FakeTokenTest, DroppedKeysAreLostSessions) {
  Signer signer(6);
  signer.Sign();
  EXPECT_EQ(signer.token.live_keys(), 1u);
  signer.token.DropAllKeys();
  EXPECT_EQ(ReasonOf(signer.token.Sign(signer.key, kP256, v1::ALGORITHM_ES256, signer.digest).status()),
            v1::REASON_TOKEN_SESSION);
}

}  // namespace
}  // namespace hsm
