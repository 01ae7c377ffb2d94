// Additive changes: a new key, a new version.
#include <algorithm>

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "coordinator/keys.h"

namespace hsm {
namespace {

int64_t Seconds(absl::Time time) { return absl::ToUnixSeconds(time); }

// What a partition made must be what was asked for: it cannot slip in another policy.
bool IsAsAsked(const KeyHead& head, const rpc::NewKey& asked, const HsmView& view) {
  auto time = [](bool has, int64_t value) { return has ? std::optional<int64_t>(value) : std::nullopt; };
  return head.hsm == view.id && head.data_set == view.data_set && head.name == asked.name() &&
         head.revision == 1 && head.incarnation == asked.incarnation() && head.spec.type == asked.type() &&
         head.spec.curve == asked.curve() && head.spec.size_bits == asked.size_bits() &&
         head.operations == asked.operations() && head.enabled == asked.enabled() &&
         head.not_before == time(asked.has_not_before(), asked.not_before()) &&
         head.expires == time(asked.has_expires(), asked.expires()) && head.state == KeyState::kActive &&
         head.purge_protection == asked.purge_protection() && head.version_count == 1 &&
         head.tags == std::map<std::string, std::string>(asked.tags().begin(), asked.tags().end());
}

}  // namespace

absl::StatusOr<rpc::NewKey> Keys::DecodeCreate(const v1::CreateKeyRequest& request) const {
  HSM_RETURN_IF_ERROR(CheckKeyName(request.name()));
  HSM_ASSIGN_OR_RETURN(KeySpec spec, CheckSpec(request.type(), request.curve(), request.size_bits()));
  OperationSet operations = 0;
  for (int operation : request.operations()) {
    if (operation <= 0 || operation > v1::KeyOperation_MAX) {
      return Error(v1::REASON_INVALID_ARGUMENT, "an operation is none of the known ones");
    }
    operations |= 1u << operation;
  }
  if (operations == 0) operations = OperationsThatFit(spec);
  KeyHead blank;
  blank.name = request.name();
  blank.spec = spec;
  AttributeChange wanted;
  wanted.operations = operations;
  wanted.tags = std::map<std::string, std::string>(request.tags().begin(), request.tags().end());
  if (request.has_not_before()) wanted.not_before = request.not_before();
  if (request.has_expires()) wanted.expires = request.expires();
  HSM_RETURN_IF_ERROR(CheckChange(blank, wanted));

  rpc::NewKey key;
  key.set_name(request.name());
  key.set_incarnation(1);
  key.set_type(spec.type);
  key.set_curve(spec.curve);
  key.set_size_bits(spec.size_bits);
  key.set_operations(operations);
  key.set_enabled(!request.has_enabled() || request.enabled());
  if (request.not_before() != 0) key.set_not_before(request.not_before());
  if (request.expires() != 0) key.set_expires(request.expires());
  for (const auto& [name, value] : request.tags()) (*key.mutable_tags())[name] = value;
  key.set_now(Seconds(core_.clock.Now()));
  key.set_purge_protection(core_.state.View()->stored.purge_protection());
  return key;
}

absl::StatusOr<v1::Key> Keys::Create(const Caller& caller, const v1::CreateKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysCreate, "CreateKey", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayChange());
  HSM_ASSIGN_OR_RETURN(rpc::NewKey wanted, DecodeCreate(request));
  HSM_ASSIGN_OR_RETURN(OpIds::Begun begun,
                       op_ids_.Begin(caller, request.op_id(), "CreateKey", BareBytes(request)));
  if (begun.before.has_value()) return FinishStaged(*begun.before);
  HSM_RETURN_IF_ERROR(CheckFree(request.name()));
  rpc::GenerateRequest generate;
  *generate.mutable_key() = wanted;
  HSM_ASSIGN_OR_RETURN(StagedKey staged, replicator_.Stage(generate, nullptr));
  if (!IsAsAsked(staged.head, wanted, *core_.state.View())) {
    replicator_.Discard(staged.attempt);
    replicator_.Done(staged.attempt);
    return Error(v1::REASON_RECORD_CORRUPT, "a partition made another key than was asked for");
  }
  absl::StatusOr<v1::Key> key = CommitStaged(caller, "CreateKey", begun, staged, nullptr);
  replicator_.Done(staged.attempt);
  return key;
}

absl::StatusOr<v1::Key> Keys::Rotate(const Caller& caller, const v1::RotateKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysRotate, "RotateKey", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayChange());
  HSM_ASSIGN_OR_RETURN(OpIds::Begun begun,
                       op_ids_.Begin(caller, request.op_id(), "RotateKey", BareBytes(request)));
  if (begun.before.has_value()) return FinishStaged(*begun.before);
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Live(request.name()));
  if (entry->versions.size() >= limits::kKeyVersionsMax) {
    return Error(v1::REASON_LIMIT_EXCEEDED, "key " + request.name() + " has " +
                                                std::to_string(limits::kKeyVersionsMax) +
                                                " versions, the most there can be");
  }
  rpc::GenerateRequest generate;
  generate.mutable_version()->set_uid(entry->head.uid.Raw());
  generate.mutable_version()->set_revision(entry->head.revision);
  generate.mutable_version()->set_now(Seconds(core_.clock.Now()));
  HSM_ASSIGN_OR_RETURN(StagedKey staged, replicator_.Stage(generate, &entry->head.uid));
  KeyHead expected = entry->head;
  expected.revision += 1;
  expected.latest = staged.version.version;
  expected.version_count += 1;
  expected.updated = staged.head.updated;
  if (staged.head != expected || staged.version.ordinal != expected.version_count) {
    replicator_.Discard(staged.attempt);
    replicator_.Done(staged.attempt);
    return Error(v1::REASON_RECORD_CORRUPT, "a partition made another version than was asked for");
  }
  absl::StatusOr<v1::Key> key = CommitStaged(caller, "RotateKey", begun, staged, entry);
  replicator_.Done(staged.attempt);
  return key;
}

