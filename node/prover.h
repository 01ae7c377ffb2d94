#pragma once
// Turns sealed versions into keys in the token, and shows that they are the very keys. A proof covers a
// message this node builds itself (common/replica: ProofMessage), so no proof signs or decrypts anybody's
// bytes. Narrowed key operations do not stop a proof: it uses an object of its own policy then, which is
// destroyed at once. Thread-safe.
#include "absl/status/statusor.h"
#include "hsm/internal/v1/partition.pb.h"
#include "node/core.h"

namespace hsm {

class NodeProver {
 public:
  explicit NodeProver(NodeCore& core) : core_(core) {}

  // Unwraps a record whose MAC has been checked. The public part comes along.
  absl::StatusOr<CachedKeyPtr> Unwrap(const VersionRecord& record, KeyUse use, OperationSet operations) const;

  // Answers the challenge. `different` is set when the key does not match the record's public part. `key` may
  // be null.
  absl::StatusOr<internal::v1::Proof> Prove(const VersionRecord& record, OperationSet operations,
                                            CachedKeyPtr key, ByteView nonce) const;

  // What tells, after a restart, that a symmetric key is the one that was proved; 8 bytes, empty for the
  // others.
  absl::StatusOr<std::string> CheckValue(const VersionRecord& record, const CachedKey& key) const;

  // The key of one held version, from the cache or unwrapped from the blob store: MACs of head and version
  // checked, the check value compared, or for asymmetric keys left to the caller while !checked
  // (PROOF_FAILED, RECORD_CORRUPT ...).
  absl::StatusOr<CachedKeyPtr> Load(const std::shared_ptr<KeyIndex>& index, const IndexEntryPtr& entry,
                                    const VersionEntry& version, KeyUse use) const;
  // Signs or decrypts something of its own and compares; sets `checked`. PROOF_FAILED: the version is
  // unproved from now on.
  absl::Status SelfCheck(const std::shared_ptr<KeyIndex>& index, const IndexEntry& entry,
                         const KeyVersion& version, const CachedKeyPtr& key) const;
  // Durably takes back what a wrong key had been believed to be.
  absl::Status Distrust(const std::shared_ptr<KeyIndex>& index, const KeyUid& uid,
                        const KeyVersion& version) const;

 private:
  absl::StatusOr<CachedKeyPtr> LoadCold(const std::shared_ptr<KeyIndex>& index, const IndexEntryPtr& entry,
                                        const VersionEntry& version, KeyUse use) const;
  absl::Status CheckHead(const std::shared_ptr<KeyIndex>& index, const IndexEntryPtr& entry) const;
  absl::StatusOr<Bytes> Answer(const CachedKey& key, ByteView message, bool& different) const;

  NodeCore& core_;
};

}  // namespace hsm
