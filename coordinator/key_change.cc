// Changes of a key's head. Commit first, then the partitions: all of them (or the
// end of their leases) for what takes something away, a majority for what adds.
#include <algorithm>

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "coordinator/keys.h"

namespace hsm {
namespace {

constexpr absl::Duration kTransitionTimeout = absl::Seconds(5);
constexpr int kChangeAttempts = 5;  // against others changing the same key

absl::StatusOr<AttributeChange> DecodeChange(const v1::SetKeyAttributesRequest& request) {
  AttributeChange change;
  if (request.has_enabled()) change.enabled = request.enabled();
  if (request.has_not_before()) change.not_before = request.not_before();
  if (request.has_expires()) change.expires = request.expires();
  if (request.set_tags()) {
    change.tags = std::map<std::string, std::string>(request.tags().begin(), request.tags().end());
  }
  if (request.set_operations()) {
    OperationSet operations = 0;
    for (int operation : request.operations()) {
      if (operation <= 0 || operation > v1::KeyOperation_MAX) {
        return Error(v1::REASON_INVALID_ARGUMENT, "an operation is none of the known ones");
      }
      operations |= 1u << operation;
    }
    change.operations = operations;
  }
  return change;
}

rpc::SetAttributes Encoded(const AttributeChange& change) {
  rpc::SetAttributes out;
  if (change.enabled) out.set_enabled(*change.enabled);
  if (change.not_before) out.set_not_before(*change.not_before);
  if (change.expires) out.set_expires(*change.expires);
  if (change.operations) out.set_operations(*change.operations);
  out.set_set_tags(change.tags.has_value());
  if (change.tags) {
    for (const auto& [name, value] : *change.tags) (*out.mutable_tags())[name] = value;
  }
  return out;
}

}  // namespace

absl::StatusOr<rpc::SealedRecord> Keys::Transition(const KeyEntry& entry, rpc::TransitionRequest request) {
  *request.mutable_fence() = core_.Fence();
  request.set_uid(entry.head.uid.Raw());
  request.set_revision(entry.head.revision);
  request.set_now(absl::ToUnixSeconds(core_.clock.Now()));
  absl::Status last = Error(v1::REASON_NO_PARTITION, "no partition can seal the change");
  uint32_t tried = 0;
  std::vector<size_t> others = replicator_.Targets();
  while (true) {
    int index = core_.cluster.Pick(&entry.head.uid, tried, core_.random.Below(UINT64_MAX));
    if (index < 0) {
      // Taking away must work as long as any partition is there, READY or not.
      auto next = std::find_if(others.begin(), others.end(), [&](size_t i) { return (tried >> i & 1) == 0; });
      if (next == others.end()) return last;
      index = static_cast<int>(*next);
    }
    tried |= 1u << index;
    auto answer = core_.cluster.client(index).Transition(request, kTransitionTimeout);
    if (answer.ok()) return std::move(*answer->mutable_head());
    last = answer.status();
    if (ReasonOf(last) == v1::REASON_INVALID_ARGUMENT || ReasonOf(last) == v1::REASON_UNSUPPORTED)
      return last;
  }
}

absl::StatusOr<std::string> Keys::ChangeOnce(const Caller& caller, std::string_view operation,
                                             const std::string& name, const std::string& op_id,
                                             const std::string& bytes, const ChangeAttempt& attempt) {
  HSM_RETURN_IF_ERROR(core_.MayChange());
  HSM_ASSIGN_OR_RETURN(OpIds::Begun begun, op_ids_.Begin(caller, op_id, operation, bytes));
  if (begun.before.has_value()) {
    HSM_RETURN_IF_ERROR(FinishHead(*begun.before, name));
    return begun.before->response();
  }
  for (int tries = 0; tries < kChangeAttempts; ++tries) {
    bool again = false;
    absl::StatusOr<std::string> answer = attempt(begun, again);
    if (!again) return answer;
  }
  return Error(v1::REASON_REVISION_CONFLICT, "key " + name + " is being changed by others");
}

absl::StatusOr<v1::Key> Keys::SetAttributes(const Caller& caller,
                                            const v1::SetKeyAttributesRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysWrite, "SetKeyAttributes", request.name()));
  return DoOnce<v1::Key>(caller, "SetKeyAttributes", request, [&](const OpIds::Begun& begun, bool& again) {
    return TrySetAttributes(caller, request, begun, again);
  });
}

absl::Status Keys::NeedQuorum() const {
  if (core_.cluster.ReadyCount() >= core_.cluster.quorum()) return absl::OkStatus();
  return Error(v1::REASON_NO_QUORUM, std::to_string(core_.cluster.ReadyCount()) + " partitions are READY, " +
                                         std::to_string(core_.cluster.quorum()) + " are needed");
}

absl::StatusOr<std::string> Keys::TrySetAttributes(const Caller& caller,
                                                   const v1::SetKeyAttributesRequest& request,
                                                   const OpIds::Begun& begun, bool& again) {
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Live(request.name()));
  if (request.has_revision() && request.revision() != entry->head.revision) {
    return Error(v1::REASON_REVISION_CONFLICT, "key " + request.name() + " is at revision " +
                                                   std::to_string(entry->head.revision) + " now");
  }
  HSM_ASSIGN_OR_RETURN(AttributeChange wanted, DecodeChange(request));
  HSM_RETURN_IF_ERROR(CheckChange(entry->head, wanted));
  bool revoking = Revokes(entry->head, wanted);
  if (!revoking) HSM_RETURN_IF_ERROR(NeedQuorum());
  rpc::TransitionRequest transition;
  *transition.mutable_set_attributes() = Encoded(wanted);
  HeadChange change{AuditOf(caller, "SetKeyAttributes", entry->head.name), entry,
                    Changed(entry->head, wanted), revoking};
  change.answer = [&](const KeyHead& head) {
    return ShowKey(core_.config, head, entry->versions.back(), true).SerializeAsString();
  };
  absl::StatusOr<std::string> answer = ChangeHead(change, std::move(transition), begun, again);
  again = again && !request.has_revision();
  return answer;
}

