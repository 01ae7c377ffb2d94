#include "node/key_encoding.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/random.h"
#include "tests/testing/fake_crypto.h"

namespace hsm {
namespace {

TEST(KeyEncodingTest, SpkiIsWhatOpenSslWrites) {
  for (uint32_t bits : {2048u, 3072u}) {
    auto key = fake_crypto::ParsePrivate(fake_crypto::RsaGenerate(bits));
    Bytes spki = fake_crypto::PublicOf(key.get());
    auto parts = ParseRsaSpki(spki);
    ASSERT_TRUE(parts.ok()) << parts.status();
    EXPECT_EQ(parts->modulus.size(), bits / 8);
    EXPECT_EQ(RsaSpki(parts->modulus, parts->exponent), spki);
  }
}

TEST(KeyEncodingTest, EcSpkiVerifies) {
  for (v1::Curve curve : {v1::CURVE_P256, v1::CURVE_P384, v1::CURVE_P521, v1::CURVE_P256K}) {
    fake_crypto::EcKey key = fake_crypto::EcGenerate(curve, SystemRandom());
    Bytes digest(32, 7);
    Bytes signature = fake_crypto::EcSign(curve, key, digest, SystemRandom());
    EXPECT_TRUE(fake_crypto::VerifyEc(EcSpki(curve, key.point), digest, signature));
  }
}

TEST(KeyEncodingTest, CutOffOrLooseSpkiIsRefused) {
  auto key = fake_crypto::ParsePrivate(fake_crypto::RsaGenerate(2048));
  Bytes spki = fake_crypto::PublicOf(key.get());
  for (size_t size = 0; size < spki.size(); ++size)
    EXPECT_FALSE(ParseRsaSpki(ByteView(spki).first(size)).ok()) << size;
  spki.push_back(0);
  EXPECT_FALSE(ParseRsaSpki(spki).ok());
  EXPECT_FALSE(ParseRsaSpki(EcSpki(v1::CURVE_P256, Bytes(65, 4))).ok());
}

// OAEP by OpenSSL, raw private operation, decoded by us; then every kind of damage, always the same error.
TEST(OaepTest, DecodesOpenSslAndRefusesDamageAlike) {
  auto key = fake_crypto::ParsePrivate(fake_crypto::RsaGenerate(2048));
  Bytes spki = fake_crypto::PublicOf(key.get());
  for (v1::Algorithm algorithm : {v1::ALGORITHM_RSA_OAEP, v1::ALGORITHM_RSA_OAEP_256}) {
    Hash hash = HashOf(algorithm);
    for (size_t size : {size_t{0}, size_t{1}, 256 - 2 * HashBytes(hash) - 2}) {
      Bytes message(size, 0x42);
      Bytes encoded =
          *fake_crypto::RsaRawPrivate(key.get(), fake_crypto::EncryptRsa(spki, algorithm, message));
      auto decoded = OaepDecode(hash, encoded);
      ASSERT_TRUE(decoded.ok());
      EXPECT_TRUE(decoded->Equals(message));
      Bytes spoiled = encoded;
      spoiled[0] = 1;
      absl::Status first = OaepDecode(hash, spoiled).status();
      EXPECT_EQ(ReasonOf(first), v1::REASON_DECRYPTION_FAILED);
      for (size_t at : {size_t{1}, HashBytes(hash), HashBytes(hash) + 1, size_t{100}, size_t{255}}) {
        spoiled = encoded;
        spoiled[at] ^= 0x10;
        EXPECT_EQ(OaepDecode(hash, spoiled).status(), first) << at;
      }
    }
  }
  EXPECT_FALSE(OaepDecode(Hash::kSha256, Bytes(65)).ok());
  EXPECT_FALSE(OaepDecode(Hash::kSha256, Bytes(256)).ok());
}

// No 01 after the zeros: found only by looking at every byte.
TEST(OaepTest, MissingSeparatorIsRefused) {
  const Hash hash = Hash::kSha256;
  Bytes db = Digest(hash, {});
  db.resize(256 - 33, 0);
  Bytes seed(32, 0x33);
  auto encode = [&](const Bytes& block) {
    Bytes masked = Mgf1(hash, seed, block.size());
    for (size_t i = 0; i < block.size(); ++i) masked[i] ^= block[i];
    Bytes out = {0};
    Bytes seed_mask = Mgf1(hash, masked, 32);
    for (size_t i = 0; i < 32; ++i) out.push_back(seed[i] ^ seed_mask[i]);
    out.insert(out.end(), masked.begin(), masked.end());
    return out;
  };
  EXPECT_FALSE(OaepDecode(hash, encode(db)).ok());
  db[40] = 2;
  db[41] = 1;
  EXPECT_FALSE(OaepDecode(hash, encode(db)).ok()) << "something before the 01";
  db[40] = 0;
  auto decoded = OaepDecode(hash, encode(db));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->size(), db.size() - 42);
}

TEST(PssTest, OpenSslVerifiesOurEncoding) {
  auto key = fake_crypto::ParsePrivate(fake_crypto::RsaGenerate(2048));
  Bytes spki = fake_crypto::PublicOf(key.get());
  for (v1::Algorithm algorithm : {v1::ALGORITHM_PS256, v1::ALGORITHM_PS384, v1::ALGORITHM_PS512}) {
    Hash hash = HashOf(algorithm);
    Bytes digest = Digest(hash, Bytes(9, 9));
    Bytes encoded = PssEncode(hash, digest, SystemRandom().Draw(HashBytes(hash)), 2048);
    EXPECT_TRUE(
        fake_crypto::VerifyRsa(spki, algorithm, digest, *fake_crypto::RsaRawPrivate(key.get(), encoded)));
  }
}

}  // namespace
}  // namespace hsm
