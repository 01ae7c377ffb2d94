#pragma once
// The key derivation of the security domain file: NIST SP 800-108 in counter mode with HMAC-SHA-512, one
// block.
#include <string_view>

#include "common/secret.h"

namespace hsm {

inline constexpr size_t kSp800108BytesMax = 64;

// The first `size` bytes (1 to 64) of HMAC-SHA-512(key, 00000001 || label || 00 || context || 8*size as 32
// bits).
SecretBytes DeriveSp800108(const SecretBytes& key, std::string_view label, std::string_view context,
                           size_t size);

}  // namespace hsm
