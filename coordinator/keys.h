#pragma once
// What callers do with keys, short of using them: create, look, change, rotate, delete, recover, purge,
// prove. Each call checks the caller's right here, where the effect happens. DESIGN sections 6 and 8.
// Thread-safe; calls block.
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/status_macros.h"
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
  absl::StatusOr<v1::DeletedKey> Delete(const Caller& caller, const v1::DeleteKeyRequest& request);
  absl::StatusOr<v1::DeletedKey> GetDeleted(const Caller& caller, const v1::GetDeletedKeyRequest& request);
  absl::StatusOr<v1::ListDeletedKeysResponse> ListDeleted(const Caller& caller,
                                                          const v1::ListDeletedKeysRequest& request);
  absl::StatusOr<v1::Key> Recover(const Caller& caller, const v1::RecoverDeletedKeyRequest& request);
  absl::StatusOr<v1::PurgeDeletedKeyResponse> Purge(const Caller& caller,
                                                    const v1::PurgeDeletedKeyRequest& request);
  absl::StatusOr<v1::ProveKeyResponse> Prove(const Caller& caller, const v1::ProveKeyRequest& request);

  // A deleted key whose retention has ended; who calls it has made sure of that.
  absl::Status PurgeExpired(const std::string& name);
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
  absl::StatusOr<std::string> TrySetAttributes(const Caller& caller,
                                               const v1::SetKeyAttributesRequest& request,
                                               const OpIds::Begun& begun, bool& again);
  absl::StatusOr<std::string> TryDelete(const Caller& caller, const std::string& name,
                                        const OpIds::Begun& begun, bool& again);
  absl::StatusOr<std::string> TryPurge(const AuditFields& audit, const KeyEntry& entry,
                                       const OpIds::Begun* begun, bool& again);
  // One effect per op id. `attempt` gives the serialized answer, or sets `again` when others were faster.
  using ChangeAttempt = std::function<absl::StatusOr<std::string>(const OpIds::Begun&, bool& again)>;
  absl::StatusOr<std::string> ChangeOnce(const Caller& caller, std::string_view operation,
                                         const std::string& name, const std::string& op_id,
                                         const std::string& bytes, const ChangeAttempt& attempt);
  template <typename Answer, typename Request>
  absl::StatusOr<Answer> DoOnce(const Caller& caller, std::string_view operation, const Request& request,
                                const ChangeAttempt& attempt) {
    HSM_ASSIGN_OR_RETURN(std::string bytes, ChangeOnce(caller, operation, request.name(), request.op_id(),
                                                       BareBytes(request), attempt));
    return ParseAnswer<Answer>(bytes);
  }
  struct HeadChange {
    AuditFields audit;
    KeyEntryPtr entry;
    KeyHead expected;  // but for revision and times
    bool revoking = false;
    std::function<std::string(const KeyHead&)> answer;  // serialized
  };
  absl::StatusOr<std::string> ChangeHead(const HeadChange& wanted, rpc::TransitionRequest transition,
                                         const OpIds::Begun& begun, bool& again);
  rpc::StoredOp OpRecordOf(const AuditFields& audit, const KeyHead& head, bool revoking,
                           const std::string& answer) const;
  absl::Status NeedQuorum() const;
  absl::Status FinishHead(const rpc::StoredOp& before, const std::string& name);
  absl::Status SpreadHead(const KeyHead& head, const rpc::SealedRecord& sealed, bool revoking);
  absl::Status EraseVersions(const rpc::StoredTombstone& tombstone);
  // KEY_NOT_FOUND unless the key is there, not deleted; unless it is deleted.
  absl::StatusOr<KeyEntryPtr> Live(const std::string& name) const;
  absl::StatusOr<KeyEntryPtr> Deleted(const std::string& name) const;
  absl::Status CheckFree(const std::string& name) const;  // KEY_EXISTS, also for a deleted key

  Core& core_;
  Replicator& replicator_;
  Prover& prover_;
  OpIds op_ids_;
};

uint32_t PageSize(uint32_t asked);  // 1 to limits::kPageSizeMax; 0 = the default

// How a key looks from outside. `with_public`: lists carry no public part.
v1::Key ShowKey(const CoordinatorConfig& config, const KeyHead& head, const EntryVersion& version,
                bool with_public);

}  // namespace hsm
