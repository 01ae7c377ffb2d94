// Changes of a key's head: attributes, and its end. Commit first, then the partitions: all of them (or the
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

absl::StatusOr<v1::Key> Keys::SetAttributes(const Caller& caller,
                                            const v1::SetKeyAttributesRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysWrite, "SetKeyAttributes", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayChange());
  v1::SetKeyAttributesRequest bare = request;
  bare.clear_op_id();
  HSM_ASSIGN_OR_RETURN(OpIds::Begun begun,
                       op_ids_.Begin(caller, request.op_id(), "SetKeyAttributes", StableBytes(bare)));
  if (begun.before.has_value()) {
    HSM_RETURN_IF_ERROR(FinishHead(*begun.before, request.name()));
    v1::Key answer;
    if (!answer.ParseFromString(begun.before->response())) {
      return Error(v1::REASON_RECORD_CORRUPT, "the op record's answer does not parse");
    }
    return answer;
  }
  for (int attempt = 0; attempt < kChangeAttempts; ++attempt) {
    bool again = false;
    absl::StatusOr<v1::Key> key = TrySetAttributes(caller, request, begun, again);
    if (!again) return key;
  }
  return Error(v1::REASON_REVISION_CONFLICT, "key " + request.name() + " is being changed by others");
}

absl::StatusOr<v1::Key> Keys::TrySetAttributes(const Caller& caller,
                                               const v1::SetKeyAttributesRequest& request,
                                               const OpIds::Begun& begun, bool& again) {
  KeyEntryPtr entry = core_.table.Find(request.name());
  if (entry == nullptr) return NotThere(request.name());
  if (request.has_revision() && request.revision() != entry->head.revision) {
    return Error(v1::REASON_REVISION_CONFLICT, "key " + request.name() + " is at revision " +
                                                   std::to_string(entry->head.revision) + " now");
  }
  HSM_ASSIGN_OR_RETURN(AttributeChange wanted, DecodeChange(request));
  HSM_RETURN_IF_ERROR(CheckChange(entry->head, wanted));
  bool revoking = Revokes(entry->head, wanted);
  if (!revoking && core_.cluster.ReadyCount() < core_.cluster.quorum()) {
    return Error(v1::REASON_NO_QUORUM, std::to_string(core_.cluster.ReadyCount()) +
                                           " partitions are READY, " +
                                           std::to_string(core_.cluster.quorum()) + " are needed");
  }
  rpc::TransitionRequest transition;
  *transition.mutable_set_attributes() = Encoded(wanted);
  HSM_ASSIGN_OR_RETURN(rpc::SealedRecord sealed, Transition(*entry, transition));
  HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(sealed));
  KeyHead expected = Changed(entry->head, wanted);
  expected.revision += 1;
  expected.updated = head.updated;
  if (head != expected)
    return Error(v1::REASON_RECORD_CORRUPT, "a partition sealed another change than was asked for");

  HsmViewPtr view = core_.state.View();
  const std::string head_key = store_key::Head(view->data_set, head.name);
  v1::Key answer = ShowKey(core_.config, head, entry->versions.back(), true);
  Change change;
  change.audit = AuditOf(caller, "SetKeyAttributes", head.name);
  change.guards = {StoreGuard::ModRevisionIs(store_key::Hsm(), view->store_revision),
                   StoreGuard::ModRevisionIs(head_key, entry->store_revision)};
  change.ops = {StoreOp::Put(head_key, sealed.SerializeAsString())};
  rpc::StoredOp record;
  record.set_operation("SetKeyAttributes");
  record.set_response(answer.SerializeAsString());
  record.set_time_ms(absl::ToUnixMillis(core_.clock.Now()));
  record.set_uid(head.uid.Raw());
  record.set_revision(head.revision);
  record.set_revoking(revoking);
  OpIds::AddRecord(begun, record, change);
  change.applied = [this, entry, sealed](StoreRevision revision) {
    absl::StatusOr<KeyEntryPtr> next = ChangeEntry(*entry, sealed, nullptr, revision);
    if (next.ok()) core_.table.Put(*std::move(next));
  };
  ChangeResult result = core_.committer.Commit(std::move(change));
  again = result.outcome == StoreOutcome::kConflict && !request.has_revision();
  if (result.outcome == StoreOutcome::kConflict) {
    return Error(v1::REASON_REVISION_CONFLICT, "key " + head.name + " changed meanwhile");
  }
  HSM_RETURN_IF_ERROR(result.status);
  HSM_RETURN_IF_ERROR(SpreadHead(head, sealed, revoking));
  return answer;
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

absl::StatusOr<v1::DeleteKeyResponse> Keys::Delete(const Caller& caller,
                                                   const v1::DeleteKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysDelete, "DeleteKey", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayChange());
  v1::DeleteKeyRequest bare = request;
  bare.clear_op_id();
  HSM_ASSIGN_OR_RETURN(OpIds::Begun begun,
                       op_ids_.Begin(caller, request.op_id(), "DeleteKey", StableBytes(bare)));
  v1::DeleteKeyResponse response;
  if (begun.before.has_value()) {
    HSM_RETURN_IF_ERROR(FinishHead(*begun.before, request.name()));
    if (!response.ParseFromString(begun.before->response())) {
      return Error(v1::REASON_RECORD_CORRUPT, "the op record's answer does not parse");
    }
    return response;
  }
  for (int attempt = 0; attempt < kChangeAttempts; ++attempt) {
    bool again = false;
    absl::StatusOr<v1::DeleteKeyResponse> answer = TryDelete(caller, request.name(), begun, again);
    if (!again) return answer;
  }
  return Error(v1::REASON_REVISION_CONFLICT, "key " + request.name() + " is being changed by others");
}

