#include "common/shamir.h"

#include <fmt/format.h>

#include <set>

#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr uint32_t kPrime = 257;
constexpr size_t kSecretBytesMax = 4096;

uint32_t Power(uint32_t base, uint32_t exponent) {
  uint32_t out = 1;
  for (uint32_t i = 0; i < exponent; ++i) out = out * base % kPrime;
  return out;
}
uint32_t Inverse(uint32_t value) { return Power(value, kPrime - 2); }

absl::Status Malformed(std::string_view what) { return Error(v1::REASON_INVALID_ARGUMENT, what); }

uint32_t WordAt(const SecretBytes& share, size_t i) {
  const ByteView bytes = share.Expose();
  return bytes[2 * i] | static_cast<uint32_t>(bytes[2 * i + 1]) << 8;
}

// The x that all words of a share must carry.
absl::StatusOr<uint32_t> CheckedX(const SecretBytes& share) {
  const uint32_t x = WordAt(share, 0) >> 9;
  if (x == 0 || x > static_cast<uint32_t>(kShamirSharesMax))
    return Malformed("a share has an impossible number");
  for (size_t i = 0; i < share.size() / 2; ++i) {
    const uint32_t word = WordAt(share, i);
    if (word >> 9 != x || (word & 0x1ff) >= kPrime) return Malformed("a share is damaged");
  }
  return x;
}

// What values at xs[0..n) of a polynomial of degree n-1 are worth at `at`.
std::vector<uint32_t> LagrangeFactors(std::span<const uint32_t> xs, uint32_t at) {
  std::vector<uint32_t> factors;
  for (size_t i = 0; i < xs.size(); ++i) {
    uint32_t above = 1, below = 1;
    for (size_t j = 0; j < xs.size(); ++j) {
      if (j == i) continue;
      above = above * (kPrime + at - xs[j]) % kPrime;
      below = below * (kPrime + xs[i] - xs[j]) % kPrime;
    }
    factors.push_back(above * Inverse(below) % kPrime);
  }
  return factors;
}

uint32_t Interpolate(std::span<const SecretBytes> shares, const std::vector<uint32_t>& factors, size_t i) {
  uint32_t sum = 0;
  for (size_t k = 0; k < factors.size(); ++k) sum += (WordAt(shares[k], i) & 0x1ff) * factors[k] % kPrime;
  return sum % kPrime;
}

}  // namespace

absl::StatusOr<std::vector<SecretBytes>> SplitSecret(const SecretBytes& secret, int quorum, int shares,
                                                     Random& random) {
  if (quorum < 2 || quorum > shares || shares > kShamirSharesMax) {
    return Malformed(fmt::format("{} of {} shares: the quorum is at least 2, and at most the {} there may be",
                                 quorum, shares, kShamirSharesMax));
  }
  if (secret.empty() || secret.size() > kSecretBytesMax)
    return Malformed("a secret to share has 1 to 4096 bytes");
  std::vector<SecretBytes> out;
  for (int x = 1; x <= shares; ++x) out.emplace_back(2 * secret.size());
  std::vector<uint32_t> coefficients(static_cast<size_t>(quorum));
  for (size_t i = 0; i < secret.size(); ++i) {
    coefficients[0] = secret.Expose()[i];
    for (size_t k = 1; k < coefficients.size(); ++k)
      coefficients[k] = static_cast<uint32_t>(random.Below(kPrime));
    for (int x = 1; x <= shares; ++x) {
      const auto at = static_cast<uint32_t>(x);
      uint32_t value = 0;
      for (size_t k = coefficients.size(); k-- > 0;) value = (value * at + coefficients[k]) % kPrime;
      const uint32_t word = at << 9 | value;
      std::span<uint8_t> share = out[static_cast<size_t>(x - 1)].ExposeForWriting();
      share[2 * i] = static_cast<uint8_t>(word & 0xff);
      share[2 * i + 1] = static_cast<uint8_t>(word >> 8);
    }
  }
  std::fill(coefficients.begin(), coefficients.end(), 0);
  return out;
}

absl::StatusOr<SecretBytes> JoinShares(std::span<const SecretBytes> shares, int quorum) {
  if (quorum < 2 || quorum > kShamirSharesMax) return Malformed("a quorum is 2 to 126");
  const auto needed = static_cast<size_t>(quorum);
  if (shares.size() < needed) {
    return Malformed(fmt::format("{} shares are needed, {} were given", quorum, shares.size()));
  }
  std::vector<uint32_t> xs;
  for (const SecretBytes& share : shares) {
    if (share.size() < 2 || share.size() % 2 != 0 || share.size() > 2 * kSecretBytesMax ||
        share.size() != shares[0].size()) {
      return Malformed("the shares have different lengths, or one that no share has");
    }
    HSM_ASSIGN_OR_RETURN(uint32_t x, CheckedX(share));
    xs.push_back(x);
  }
  if (std::set<uint32_t>(xs.begin(), xs.end()).size() != xs.size())
    return Malformed("one share was given twice");

  const std::span<const uint32_t> used(xs.data(), needed);
  const std::vector<uint32_t> at_zero = LagrangeFactors(used, 0);
  SecretBytes secret(shares[0].size() / 2);
  for (size_t i = 0; i < secret.size(); ++i) {
    const uint32_t value = Interpolate(shares, at_zero, i);
    if (value > 255) return Malformed("the shares do not belong together");
    secret.ExposeForWriting()[i] = static_cast<uint8_t>(value);
  }
  for (size_t extra = needed; extra < shares.size(); ++extra) {
    const std::vector<uint32_t> there = LagrangeFactors(used, xs[extra]);
    for (size_t i = 0; i < secret.size(); ++i) {
      if (Interpolate(shares, there, i) != (WordAt(shares[extra], i) & 0x1ff)) {
        return Malformed("the shares do not belong together");
      }
    }
  }
  return secret;
}

}  // namespace hsm
