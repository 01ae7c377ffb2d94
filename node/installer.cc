#include "node/installer.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "common/replica.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

HeadRow RowOf(const KeyHead& head, const AttemptId& attempt, const internal::v1::SealedRecord& sealed) {
  HeadRow row;
  row.data_set = head.data_set;
  row.attempt = attempt;
  row.uid = head.uid;
  row.incarnation = head.incarnation;
  row.revision = head.revision;
  row.state = head.state;
  row.sealed = sealed;
  return row;
}

VersionRow RowOf(const VersionRecord& version, DataSet data_set, const AttemptId& attempt,
                 const internal::v1::SealedRecord& sealed) {
  VersionRow row;
  row.data_set = data_set;
  row.attempt = attempt;
  row.uid = version.uid;
  row.incarnation = version.incarnation;
  row.version = version.version;
  row.ordinal = version.ordinal;
  row.sealed = sealed;
  return row;
}

absl::Status Tombstoned() {
  return Error(v1::REASON_TOMBSTONED, "this incarnation of the key was purged and never comes back");
}

}  // namespace

absl::Status Installer::CheckVersion(const KeyHead& head, const VersionRecord& version) const {
  bool belongs = version.uid == head.uid && version.incarnation == head.incarnation &&
                 version.spec == head.spec && version.ordinal >= 1 && version.ordinal <= head.version_count;
  if (belongs) return absl::OkStatus();
  return Error(v1::REASON_RECORD_CORRUPT, "a version record does not belong to its head");
}

absl::Status Installer::CheckAgainstHeld(const KeyHead& head, const IndexEntryPtr& held) const {
  if (held == nullptr || held->incarnation < head.incarnation) return absl::OkStatus();
  if (held->incarnation > head.incarnation || held->revision > head.revision) {
    return Error(v1::REASON_REVISION_CONFLICT, "the partition holds a newer state of this key");
  }
  if (held->spec != head.spec || (held->purge_protection && !head.purge_protection) ||
      held->version_count > head.version_count) {
    return Error(v1::REASON_RECORD_CORRUPT, "a head changes what never changes");
  }
  return absl::OkStatus();
}

absl::StatusOr<rpc::InstallAnswer> Installer::StageOne(const std::shared_ptr<KeyIndex>& index,
                                                       const rpc::InstallItem& item, BlobBatch& batch,
                                                       Staged& staged) const {
  HSM_ASSIGN_OR_RETURN(AttemptId attempt, ParseId<AttemptId>(item.op_id(), "op_id"));
  if (attempt.IsZero() || item.nonce().size() < 16) {
    return Error(v1::REASON_INVALID_ARGUMENT, "an install has an op_id and a nonce");
  }
  HSM_ASSIGN_OR_RETURN(KeyHead head, core_.sealer->OpenHead(item.records().head()));
  if (head.data_set != index->data_set()) return Error(v1::REASON_FENCED, "a record of another data set");
  if (head.state == KeyState::kTombstone) {
    return Error(v1::REASON_INVALID_ARGUMENT, "a tombstone is taken by control, not installed");
  }
  if (head.incarnation <= core_.TombstonedIncarnation(head.uid) && !HSM_MUTANT("install-tombstoned")) {
    return Tombstoned();
  }
  HSM_RETURN_IF_ERROR(CheckAgainstHeld(head, index->Find(head.uid)));

  rpc::InstallAnswer answer;
  batch.PutHead(RowOf(head, attempt, item.records().head()));
  staged.entry = IndexEntry::From(head, item.records().head(), true);
  staged.entry.attempt = attempt;
  for (const internal::v1::SealedRecord& sealed : item.records().versions()) {
    HSM_ASSIGN_OR_RETURN(VersionRecord version, core_.sealer->OpenVersion(sealed));
    HSM_RETURN_IF_ERROR(CheckVersion(head, version));
    HSM_ASSIGN_OR_RETURN(CachedKeyPtr key, prover_.Unwrap(version, KeyUse::kPolicy, head.operations));
    HSM_ASSIGN_OR_RETURN(rpc::Proof proof, prover_.Prove(version, head.operations, key, View(item.nonce())));
    VersionRow row = RowOf(version, head.data_set, attempt, sealed);
    row.proved = !proof.different();
    if (row.proved) {
      HSM_ASSIGN_OR_RETURN(row.check_value, prover_.CheckValue(version, *key));
    }
    staged.entry.versions.push_back({version.version, version.ordinal, row.proved});
    if (row.proved) staged.keys.emplace_back(version.version, std::move(key));
    batch.PutVersion(std::move(row));
    *answer.add_proofs() = std::move(proof);
  }
  return answer;
}

