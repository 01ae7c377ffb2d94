#pragma once
// What callers do with keys, short of using them: create, look, change, rotate, destroy, prove. Each call
// checks the caller's right here, where the effect happens. DESIGN sections 6 and 8. Thread-safe; calls
// block.
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/caller.h"
#include "coordinator/core.h"
#include "coordinator/key_state.h"
#include "coordinator/op_ids.h"
#include "coordinator/prover.h"
#include "coordinator/replicator.h"
#include "hsm/v1/key.pb.h"

namespace hsm {

class Keys {
 public:
  Keys(Core& core, Replicator& replicator, Prover& prover)
      : core_(core), replicator_(replicator), prover_(prover), op_ids_(core) {}

  absl::StatusOr<v1::Key> Create(const Caller& caller, const v1::CreateKeyRequest& request);
  absl::StatusOr<v1::Key> Get(const Caller& caller, const v1::GetKeyRequest& request);
  absl::StatusOr<v1::ListKeysResponse> List(const Caller& caller, const v1::ListKeysRequest& request);
  absl::StatusOr<v1::ListKeysResponse> ListVersions(const Caller& caller,
                                                    const v1::ListKeyVersionsRequest& request);
  absl::StatusOr<v1::Key> SetAttributes(const Caller& caller, const v1::SetKeyAttributesRequest& request);
  absl::StatusOr<v1::Key> Rotate(const Caller& caller, const v1::RotateKeyRequest& request);
  absl::StatusOr<v1::DeleteKeyResponse> Delete(const Caller& caller, const v1::DeleteKeyRequest& request);
  absl::StatusOr<v1::ProveKeyResponse> Prove(const Caller& caller, const v1::ProveKeyRequest& request);

  // Erases the version records of destroyed keys from the catalogue; what a crash left is found again.
  absl::Status EraseTombstoned();

 private:
  absl::StatusOr<rpc::NewKey> DecodeCreate(const v1::CreateKeyRequest& request) const;
  // Commits a staged key and activates it; the answer is what the op record remembers.
  absl::StatusOr<v1::Key> CommitStaged(const Caller& caller, std::string_view operation,
                                       const OpIds::Begun& begun, const StagedKey& staged,
                                       KeyEntryPtr before);
  absl::StatusOr<v1::Key> FinishStaged(const rpc::StoredOp& before);
  absl::StatusOr<v1::Key> AnswerOf(const StoreRecord& op_record, const OpIds::Begun& begun);
  absl::Status WaitActive(const OpId& attempt, const KeyUid& uid, Revision revision, uint32_t ordinal);
  // A head with `operation` applied, sealed by some partition that has the newest head.
  absl::StatusOr<rpc::SealedRecord> Transition(const KeyEntry& entry, rpc::TransitionRequest request);
  absl::StatusOr<v1::Key> TrySetAttributes(const Caller& caller, const v1::SetKeyAttributesRequest& request,
                                           const OpIds::Begun& begun, bool& again);
  absl::StatusOr<v1::DeleteKeyResponse> TryDelete(const Caller& caller, const std::string& name,
                                                  const OpIds::Begun& begun, bool& again);
  absl::Status FinishHead(const rpc::StoredOp& before, const std::string& name);
  absl::Status SpreadHead(const KeyHead& head, const rpc::SealedRecord& sealed, bool revoking);
  absl::Status EraseVersions(const rpc::StoredTombstone& tombstone);
  absl::Status NotThere(const std::string& name) const;

  Core& core_;
  Replicator& replicator_;
  Prover& prover_;
  OpIds op_ids_;
};

// How a key looks from outside. `with_public`: lists carry no public part.
v1::Key ShowKey(const CoordinatorConfig& config, const KeyHead& head, const EntryVersion& version,
                bool with_public);

}  // namespace hsm
