#pragma once
// The encodings between PKCS#11's view of keys and everybody else's: SubjectPublicKeyInfo, curve parameters,
// DigestInfo, OAEP. Pure functions.
#include <cstdint>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/secret.h"
#include "hsm/v1/mechanism.pb.h"

namespace hsm {

enum class Hash { kSha1, kSha256, kSha384, kSha512 };
size_t HashBytes(Hash hash);
Bytes Digest(Hash hash, ByteView data);
// The hash a sign algorithm works on (RS256 -> SHA-256); nothing sensible for algorithms without one.
Hash HashOf(v1::Algorithm algorithm);
// The algorithm proofs and pairwise tests sign with: ES* of the curve, RS256 for keys without one.
v1::Algorithm SignAlgorithmFor(v1::Curve curve);

size_t FieldBytes(v1::Curve curve);         // 32, 48, 66, 32; 32 for Ed25519
ByteView CurveParameters(v1::Curve curve);  // DER, as in CKA_EC_PARAMS

// `point` is 04 || x || y (32 raw bytes for Ed25519). `modulus`, `exponent`: big-endian, leading zeros
// ignored.
Bytes EcSpki(v1::Curve curve, ByteView point);
Bytes RsaSpki(ByteView modulus, ByteView exponent);

struct RsaPublicParts {
  Bytes modulus, exponent;
};
absl::StatusOr<RsaPublicParts> ParseRsaSpki(ByteView spki);  // DATA_INVALID

// RFC 8017, 9.2 step 2: what PKCS#1 v1.5 signatures pad. SHA-256 and longer.
Bytes DigestInfo(Hash hash, ByteView digest);

Bytes Mgf1(Hash hash, ByteView seed, size_t size);
// RFC 8017, 7.1.2 step 3 with an empty label; `encoded` is the raw RSA result, as long as the modulus. Time
// depends on lengths only until the verdict, so that failures cannot be told apart. DECRYPTION_FAILED.
absl::StatusOr<SecretBytes> OaepDecode(Hash hash, ByteView encoded);
// RFC 8017, 9.1.1, with the given salt. `modulus_bits` as in 8.1.1.
Bytes PssEncode(Hash hash, ByteView digest, ByteView salt, size_t modulus_bits);

}  // namespace hsm
