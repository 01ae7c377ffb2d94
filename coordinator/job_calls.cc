#include "coordinator/job_calls.h"

#include <openssl/crypto.h>

#include "common/status_macros.h"
#include "coordinator/backup_file.h"

namespace hsm {
namespace {

constexpr absl::Duration kDeriveTimeout = absl::Seconds(10);

absl::StatusOr<Bytes> Leaf(const rpc::SealedRecord& sealed_head,
                           const std::vector<const rpc::SealedRecord*>& sealed) {
  HSM_ASSIGN_OR_RETURN(const KeyHead head, DecodeHead(sealed_head));
  std::vector<VersionRecord> versions;
  for (const rpc::SealedRecord* record : sealed) {
    HSM_ASSIGN_OR_RETURN(VersionRecord version, DecodeVersion(*record));
    versions.push_back(std::move(version));
  }
  return InventoryLeaf(head, versions);
}

}  // namespace

bool IsPassing(v1::Reason reason) {
  switch (reason) {
    case v1::REASON_NO_QUORUM:
    case v1::REASON_NO_PARTITION:
    case v1::REASON_BUSY:
    case v1::REASON_DEADLINE_EXCEEDED:
    case v1::REASON_NOT_ACTIVE:
    case v1::REASON_UNREACHABLE:
    case v1::REASON_OUTCOME_UNKNOWN:
    case v1::REASON_TOKEN_FAILED:
    case v1::REASON_TOKEN_SESSION:
    case v1::REASON_TOKEN_CAPACITY:
    case v1::REASON_PROOF_FAILED:
      return true;
    default:
      return false;
  }
}

std::vector<size_t> Workers(Core& core) {
  const bool restoring = core.state.View()->mode == rpc::HSM_MODE_RESTORING;
  std::vector<size_t> workers;
  for (size_t i = 0; i < core.cluster.size(); ++i) {
    const PartitionView view = core.cluster.View(i);
    const bool in_step = view.state == v1::PARTITION_STATE_READY;
    const bool answers = view.state == v1::PARTITION_STATE_SYNCING && TakesRecords(view.state, view.facts);
    if (in_step || (restoring && answers)) workers.push_back(i);
  }
  return workers;
}

absl::StatusOr<SecretBytes> DeriveChunkKey(Core& core, const rpc::DeriveAeadRequest& request) {
  HSM_ASSIGN_OR_RETURN(rpc::DeriveAeadResponse answer,
                       AnyReady<rpc::DeriveAeadResponse>(core, [&](PartitionClient& client) {
                         return client.DeriveAead(request, kDeriveTimeout);
                       }));
  SecretBytes key(ToBytes(answer.key()));
  OPENSSL_cleanse(answer.mutable_key()->data(), answer.key().size());
  if (key.size() != 32) return Error(v1::REASON_INTERNAL, "a partition derived a key of the wrong size");
  return key;
}

absl::StatusOr<Bytes> InventoryLeafOf(const rpc::KeyRecords& records) {
  std::vector<const rpc::SealedRecord*> versions;
  for (const rpc::SealedRecord& version : records.versions()) versions.push_back(&version);
  return Leaf(records.head(), versions);
}

absl::StatusOr<Bytes> InventoryLeafOf(const rpc::BackupKey& key) {
  std::vector<const rpc::SealedRecord*> versions;
  for (const rpc::BackupVersion& version : key.versions()) versions.push_back(&version.record());
  return Leaf(key.head(), versions);
}

}  // namespace hsm
