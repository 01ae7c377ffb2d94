#include "common/aead.h"

#include <gtest/gtest.h>

#include "common/error.h"

namespace hsm {
namespace {

SecretBytes Key(uint8_t fill) { return SecretBytes(Bytes(kAeadKeyBytes, fill)); }

TEST(AeadTest, OpensWhatWasSealed) {
  Bytes nonce(kAeadNonceBytes, 1);
  for (size_t size : {0u, 1u, 16u, 1000u}) {
    Bytes text(size, 7);
    Bytes sealed = AeadSeal(Key(1), nonce, text, View("place")).value();
    EXPECT_EQ(sealed.size(), size + kAeadTagBytes);
    EXPECT_TRUE(AeadOpen(Key(1), nonce, sealed, View("place")).value().Equals(text));
  }
}

// Test case 15's key size with NIST's empty vector: AES-256, all zero, tag 530f8afb...
TEST(AeadTest, MatchesTheStandard) {
  Bytes sealed = AeadSeal(Key(0), Bytes(12), {}, {}).value();
  EXPECT_EQ(Hex(sealed), "530f8afbc74536b9a963b4f1c4cb738b");
  Bytes longer = AeadSeal(Key(0), Bytes(12), Bytes(16), {}).value();
  EXPECT_EQ(Hex(longer), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
}

TEST(AeadTest, EveryChangeIsSeen) {
  Bytes nonce(kAeadNonceBytes, 1);
  Bytes sealed = AeadSeal(Key(1), nonce, View("text"), View("place")).value();
  for (size_t i = 0; i < sealed.size(); ++i) {
    Bytes changed = sealed;
    changed[i] ^= 1;
    EXPECT_EQ(ReasonOf(AeadOpen(Key(1), nonce, changed, View("place")).status()), v1::REASON_RECORD_CORRUPT);
  }
  EXPECT_FALSE(AeadOpen(Key(1), nonce, sealed, View("other")).ok());
  EXPECT_FALSE(AeadOpen(Key(2), nonce, sealed, View("place")).ok());
  EXPECT_FALSE(AeadOpen(Key(1), Bytes(kAeadNonceBytes, 2), sealed, View("place")).ok());
  EXPECT_FALSE(AeadOpen(Key(1), nonce, Bytes(3), {}).ok());
  EXPECT_EQ(ReasonOf(AeadSeal(Key(1), Bytes(11), {}, {}).status()), v1::REASON_INVALID_ARGUMENT);
}

TEST(AeadTest, HashesMatchTheStandards) {
  EXPECT_EQ(Hex(Sha256(View("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  // RFC 4231, case 2.
  EXPECT_EQ(Hex(HmacSha256(SecretBytes(ToBytes("Jefe")), View("what do ya want for nothing?"))),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  // RFC 5869, case 3 (no salt, no info).
  EXPECT_EQ(Hex(HkdfSha256(SecretBytes(Bytes(22, 0x0b)), {}, 42).Expose()),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

}  // namespace
}  // namespace hsm
