#pragma once
// AES-256-GCM with a 12-byte nonce and a 16-byte tag behind the ciphertext. A key never seals two texts under
// one nonce: callers use a key once, or count.
#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/secret.h"

namespace hsm {

inline constexpr size_t kAeadKeyBytes = 32;
inline constexpr size_t kAeadNonceBytes = 12;
inline constexpr size_t kAeadTagBytes = 16;

absl::StatusOr<Bytes> AeadSeal(const SecretBytes& key, ByteView nonce, ByteView plaintext,
                               ByteView associated);
// RECORD_CORRUPT if key, nonce, ciphertext or associated data is not what was sealed.
absl::StatusOr<SecretBytes> AeadOpen(const SecretBytes& key, ByteView nonce, ByteView sealed,
                                     ByteView associated);

Bytes Sha256(ByteView data);
Bytes HmacSha256(const SecretBytes& key, ByteView data);
// HKDF-SHA-256 (RFC 5869) with an empty salt.
SecretBytes HkdfSha256(const SecretBytes& secret, ByteView info, size_t size);

}  // namespace hsm
