#pragma once
// Shamir's secret sharing over the integers modulo 257, in the share format of the security domain file.
//
// Each byte s of the secret is the constant term of its own random polynomial of degree quorum-1. Share x (1
// to 126) holds, for each byte, the word (x << 9) | v with v in 0..256 the polynomial's value at x, as 16
// bits little endian: a share has twice the secret's length. Fewer than `quorum` shares say nothing about the
// secret. Nothing here proves that a share is genuine; what is sealed under the secret does. Pure functions.
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/random.h"
#include "common/secret.h"

namespace hsm {

inline constexpr int kShamirSharesMax = 126;

// INVALID_ARGUMENT unless 2 <= quorum <= shares <= 126 and the secret has 1 to 4,096 bytes.
absl::StatusOr<std::vector<SecretBytes>> SplitSecret(const SecretBytes& secret, int quorum, int shares,
                                                     Random& random);

// From `quorum` shares; if more are given, all must lie on the same polynomials. INVALID_ARGUMENT: too few
// shares; shares of different length, two with the same x, words that no split makes, shares that do not fit
// each other.
absl::StatusOr<SecretBytes> JoinShares(std::span<const SecretBytes> shares, int quorum);

}  // namespace hsm
