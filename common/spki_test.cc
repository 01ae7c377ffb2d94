#include "common/spki.h"

#include <gtest/gtest.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include <string>

namespace hsm {
namespace {

using Key = std::shared_ptr<EVP_PKEY>;

Key Made(EVP_PKEY* key) { return Key(key, EVP_PKEY_free); }

Bytes SpkiOf(const Key& key) {
  unsigned char* der = nullptr;
  int size = i2d_PUBKEY(key.get(), &der);
  Bytes out(der, der + size);
  OPENSSL_free(der);
  return out;
}

class SpkiTest : public ::testing::TestWithParam<const char*> {
 protected:
  static Key Make(const std::string& kind) {
    if (kind.starts_with("rsa")) return Made(EVP_RSA_gen(static_cast<unsigned>(std::stoul(kind.substr(3)))));
    return Made(EVP_EC_gen(kind.c_str()));
  }
};

TEST_P(SpkiTest, IsTheKeyThatWasEncoded) {
  const Key key = Make(GetParam());
  ASSERT_NE(key, nullptr);
  const Key parsed = PublicKeyFromSpki(SpkiOf(key));
  ASSERT_NE(parsed, nullptr);
  EXPECT_EQ(EVP_PKEY_eq(parsed.get(), key.get()), 1);
  EXPECT_EQ(EVP_PKEY_get_base_id(parsed.get()), EVP_PKEY_get_base_id(key.get()));
  EXPECT_EQ(EVP_PKEY_get_bits(parsed.get()), EVP_PKEY_get_bits(key.get()));
  EXPECT_EQ(SpkiOf(parsed), SpkiOf(key));
}

TEST_P(SpkiTest, NothingShorterOrLongerIsAKey) {
  const Bytes good = SpkiOf(Make(GetParam()));
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(PublicKeyFromSpki(ByteView(good).first(size)), nullptr) << size;
  }
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_EQ(PublicKeyFromSpki(longer), nullptr);
}

// The short way takes nothing that the general one would not, and takes it for the same key.
TEST_P(SpkiTest, AlteredBytesAreWhatTheGeneralDecoderSays) {
  const Bytes good = SpkiOf(Make(GetParam()));
  for (size_t at = 0; at < good.size(); at += at < 40 ? 1 : 7) {
    for (uint8_t flip : {0x01, 0x80}) {
      Bytes bad = good;
      bad[at] ^= flip;
      const unsigned char* end = bad.data();
      Key general = Made(d2i_PUBKEY(nullptr, &end, static_cast<long>(bad.size())));
      if (end != bad.data() + bad.size()) general = nullptr;
      const Key parsed = PublicKeyFromSpki(bad);
      ASSERT_EQ(parsed == nullptr, general == nullptr) << at;
      if (parsed != nullptr) {
        EXPECT_EQ(EVP_PKEY_eq(parsed.get(), general.get()), 1) << at;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SpkiTest,
                         ::testing::Values("P-256", "P-384", "P-521", "secp256k1", "rsa2048", "rsa3072"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(SpkiOtherTest, APointOffTheCurveIsNoKey) {
  Bytes spki = SpkiOf(Made(EVP_EC_gen("P-256")));
  spki.back() ^= 1;
  EXPECT_EQ(PublicKeyFromSpki(spki), nullptr);
}

TEST(SpkiOtherTest, EncodingsOfOthersTakeTheGeneralWay) {
  const Key key = Made(EVP_EC_gen("P-256"));
  ASSERT_EQ(EVP_PKEY_set_utf8_string_param(key.get(), "point-format", "compressed"), 1);
  const Bytes compressed = SpkiOf(key);
  ASSERT_LT(compressed.size(), 91u);
  const Key parsed = PublicKeyFromSpki(compressed);
  ASSERT_NE(parsed, nullptr);
  EXPECT_EQ(EVP_PKEY_eq(parsed.get(), key.get()), 1);
}

TEST(SpkiOtherTest, OtherKindsOfKeysAreNotTaken) {
  EXPECT_EQ(PublicKeyFromSpki(SpkiOf(Made(EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519")))), nullptr);
  EXPECT_EQ(PublicKeyFromSpki({}), nullptr);
}

}  // namespace
}  // namespace hsm