absl::StatusOr<rpc::InstallResponse> Installer::Install(const rpc::InstallRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), true));
  if (static_cast<size_t>(request.items_size()) > limits::kInstallsPerCall) {
    return Error(v1::REASON_LIMIT_EXCEEDED, "too many installs in one call");
  }
  rpc::InstallResponse response;
  BlobBatch batch;
  std::vector<std::pair<int, Staged>> staged;  // by the place of the answer
  for (const rpc::InstallItem& item : request.items()) {
    BlobBatch rows;
    Staged one;
    absl::StatusOr<rpc::InstallAnswer> answer = StageOne(index, item, rows, one);
    if (!answer.ok()) {
      *response.add_answers()->mutable_error() = DetailOf(answer.status());
      continue;
    }
    staged.emplace_back(response.answers_size(), std::move(one));
    *response.add_answers() = *std::move(answer);
    batch.Append(std::move(rows));
  }
  if (!HSM_MUTANT("install-not-durable")) HSM_RETURN_IF_ERROR(core_.blobs.Commit(batch));
  for (auto& [place, one] : staged) {
    const KeyUid uid = one.entry.uid;
    if (one.entry.incarnation <= core_.TombstonedIncarnation(uid)) {  // came in between
      rpc::InstallAnswer& answer = *response.mutable_answers(place);
      answer.Clear();
      *answer.mutable_error() = DetailOf(Tombstoned());
      continue;
    }
    index->PutStaged(std::move(one.entry));
    for (auto& [version, key] : one.keys) core_.cache.Put(uid, version, KeyUse::kPolicy, std::move(key));
  }
  return response;
}

absl::StatusOr<rpc::ActivateResponse> Installer::Activate(const rpc::ActivateRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), true));
  if (static_cast<size_t>(request.items_size()) > limits::kInstallsPerCall) {
    return Error(v1::REASON_LIMIT_EXCEEDED, "too many activations in one call");
  }
  std::vector<KeyUid> uids;
  BlobBatch batch;
  std::vector<AttemptId> staged;
  for (const rpc::ActivateItem& item : request.items()) {
    HSM_ASSIGN_OR_RETURN(AttemptId attempt, ParseId<AttemptId>(item.op_id(), "op_id"));
    HSM_ASSIGN_OR_RETURN(KeyUid uid, ParseId<KeyUid>(item.uid(), "uid"));
    uids.push_back(uid);
    if (index->FindStaged(uid, item.revision()) == nullptr) continue;
    batch.Activate(attempt);
    staged.push_back(attempt);
  }
  HSM_RETURN_IF_ERROR(core_.blobs.Commit(batch));
  for (const AttemptId& attempt : staged) index->Activate(attempt);
  rpc::ActivateResponse response;
  for (size_t i = 0; i < uids.size(); ++i) {
    rpc::ActivateAnswer& answer = *response.add_answers();
    IndexEntryPtr held = index->Find(uids[i]);
    if (held != nullptr && held->state == KeyState::kTombstone) {
      *answer.mutable_error() = DetailOf(Tombstoned());
    } else if (held == nullptr || held->revision < request.items(static_cast<int>(i)).revision()) {
      *answer.mutable_error() =
          DetailOf(Error(v1::REASON_NOT_FOUND, "nothing is staged here under this op_id"));
    }
  }
  return response;
}

absl::StatusOr<rpc::DiscardResponse> Installer::Discard(const rpc::DiscardRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), true));
  HSM_ASSIGN_OR_RETURN(AttemptId attempt, ParseId<AttemptId>(request.op_id(), "op_id"));
  BlobBatch batch;
  batch.Discard(attempt);
  HSM_RETURN_IF_ERROR(core_.blobs.Commit(batch));
  index->Discard(attempt);
  return rpc::DiscardResponse();
}

