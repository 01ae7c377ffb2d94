#include "common/shamir.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::SeededRandom;

SecretBytes Secret(std::string_view text) { return SecretBytes(ToBytes(text)); }
std::vector<SecretBytes> Some(const std::vector<SecretBytes>& shares, std::initializer_list<size_t> which) {
  std::vector<SecretBytes> out;
  for (size_t i : which) out.push_back(shares[i].Clone());
  return out;
}

// The worked example of the format: s = 0x2a, slope 5.
TEST(ShamirTest, MatchesTheFormatsExample) {
  std::vector<SecretBytes> shares;
  for (const char* hex : {"2f02", "3404", "3906"}) shares.emplace_back(*FromHex(hex));
  for (auto which : {std::initializer_list<size_t>{0, 1}, {0, 2}, {1, 2}, {2, 0}}) {
    EXPECT_EQ(Hex(JoinShares(Some(shares, which), 2)->Expose()), "2a");
  }
  EXPECT_EQ(Hex(JoinShares(shares, 2)->Expose()), "2a");
}

TEST(ShamirTest, EveryQuorumJoinsAndFewerDoNot) {
  SeededRandom random(7);
  Bytes all(256);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i);
  const SecretBytes secret(all);
  for (int quorum = 2; quorum <= 5; ++quorum) {
    const auto shares = SplitSecret(secret, quorum, 5, random).value();
    for (uint32_t mask = 0; mask < 32; ++mask) {
      std::vector<SecretBytes> some;
      for (size_t i = 0; i < 5; ++i) {
        if (mask >> i & 1) some.push_back(shares[i].Clone());
      }
      const auto joined = JoinShares(some, quorum);
      EXPECT_EQ(joined.ok(), some.size() >= static_cast<size_t>(quorum));
      if (joined.ok()) {
        EXPECT_TRUE(joined->Equals(secret.Expose()));
      }
    }
  }
}

// With one share less than the quorum every secret is as likely as every other: here each of the 257 values
// can be reached by choosing the missing share.
TEST(ShamirTest, OneShareLessSaysNothing) {
  SeededRandom random(8);
  const auto shares = SplitSecret(Secret("x"), 2, 2, random).value();
  std::vector<bool> seen(256);
  for (uint32_t value = 0; value < 257; ++value) {
    const uint32_t word = 2 << 9 | value;
    std::vector<SecretBytes> guess = Some(shares, {0});
    guess.emplace_back(Bytes{static_cast<uint8_t>(word & 0xff), static_cast<uint8_t>(word >> 8)});
    const auto joined = JoinShares(guess, 2);
    if (joined.ok()) seen[joined->Expose()[0]] = true;
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 256);
}

TEST(ShamirTest, DamagedOrForeignSharesAreRefused) {
  SeededRandom random(9);
  const auto shares = SplitSecret(Secret("a secret of some length"), 2, 3, random).value();
  const auto foreign = SplitSecret(Secret("a secret of some lengtk"), 2, 3, random).value();
  auto refused = [](std::vector<SecretBytes> given) {
    return ReasonOf(JoinShares(given, 2).status()) == v1::REASON_INVALID_ARGUMENT;
  };
  EXPECT_TRUE(refused(Some(shares, {0})));
  EXPECT_TRUE(refused(Some(shares, {1, 1})));
  auto mixed = Some(shares, {0, 1});
  mixed.push_back(foreign[2].Clone());
  EXPECT_TRUE(refused(std::move(mixed)));
  for (size_t at : {0u, 1u, 7u}) {  // another x in one word only
    auto changed = Some(shares, {0, 1});
    changed[0].ExposeForWriting()[2 * at + 1] ^= 4;
    EXPECT_TRUE(refused(std::move(changed)));
  }
  auto high = Some(shares, {0, 1});  // v = 511
  high[0].ExposeForWriting()[0] = 0xff;
  high[0].ExposeForWriting()[1] |= 1;
  EXPECT_TRUE(refused(std::move(high)));
  auto zero = Some(shares, {0, 1});
  for (size_t i = 1; i < zero[0].size(); i += 2) zero[0].ExposeForWriting()[i] &= 1;
  EXPECT_TRUE(refused(std::move(zero)));
  std::vector<SecretBytes> odd = Some(shares, {0});
  odd.emplace_back(Bytes(3, 2));
  EXPECT_TRUE(refused(std::move(odd)));
  EXPECT_TRUE(refused({}));
}

TEST(ShamirTest, ArgumentsAreChecked) {
  SeededRandom random(10);
  for (auto [quorum, shares] : {std::pair{1, 3}, {4, 3}, {2, 127}, {0, 0}, {-1, 3}}) {
    EXPECT_EQ(ReasonOf(SplitSecret(Secret("x"), quorum, shares, random).status()),
              v1::REASON_INVALID_ARGUMENT);
  }
  EXPECT_FALSE(SplitSecret(SecretBytes(), 2, 3, random).ok());
  EXPECT_FALSE(SplitSecret(SecretBytes(size_t{4097}), 2, 3, random).ok());
}

}  // namespace
}  // namespace hsm
