#include "common/bytes.h"

#include <gtest/gtest.h>

#include "common/ids.h"
#include "common/random.h"

namespace hsm {
namespace {

TEST(BytesTest, Base64UrlRoundTripsEveryLength) {
  for (size_t size = 0; size < 100; ++size) {
    Bytes bytes = SystemRandom().Draw(size);
    EXPECT_EQ(FromBase64Url(Base64Url(bytes)), bytes);
  }
}

TEST(BytesTest, Base64UrlKnownValues) {
  EXPECT_EQ(Base64Url(View("\xfb\xff")), "-_8");
  EXPECT_EQ(FromBase64Url("-_8="), ToBytes("\xfb\xff"));
  EXPECT_EQ(FromBase64Url("Zg=="), ToBytes("f"));
}

TEST(BytesTest, Base64UrlRefusesOtherSpellings) {
  for (std::string_view bad : {"-_9", "a", "Zg=", "Z+8", "Zg===", "=", "Z g"}) {
    EXPECT_FALSE(FromBase64Url(bad).has_value()) << bad;
  }
}

TEST(BytesTest, HexRoundTripsAndRefuses) {
  EXPECT_EQ(Hex(ToBytes("\x01\xab")), "01ab");
  EXPECT_EQ(FromHex("01AB"), ToBytes("\x01\xab"));
  EXPECT_FALSE(FromHex("0").has_value());
  EXPECT_FALSE(FromHex("0g").has_value());
}

TEST(BytesTest, PrincipalsAreGuids) {
  auto id = ParsePrincipal("urn:uuid:a290e904-7015-4bba-90c8-60543313cdb4");
  ASSERT_TRUE(id.has_value());
  EXPECT_EQ(GuidText(*id), "a290e904-7015-4bba-90c8-60543313cdb4");
  EXPECT_FALSE(ParsePrincipal("a290e90470154bba90c860543313cdb4").has_value());
}

TEST(BytesTest, OpIdsCarryTheirTime) {
  OpId id = SystemRandom().NewOpId(RealClock());
  EXPECT_NEAR(static_cast<double>(OpIdTimeMs(id)), static_cast<double>(absl::ToUnixMillis(RealClock().Now())),
              60'000);
}

}  // namespace
}  // namespace hsm
