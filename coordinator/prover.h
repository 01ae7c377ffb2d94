#pragma once
// Asks partitions to prove key versions and judges their answers. Thread-safe; calls block.
#include <optional>
#include <string>
#include <vector>

#include "coordinator/core.h"
#include "hsm/v1/key.pb.h"

namespace hsm {

struct PartitionProof {
  size_t index = 0;
  v1::ProofResult result = v1::PROOF_RESULT_UNREACHABLE;
  std::string message;
};

struct ProofItem {
  KeyUid uid;
  KeyVersion version;
};

class Prover {
 public:
  explicit Prover(Core& core) : core_(core) {}

  // One fresh challenge to each of `targets`, in parallel. A partition whose answer is wrong is refused from
  // then on, unless nobody can tell which of two is.
  std::vector<PartitionProof> Prove(const KeyEntry& entry, const EntryVersion& version,
                                    const std::vector<size_t>& targets);

  // Many versions on one partition, many in a call and several calls at once. Symmetric keys are compared
  // with a READY partition, or with all others if none is READY; SELF_CHECKED only where no other can answer.
  // In the order of `items`; items whose key is gone meanwhile count as proved.
  std::vector<PartitionProof> ProveMany(size_t index, const std::vector<ProofItem>& items);

 private:
  using Answer = absl::StatusOr<rpc::ProveAnswer>;
  struct Asked;
  std::vector<size_t> Witnesses(size_t index) const;
  PartitionProof Judge(const KeyEntry& entry, const EntryVersion& version, ByteView nonce, size_t index,
                       const std::optional<Answer>& answer, std::string& comparison) const;
  void RefuseWrong(const KeyEntry& entry, const std::vector<PartitionProof>& proofs);
  Core& core_;
};

}  // namespace hsm
