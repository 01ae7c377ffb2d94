#pragma once
// Calls that any READY partition can answer, and what backup and restore both do with keys.
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "common/error.h"
#include "common/secret.h"
#include "coordinator/core.h"

namespace hsm {

// The partitions that can work for a job: READY ones. While the HSM is being restored nobody serves and
// nobody is brought in step, so after a change of leader none is READY; there, all that answer and have the
// right domain can.
std::vector<size_t> Workers(Core& core);

// Tries those partitions one after the other until one answers; an answer that is the request's fault ends it
// at once. NO_PARTITION if none is READY.
template <typename Answer>
absl::StatusOr<Answer> AnyReady(Core& core,
                                const std::function<absl::StatusOr<Answer>(PartitionClient&)>& call) {
  absl::Status last = Error(v1::REASON_NO_PARTITION, "no partition is READY");
  for (size_t i : Workers(core)) {
    absl::StatusOr<Answer> answer = call(core.cluster.client(i));
    if (answer.ok()) return answer;
    last = answer.status();
    const v1::Reason reason = ReasonOf(last);
    const bool elsewhere = IsDeviceFailure(reason) || reason == v1::REASON_BUSY ||
                           reason == v1::REASON_NOT_ACTIVE || reason == v1::REASON_DEADLINE_EXCEEDED ||
                           reason == v1::REASON_UNREACHABLE;
    if (!elsewhere) return last;
  }
  return last;
}

// Worth trying again by itself: the cluster or the network may be better in a moment.
bool IsPassing(v1::Reason reason);

// The key that seals one chunk attempt; made inside a token.
absl::StatusOr<SecretBytes> DeriveChunkKey(Core& core, const rpc::DeriveAeadRequest& request);

// The Merkle leaf of a key from its records, or from a backup's copy.
absl::StatusOr<Bytes> InventoryLeafOf(const rpc::KeyRecords& records);
absl::StatusOr<Bytes> InventoryLeafOf(const rpc::BackupKey& key);

}  // namespace hsm