absl::StatusOr<rpc::ProveAnswer> Installer::ProveOne(const std::shared_ptr<KeyIndex>& index,
                                                     const rpc::ProveItem& subject, BlobBatch& batch,
                                                     std::vector<Proven>& proven) const {
  HSM_ASSIGN_OR_RETURN(KeyUid uid, ParseId<KeyUid>(subject.uid(), "uid"));
  HSM_ASSIGN_OR_RETURN(KeyVersion version, ParseId<KeyVersion>(subject.version(), "version"));
  if (subject.nonce().size() < 16) return Error(v1::REASON_INVALID_ARGUMENT, "a proof needs a nonce");
  rpc::ProveAnswer answer;
  IndexEntryPtr entry = index->Find(uid);
  const VersionEntry* held = entry == nullptr ? nullptr : entry->Find(version);
  if (held == nullptr || entry->state == KeyState::kTombstone) {
    answer.set_missing(true);
    return answer;
  }
  // From the record, not from the cache: what is proved is what a restart would serve.
  HSM_ASSIGN_OR_RETURN(VersionRow row, core_.blobs.ReadVersion(index->data_set(), uid, version));
  HSM_ASSIGN_OR_RETURN(VersionRecord record, core_.sealer->OpenVersion(row.sealed));
  if (record.uid != uid || record.version != version || record.incarnation != entry->incarnation) {
    return Error(v1::REASON_RECORD_CORRUPT, "a version record does not belong to its head");
  }
  HSM_ASSIGN_OR_RETURN(CachedKeyPtr key, prover_.Unwrap(record, KeyUse::kPolicy, entry->operations));
  HSM_ASSIGN_OR_RETURN(*answer.mutable_proof(),
                       prover_.Prove(record, entry->operations, key, View(subject.nonce())));
  if (answer.proof().different()) {
    HSM_RETURN_IF_ERROR(prover_.Distrust(index, uid, version));
    return answer;
  }
  HSM_ASSIGN_OR_RETURN(std::string check_value, prover_.CheckValue(record, *key));
  const bool news = !held->proved || row.check_value != check_value;
  if (news && held->proved && !row.check_value.empty()) {
    HSM_RETURN_IF_ERROR(prover_.Distrust(index, uid, version));
    answer.mutable_proof()->set_different(true);
    return answer;
  }
  if (news) batch.SetProved(index->data_set(), uid, version, true, check_value);
  proven.push_back({uid, version, std::move(key), news});
  return answer;
}

absl::StatusOr<rpc::ProveResponse> Installer::Prove(const rpc::ProveRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), true));
  if (static_cast<size_t>(request.items_size()) > limits::kProofsPerCall) {
    return Error(v1::REASON_LIMIT_EXCEEDED, "too many proofs in one call");
  }
  rpc::ProveResponse response;
  BlobBatch batch;
  std::vector<Proven> proven;
  {
    const NodeCore::BulkTurn turn(core_);
    for (const rpc::ProveItem& subject : request.items()) {
      absl::StatusOr<rpc::ProveAnswer> answer = ProveOne(index, subject, batch, proven);
      if (answer.ok()) {
        *response.add_answers() = *std::move(answer);
      } else {
        *response.add_answers()->mutable_error() = DetailOf(answer.status());
      }
    }
  }
  HSM_RETURN_IF_ERROR(core_.blobs.Commit(batch));  // PROVED is durable before anybody hears of it
  const bool serving = core_.fence.data_set() == index->data_set();
  for (Proven& each : proven) {
    if (each.news) index->SetProved(each.uid, each.version, true);
    if (!serving) continue;
    core_.cache.Put(each.uid, each.version, KeyUse::kPolicy, std::move(each.key));
    IndexEntryPtr now = index->Find(each.uid);  // a tombstone may have come while this proof was made
    if (now == nullptr || now->state == KeyState::kTombstone) core_.cache.Forget(each.uid);
  }
  return response;
}