absl::StatusOr<v1::Key> Keys::CommitStaged(const Caller& caller, std::string_view operation,
                                           const OpIds::Begun& begun, const StagedKey& staged,
                                           KeyEntryPtr before) {
  HsmViewPtr view = core_.state.View();
  const std::string head_key = store_key::Head(view->data_set, staged.head.name);
  EntryVersion shown{staged.version.version, staged.version.ordinal, staged.version.created,
                     staged.version.spki};
  v1::Key answer = ShowKey(core_.config, staged.head, shown, true);

  Change change;
  change.audit = AuditOf(caller, operation, staged.head.name);
  // Commit point: still the same data set and mode, the name free (or the head unchanged), the op id unused,
  // and nobody has declared this attempt dead.
  change.guards.push_back(StoreGuard::ModRevisionIs(store_key::Hsm(), view->store_revision));
  change.guards.push_back(before == nullptr ? StoreGuard::Absent(head_key)
                                            : StoreGuard::ModRevisionIs(head_key, before->store_revision));
  change.guards.push_back(StoreGuard::Absent(store_key::Aborted(staged.attempt)));
  change.read_on_conflict = {head_key, begun.key};
  HSM_ASSIGN_OR_RETURN(change.ops, PutKeyOps(view->data_set, staged.records, staged.proved));
  rpc::StoredOp record = OpRecordOf(*change.audit, staged.head, false, answer.SerializeAsString());
  record.set_attempt(staged.attempt.Raw());
  OpIds::AddRecord(begun, record, change);
  change.applied = [this, before, staged](StoreRevision revision) {
    absl::StatusOr<KeyEntryPtr> entry =
        before == nullptr ? MakeEntry(staged.records, revision)
                          : ChangeEntry(*before, staged.records.head(), &staged.version, revision);
    if (entry.ok()) core_.table.Put(*std::move(entry));
  };
  ChangeResult result = core_.committer.Commit(std::move(change));
  switch (result.outcome) {
    case StoreOutcome::kCommitted:
      break;
    case StoreOutcome::kUnknown:
      return result.status;
    case StoreOutcome::kRefused:
      replicator_.Discard(staged.attempt);
      return result.status;
    case StoreOutcome::kConflict:
      replicator_.Discard(staged.attempt);
      for (const StoreRecord& found : result.found) {
        if (found.key == begun.key) return AnswerOf(found, begun);
        if (found.key != head_key) continue;
        if (before == nullptr)
          return Error(v1::REASON_KEY_EXISTS, "there is a key " + staged.head.name + " already");
      }
      return Error(v1::REASON_REVISION_CONFLICT, staged.head.name + " or the HSM changed meanwhile");
  }
  HSM_RETURN_IF_ERROR(
      WaitActive(staged.attempt, staged.head.uid, staged.head.revision, staged.version.ordinal));
  return answer;
}

// An earlier leader did this op id while we worked on it.
absl::StatusOr<v1::Key> Keys::AnswerOf(const StoreRecord& op_record, const OpIds::Begun& begun) {
  HSM_ASSIGN_OR_RETURN(auto row, ParseRow<rpc::StoredOp>(op_record));
  if (row.value.request_hash() != begun.request_hash) {
    return Error(v1::REASON_OP_ID_CONFLICT, "the op id was used for another request");
  }
  return FinishStaged(row.value);
}

absl::Status Keys::WaitActive(const OpId& attempt, const KeyUid& uid, Revision revision, uint32_t ordinal) {
  uint32_t active = HSM_MUTANT("answer-before-activation") ? core_.cluster.quorum()
                                                           : replicator_.Activate(attempt, uid, revision);
  // Those without it are marked behind and are not asked for this key.
  KeyEntryPtr entry = core_.table.FindUid(uid);
  if (active > 0 && entry != nullptr) entry->RaiseActive(ordinal);
  if (active >= core_.cluster.quorum()) return absl::OkStatus();
  return Error(v1::REASON_OUTCOME_UNKNOWN,
               "the key is committed, but only " + std::to_string(active) + " partitions have it active yet");
}

absl::StatusOr<v1::Key> Keys::FinishStaged(const rpc::StoredOp& before) {
  HSM_ASSIGN_OR_RETURN(v1::Key answer, ParseAnswer<v1::Key>(before.response()));
  std::optional<OpId> attempt = OpId::From(before.attempt());
  std::optional<KeyUid> uid = KeyUid::From(before.uid());
  if (!attempt.has_value() || !uid.has_value()) return answer;
  // What came after it on the same key has been through the same steps, or has ended the key.
  KeyEntryPtr entry = core_.table.FindUid(*uid);
  if (entry == nullptr || entry->head.revision != before.revision()) return answer;
  HSM_RETURN_IF_ERROR(WaitActive(*attempt, *uid, before.revision(), entry->head.version_count));
  return answer;
}

}  // namespace hsm
