#pragma once
// What coordinator and nodes must compute alike: the bytes a proof is made over, and the digests that tell
// whether a node holds what the catalogue says. Grammar: docs/replication.md, "Proofs" and "Rejoin and
// repair".
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/ids.h"
#include "hsm/v1/crypto.pb.h"

namespace hsm {

namespace limits {
inline constexpr size_t kProofsPerCall = 32;    // challenges in one Prove
inline constexpr size_t kInstallsPerCall = 16;  // items in one Install or Activate
}  // namespace limits

// What a proof of one key version covers; 32 bytes, the SHA-256 of all fields. `node` is empty for symmetric
// keys, so that equal keys give equal answers on two nodes. Signing keys sign exactly these bytes as a
// digest: raw ECDSA (r||s), RSA PKCS#1 v1.5 with the SHA-256 DigestInfo.
struct ProofSubject {
  HsmId hsm;
  KeyUid uid;
  uint32_t incarnation = 1;
  KeyVersion version;
  std::string_view node;
};
Bytes ProofMessage(const ProofSubject& subject, ByteView nonce);

// One key as a bucket digest sees it. Tombstones count like heads, without versions; STAGED and quarantined
// records and `proved` flags do not count.
struct DigestItem {
  KeyUid uid;
  uint32_t incarnation = 1;
  Revision revision = 0;
  std::string head_mac;              // 32 bytes; covers state and policy
  std::vector<KeyVersion> versions;  // any order
};
uint32_t BucketOf(const KeyUid& uid);  // first byte of SHA-256(uid)
// SHA-256 over the items in uid order; of nothing for an empty bucket.
Bytes BucketDigest(std::vector<DigestItem> items);
// HeartbeatRequest.digest: SHA-256 over the 256 bucket digests.
Bytes TotalDigest(const std::vector<Bytes>& buckets);

// The key_ops entry an operation needs; UNSPECIFIED for those that use no key.
v1::KeyOperation NeededOperation(v1::CryptoOperation operation);

}  // namespace hsm
