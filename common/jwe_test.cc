#include "common/jwe.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/sp800_108.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::SeededRandom;

SecretBytes Key(uint8_t fill) { return SecretBytes(Bytes(kJweKeyBytes, fill)); }
SecretBytes Text(std::string_view text) { return SecretBytes(ToBytes(text)); }

// The vectors of the format's own tools.
TEST(Sp800108Test, MatchesTheFormatsVectors) {
  const SecretBytes key(Bytes(32, 0x41));
  EXPECT_EQ(Hex(DeriveSp800108(key, "label", "context", 32).Expose()),
            "f0ca51f6308791404bf68b56024ee7c64d6c737716f81d47e1e68b5c4e399575");
  EXPECT_EQ(Hex(DeriveSp800108(key, "root", "", 64).Expose()),
            "c7734118079fa3e7c29bedc76fa8ff56e299d96e2af2fd63efe93f13bd24153b"
            "7af96a05c0527c76c1755685d124aa80f1106db3a92e2492357d43b004b26aab");
}

TEST(JweTest, OpensWhatWasSealed) {
  SeededRandom random(1);
  for (size_t size : {0u, 1u, 15u, 16u, 17u, 4000u}) {
    const SecretBytes text(Bytes(size, 9));
    const std::string jwe = JweSeal(Key(1), "tag", text, random).value();
    EXPECT_TRUE(JweOpen(jwe, Key(1), "tag")->Equals(text.Expose())) << size;
  }
}

TEST(JweTest, AnotherKeyOrKidDoesNotOpen) {
  SeededRandom random(2);
  const std::string jwe = JweSeal(Key(1), "tag", Text("text"), random).value();
  EXPECT_EQ(ReasonOf(JweOpen(jwe, Key(2), "tag").status()), v1::REASON_DECRYPTION_FAILED);
  EXPECT_EQ(ReasonOf(JweOpen(jwe, Key(1), "gat").status()), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(JweOpenWith(jwe, [](ByteView) { return Key(1); }).status()),
            v1::REASON_INVALID_ARGUMENT);
}

TEST(JweTest, EveryChangeIsSeen) {
  SeededRandom random(3);
  const std::string jwe = JweSeal(Key(1), "tag", Text("some text"), random).value();
  for (size_t i = 0; i < jwe.size(); ++i) {
    std::string changed = jwe;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    if (changed != jwe) {
      EXPECT_FALSE(JweOpen(changed, Key(1), "tag").ok()) << i;
    }
    EXPECT_FALSE(JweOpen(jwe.substr(0, i), Key(1), "tag").ok()) << i;
  }
  EXPECT_FALSE(JweOpen(jwe + "A", Key(1), "tag").ok());
  EXPECT_FALSE(JweOpen(jwe + ".", Key(1), "tag").ok());
  EXPECT_FALSE(JweOpen(jwe + "=", Key(1), "tag").ok());
}

// A tag of another length must not switch the check off.
TEST(JweTest, AShorterTagIsNoTag) {
  SeededRandom random(4);
  const std::string jwe = JweSeal(Key(1), "tag", Text("text"), random).value();
  const std::string body = jwe.substr(0, jwe.rfind('.') + 1);
  for (size_t size : {0u, 1u, 16u, 31u, 33u, 64u}) {
    EXPECT_EQ(ReasonOf(JweOpen(body + Base64Url(Bytes(size)), Key(1), "tag").status()),
              v1::REASON_INVALID_ARGUMENT);
  }
}

TEST(JweTest, OnlyItsOwnHeaderIsRead) {
  SeededRandom random(5);
  const std::string jwe = JweSeal(Key(1), "tag", Text("text"), random).value();
  const std::string rest = jwe.substr(jwe.find('.'));
  for (const char* header :
       {R"({"alg":"dir","enc":"A128CBC-HS256","kid":"tag"})",
        R"({"alg":"none","enc":"A256CBC-HS512","kid":"tag"})",
        R"({"alg":"dir","enc":"A256CBC-HS512","kid":"tag","zip":"DEF"})",
        R"({"alg":"dir","enc":"A256CBC-HS512","kid":"tag","crit":["x"]})", R"(["dir"])", "{", ""}) {
    EXPECT_EQ(ReasonOf(JweOpen(Base64Url(View(header)) + rest, Key(1), "tag").status()),
              v1::REASON_INVALID_ARGUMENT)
        << header;
  }
}

TEST(JweTest, ArgumentsAreChecked) {
  SeededRandom random(6);
  EXPECT_FALSE(JweSeal(SecretBytes(size_t{63}), "tag", Text("x"), random).ok());
  EXPECT_FALSE(JweSeal(Key(1), "", Text("x"), random).ok());
  EXPECT_FALSE(JweSeal(Key(1), "line\n", Text("x"), random).ok());
  EXPECT_FALSE(JweSeal(Key(1), "tag", SecretBytes(kJwePlainBytesMax + 1), random).ok());
  EXPECT_FALSE(JweSealTo(Bytes(5), Text("x"), random).ok());
  EXPECT_FALSE(JweOpen(std::string(kJweBytesMax + 1, 'A'), Key(1), "tag").ok());
}

}  // namespace
}  // namespace hsm
