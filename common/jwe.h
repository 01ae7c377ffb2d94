#pragma once
// JSON Web Encryption, compact form (RFC 7516), as far as the security domain's files use it: `alg` is dir or
// RSA-OAEP-256, `enc` is A256CBC-HS512, `kid` is a text; nothing else is read. The tag has 32 bytes and is
// checked before anything is decrypted.
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/random.h"
#include "common/secret.h"

namespace hsm {

inline constexpr size_t kJweKeyBytes = 64;         // MAC key, then AES-256 key
inline constexpr size_t kJweBytesMax = 64 * 1024;  // of the compact text
inline constexpr size_t kJwePlainBytesMax = 32 * 1024;

// alg "dir". INVALID_ARGUMENT: key or text of a wrong size, or a kid that is not 1 to 128 printable
// characters.
absl::StatusOr<std::string> JweSeal(const SecretBytes& key, std::string_view kid,
                                    const SecretBytes& plaintext, Random& random);
// INVALID_ARGUMENT: not such a JWE, or another kid. DECRYPTION_FAILED: another key, or it was altered.
absl::StatusOr<SecretBytes> JweOpen(std::string_view compact, const SecretBytes& key, std::string_view kid);

// alg "RSA-OAEP-256" to a DER SubjectPublicKeyInfo, with a random key and kid "not used".
absl::StatusOr<std::string> JweSealTo(ByteView spki, const SecretBytes& plaintext, Random& random);
// `unwrap` opens the encrypted key (RSA-OAEP, SHA-256); it may be a token that does it.
using JweUnwrap = std::function<absl::StatusOr<SecretBytes>(ByteView encrypted_key)>;
absl::StatusOr<SecretBytes> JweOpenWith(std::string_view compact, const JweUnwrap& unwrap);

}  // namespace hsm