absl::StatusOr<v1::DeleteKeyResponse> Keys::TryDelete(const Caller& caller, const std::string& name,
                                                      const OpIds::Begun& begun, bool& again) {
  KeyEntryPtr entry = core_.table.Find(name);
  if (entry == nullptr) return NotThere(name);
  rpc::TransitionRequest transition;
  transition.set_tombstone(true);
  HSM_ASSIGN_OR_RETURN(rpc::SealedRecord sealed, Transition(*entry, transition));
  HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(sealed));
  if (head.state != KeyState::kTombstone || head.uid != entry->head.uid || head.name != name ||
      head.incarnation != entry->head.incarnation || head.revision != entry->head.revision + 1) {
    return Error(v1::REASON_RECORD_CORRUPT, "a partition sealed another change than was asked for");
  }
  HsmViewPtr view = core_.state.View();
  const std::string head_key = store_key::Head(view->data_set, name);
  v1::DeleteKeyResponse answer;
  *answer.mutable_key() = ShowKey(core_.config, entry->head, entry->versions.back(), true);
  rpc::StoredTombstone tombstone;
  *tombstone.mutable_head() = sealed;
  tombstone.set_uid(head.uid.Raw());
  tombstone.set_incarnation(head.incarnation);
  tombstone.set_name(name);
  tombstone.set_data_set(view->data_set);
  tombstone.set_time(absl::ToUnixSeconds(core_.clock.Now()));
  tombstone.set_versions(static_cast<uint32_t>(entry->versions.size()));

  Change change;
  change.audit = AuditOf(caller, "DeleteKey", name);
  change.guards = {StoreGuard::ModRevisionIs(store_key::Hsm(), view->store_revision),
                   StoreGuard::ModRevisionIs(head_key, entry->store_revision)};
  change.ops = {StoreOp::Put(store_key::Tombstone(head.uid), tombstone.SerializeAsString()),
                StoreOp::Delete(head_key), StoreOp::Delete(store_key::Uid(view->data_set, head.uid))};
  rpc::StoredOp record;
  record.set_operation("DeleteKey");
  record.set_response(answer.SerializeAsString());
  record.set_time_ms(absl::ToUnixMillis(core_.clock.Now()));
  record.set_uid(head.uid.Raw());
  record.set_revision(head.revision);
  record.set_revoking(true);
  OpIds::AddRecord(begun, record, change);
  change.applied = [this, name, head, mac = sealed.mac()](StoreRevision) {
    core_.table.Destroy(name, head.uid, {head.incarnation, head.revision, mac, name});
  };
  ChangeResult result = core_.committer.Commit(std::move(change));
  again = result.outcome == StoreOutcome::kConflict;
  HSM_RETURN_IF_ERROR(result.status);
  HSM_RETURN_IF_ERROR(SpreadHead(head, sealed, true));
  // The key is gone for every caller; its blobs go now. A failure here is made good by EraseTombstoned.
  if (absl::Status erased = EraseVersions(tombstone); !erased.ok()) {
    LogWarning("version records of a destroyed key are still to be erased", {{"key", name}, {"why", erased}});
  }
  return answer;
}

absl::Status Keys::EraseVersions(const rpc::StoredTombstone& tombstone) {
  std::optional<KeyUid> uid = KeyUid::From(tombstone.uid());
  if (!uid.has_value()) return Error(v1::REASON_RECORD_CORRUPT, "a tombstone names no key");
  const std::string prefix = store_key::VersionPrefix(tombstone.data_set(), *uid);
  while (true) {
    HSM_ASSIGN_OR_RETURN(StorePage page, core_.catalogue.store().Scan(prefix, "", 64));
    Change change;
    for (const StoreRecord& record : page.records) change.ops.push_back(StoreOp::Delete(record.key));
    if (!page.more) {
      rpc::StoredTombstone erased = tombstone;
      erased.set_erased(true);
      change.ops.push_back(StoreOp::Put(store_key::Tombstone(*uid), erased.SerializeAsString()));
    }
    HSM_RETURN_IF_ERROR(core_.committer.Commit(std::move(change)).status);
    if (!page.more) return absl::OkStatus();
  }
}

absl::Status Keys::EraseTombstoned() {
  std::string after;
  while (true) {
    HSM_ASSIGN_OR_RETURN(auto page, core_.catalogue.Scan<rpc::StoredTombstone>(store_key::TombstonePrefix(),
                                                                               after, limits::kStorePageMax));
    for (const auto& row : page.rows) {
      if (!row.value.erased()) HSM_RETURN_IF_ERROR(EraseVersions(row.value));
    }
    if (!page.more || page.rows.empty()) return absl::OkStatus();
    after = page.rows.back().key;
  }
}

}  // namespace hsm