// One attempt at a change of a head that stays: sealed by a partition, compared with what was asked for,
// committed, brought to the partitions. `again`: somebody else changed the key meanwhile.
absl::StatusOr<std::string> Keys::ChangeHead(const HeadChange& wanted, rpc::TransitionRequest transition,
                                             const OpIds::Begun& begun, bool& again) {
  const KeyEntryPtr& entry = wanted.entry;
  HSM_ASSIGN_OR_RETURN(rpc::SealedRecord sealed, Transition(*entry, std::move(transition)));
  HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(sealed));
  KeyHead expected = wanted.expected;
  expected.revision = entry->head.revision + 1;
  expected.updated = head.updated;
  if (expected.state == KeyState::kDeleted) expected.deleted = head.deleted;
  if (head != expected)
    return Error(v1::REASON_RECORD_CORRUPT, "a partition sealed another change than was asked for");

  HsmViewPtr view = core_.state.View();
  const std::string head_key = store_key::Head(view->data_set, head.name);
  const std::string answer = wanted.answer(head);
  Change change;
  change.audit = wanted.audit;
  change.guards = {StoreGuard::ModRevisionIs(store_key::Hsm(), view->store_revision),
                   StoreGuard::ModRevisionIs(head_key, entry->store_revision)};
  change.ops = {StoreOp::Put(head_key, sealed.SerializeAsString())};
  OpIds::AddRecord(begun, OpRecordOf(wanted.audit, head, wanted.revoking, answer), change);
  change.applied = [this, entry, sealed](StoreRevision revision) {
    absl::StatusOr<KeyEntryPtr> next = ChangeEntry(*entry, sealed, nullptr, revision);
    if (next.ok()) core_.table.Put(*std::move(next));
  };
  ChangeResult result = core_.committer.Commit(std::move(change));
  again = result.outcome == StoreOutcome::kConflict;
  if (again) return Error(v1::REASON_REVISION_CONFLICT, "key " + head.name + " changed meanwhile");
  HSM_RETURN_IF_ERROR(result.status);
  HSM_RETURN_IF_ERROR(SpreadHead(head, sealed, wanted.revoking));
  return answer;
}

rpc::StoredOp Keys::OpRecordOf(const AuditFields& audit, const KeyHead& head, bool revoking,
                               const std::string& answer) const {
  rpc::StoredOp record;
  record.set_operation(audit.operation);
  record.set_response(answer);
  record.set_time_ms(absl::ToUnixMillis(core_.clock.Now()));
  record.set_uid(head.uid.Raw());
  record.set_revision(head.revision);
  record.set_revoking(revoking);
  return record;
}

// Brings a committed head to the partitions: all or their leases' end if it revokes, else a majority.
absl::Status Keys::SpreadHead(const KeyHead& head, const rpc::SealedRecord& sealed, bool revoking) {
  if (revoking) {
    if (HSM_MUTANT("answer-before-barrier")) return absl::OkStatus();
    rpc::ControlRequest control;
    *control.mutable_head() = sealed;
    HSM_RETURN_IF_ERROR(core_.revoker.Barrier(control).status());
    if (KeyEntryPtr entry = core_.table.FindUid(head.uid); entry != nullptr)
      entry->RaiseConfirmed(head.revision);
    return absl::OkStatus();
  }
  rpc::KeyRecords records;
  *records.mutable_head() = sealed;
  uint32_t have = replicator_.Put(records, head.uid);
  if (have >= core_.cluster.quorum()) return absl::OkStatus();
  return Error(v1::REASON_OUTCOME_UNKNOWN,
               "the change is committed, but only " + std::to_string(have) + " partitions have it yet");
}

// A retry: what the first try may have left undone at the partitions.
absl::Status Keys::FinishHead(const rpc::StoredOp& before, const std::string& name) {
  std::optional<KeyUid> uid = KeyUid::From(before.uid());
  if (!uid.has_value()) return Error(v1::REASON_RECORD_CORRUPT, "the op record names no key");
  KeyEntryPtr entry = core_.table.FindUid(*uid);
  if (entry != nullptr) {
    const std::string key = store_key::Head(core_.state.View()->data_set, name);
    HSM_ASSIGN_OR_RETURN(auto row, core_.catalogue.Read<rpc::SealedRecord>(key));
    if (!row.has_value()) return absl::OkStatus();  // destroyed meanwhile, which had its own barrier
    HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(row->value));
    return SpreadHead(head, row->value, before.revoking());
  }
  HSM_ASSIGN_OR_RETURN(auto row, core_.catalogue.Read<rpc::StoredTombstone>(store_key::Tombstone(*uid)));
  if (!row.has_value()) return absl::OkStatus();
  HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(row->value.head()));
  return SpreadHead(head, row->value.head(), true);
}

}  // namespace hsm