absl::StatusOr<rpc::PutRecordsResponse> Installer::PutRecords(const rpc::PutRecordsRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  DataSet into = request.staging_data_set() ? request.into() : request.fence().data_set();
  std::shared_ptr<KeyIndex> index;
  if (request.staging_data_set()) {
    if (into == 0) return Error(v1::REASON_INVALID_ARGUMENT, "PutRecords into which data set?");
    HSM_ASSIGN_OR_RETURN(index, core_.OpenIndex(into));
  } else {
    HSM_ASSIGN_OR_RETURN(index, core_.IndexFor(into, false));
  }
  if (static_cast<size_t>(request.records_size()) > limits::kSyncRecordsPerCall) {
    return Error(v1::REASON_LIMIT_EXCEEDED, "too many records in one call");
  }
  BlobBatch batch;
  struct Taken {
    IndexEntry entry;
    std::vector<VersionEntry> versions;
  };
  std::vector<Taken> taken;
  for (const internal::v1::KeyRecords& records : request.records()) {
    HSM_ASSIGN_OR_RETURN(KeyHead head, core_.sealer->OpenHead(records.head()));
    if (head.data_set != into) return Error(v1::REASON_FENCED, "a record of another data set");
    Taken one{IndexEntry::From(head, records.head(), true), {}};
    if (head.state == KeyState::kTombstone) {
      batch.Tombstone(RowOf(head, {}, records.head()));
      taken.push_back(std::move(one));
      continue;
    }
    if (head.incarnation <= core_.TombstonedIncarnation(head.uid)) {
      LogWarning("a record of a purged key was offered and refused", {{"uid", head.uid.ToHex()}});
      continue;
    }
    batch.PutHead(RowOf(head, {}, records.head()));
    for (const internal::v1::SealedRecord& sealed : records.versions()) {
      HSM_ASSIGN_OR_RETURN(VersionRecord version, core_.sealer->OpenVersion(sealed));
      HSM_RETURN_IF_ERROR(CheckVersion(head, version));
      batch.PutVersion(RowOf(version, into, {}, sealed));
      one.versions.push_back({version.version, version.ordinal, false});
    }
    taken.push_back(std::move(one));
  }
  HSM_RETURN_IF_ERROR(core_.blobs.Commit(batch));
  for (Taken& one : taken) {
    KeyUid uid = one.entry.uid;
    uint32_t incarnation = one.entry.incarnation;
    bool tombstone = one.entry.state == KeyState::kTombstone;
    if (tombstone) core_.AddTombstone(uid, incarnation);
    index->PutHead(std::move(one.entry));
    index->PutVersions(uid, incarnation, one.versions);
    if (tombstone) EndUses(index, uid);
  }
  rpc::PutRecordsResponse response;
  response.set_stored(static_cast<uint32_t>(taken.size()));
  return response;
}

absl::StatusOr<rpc::QuarantineResponse> Installer::Quarantine(const rpc::QuarantineRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), true));
  HSM_ASSIGN_OR_RETURN(KeyUid uid, ParseId<KeyUid>(request.uid(), "uid"));
  LogWarning("a key the catalogue does not have was put into quarantine", {{"uid", uid.ToHex()}});
  BlobBatch batch;
  batch.Quarantine(index->data_set(), uid, absl::ToUnixSeconds(core_.clock.Now()));
  HSM_RETURN_IF_ERROR(core_.blobs.Commit(batch));
  index->Remove(uid, UINT32_MAX);
  if (!EndUses(index, uid)) return BusyError(100, "calls in flight on this key have not ended");
  return rpc::QuarantineResponse();
}

// Between the two Forgets a call that read the old state may have put its object back.
bool Installer::EndUses(const std::shared_ptr<KeyIndex>& index, const KeyUid& uid) {
  core_.cache.Forget(uid);
  if (HSM_MUTANT("revoke-without-waiting")) return true;
  bool ended = index->WaitUnused(uid, core_.clock, core_.options.drain_wait);
  core_.cache.Forget(uid);
  return ended;
}

absl::StatusOr<bool> Installer::TakeHead(const rpc::ControlRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), true));
  HSM_ASSIGN_OR_RETURN(KeyHead head, core_.sealer->OpenHead(request.head()));
  if (head.data_set != index->data_set()) return Error(v1::REASON_FENCED, "a record of another data set");
  BlobBatch batch;
  core_.fence.Note(batch, request.fence().epoch(), request.sequence());
  if (head.state == KeyState::kTombstone) {
    batch.Tombstone(RowOf(head, {}, request.head()));
  } else {
    // Also when the key is not here yet: an older head that is still on its way must not be served later.
    batch.PutHead(RowOf(head, {}, request.head()));
  }
  HSM_RETURN_IF_ERROR(core_.blobs.Commit(batch));
  if (head.state == KeyState::kTombstone) {
    core_.AddTombstone(head.uid, head.incarnation);
    index->Remove(head.uid, head.incarnation);
  }
  index->PutHead(IndexEntry::From(head, request.head(), true));
  core_.fence.Noted(request.fence().epoch(), request.sequence());
  return EndUses(index, head.uid);
}

}  // namespace hsm
