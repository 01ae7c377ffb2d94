#pragma once
// Whether a partition's answer to a challenge shows that it holds the very key. Public-key arithmetic only;
// no state.
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/record.h"
#include "common/replica.h"
#include "hsm/internal/v1/partition.pb.h"
#include "hsm/v1/key.pb.h"

namespace hsm {

// The key version a proof is about, and the challenge.
struct Challenge {
  HsmId hsm;
  KeyUid uid;
  uint32_t incarnation = 1;
  KeyVersion version;
  KeySpec spec;
  OperationSet operations = 0;
  ByteView spki;  // DER; empty for oct
  ByteView nonce;
  std::string_view node;  // the partition that was asked
};

// For asymmetric keys: PROVED or DIFFERENT. A key that may sign must have signed; one that may not
// (decrypt-only RSA) must have decrypted what the node encrypted. For symmetric keys: SELF_CHECKED if it gave
// a comparison value, to be compared with other partitions' (CompareAnswers).
v1::ProofResult CheckProof(const Challenge& challenge, const internal::v1::Proof& proof);

// Verifies a signature over a digest: ECDSA r||s, or RSA PKCS#1 v1.5 with the SHA-256 DigestInfo.
bool VerifyDigestSignature(ByteView spki, ByteView digest, ByteView signature);

}  // namespace hsm
