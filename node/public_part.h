#pragma once
// The public half of a key version, from the SPKI of its sealed record: verify and RSA encryption happen
// here, in OpenSSL, not in the token (the record's MAC vouches for the SPKI). Immutable and thread-safe once
// made.
#include <memory>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/record.h"

struct evp_pkey_st;

namespace hsm {

class PublicPart {
 public:
  // RECORD_CORRUPT unless `spki` is a public key of just this spec.
  static absl::StatusOr<PublicPart> Parse(const KeySpec& spec, ByteView spki);

  // `digest` has the algorithm's hash length, or is shorter for proofs; ECDSA signatures are r||s. A
  // signature that does not fit is false, not an error.
  bool Verify(v1::Algorithm algorithm, ByteView digest, ByteView signature) const;
  // RSA-OAEP, RSA-OAEP-256, RSA1_5. DATA_INVALID when the plaintext is too long.
  absl::StatusOr<Bytes> Encrypt(v1::Algorithm algorithm, ByteView plaintext) const;

 private:
  PublicPart(const KeySpec& spec, std::shared_ptr<evp_pkey_st> key) : spec_(spec), key_(std::move(key)) {}
  KeySpec spec_;
  std::shared_ptr<evp_pkey_st> key_;
};

}  // namespace hsm
