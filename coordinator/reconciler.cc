#include "coordinator/reconciler.h"

#include <algorithm>
#include <set>

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"

namespace hsm {
namespace {

constexpr absl::Duration kSyncTimeout = absl::Seconds(10);
constexpr uint32_t kListLimit = 500;
constexpr size_t kProofsPerRound = 256;

// Sorted ids as a node lists them.
bool HoldsAll(const rpc::HeldKey& held, const KeyEntry& entry) {
  std::set<std::string_view> have(held.versions().begin(), held.versions().end());
  return std::all_of(entry.versions.begin(), entry.versions.end(),
                     [&](const EntryVersion& version) { return have.contains(version.id.Raw()); });
}

bool KnowsAll(const KeyEntry& entry, const rpc::HeldKey& held) {
  return std::all_of(held.versions().begin(), held.versions().end(), [&](const std::string& raw) {
    std::optional<KeyVersion> id = KeyVersion::From(raw);
    return id.has_value() && entry.Find(*id) != nullptr;
  });
}

}  // namespace

absl::Status Reconciler::AlignDataSet(size_t index) {
  HsmViewPtr view = core_.state.View();
  HSM_ASSIGN_OR_RETURN(rpc::GetInfoResponse info, core_.cluster.client(index).GetInfo({}, kSyncTimeout));
  const std::string& ours = view->stored.bundle().replication_kek_fingerprint();
  if (info.has_bundle() && info.bundle().replication_kek_fingerprint() != ours) {
    core_.cluster.Refuse(index, "its domain keys are others than this HSM's", core_.clock.Uptime());
    return Error(v1::REASON_OTHER_DOMAIN, "its domain keys are others than this HSM's");
  }
  if (info.status().data_set() == view->data_set) return absl::OkStatus();
  rpc::ControlRequest control;
  control.set_switch_data_set(view->data_set);
  return core_.revoker.Tell(index, control);
}

absl::Status Reconciler::Sync(size_t index) {
  const uint64_t begun = core_.cluster.BeginSync(index);
  const auto behind = core_.cluster.Behind(index);
  const Epoch epoch = core_.state.View()->epoch;
  HSM_RETURN_IF_ERROR(AlignDataSet(index));
  rpc::DigestRequest digest;
  *digest.mutable_fence() = core_.Fence();
  // The catalogue's side is taken first: what is committed later reaches the node by itself or marks it
  // behind.
  std::vector<Bytes> wanted = core_.table.BucketDigests();
  HSM_ASSIGN_OR_RETURN(rpc::DigestResponse has, core_.cluster.client(index).Digest(digest, kSyncTimeout));
  if (has.buckets_size() != static_cast<int>(wanted.size())) {
    return Error(v1::REASON_RECORD_CORRUPT, "a partition answered another number of buckets");
  }
  HSM_ASSIGN_OR_RETURN(rpc::GetInfoResponse info, core_.cluster.client(index).GetInfo({}, kSyncTimeout));
  const bool look_everywhere = info.status().proved() < info.status().keys();
  const bool reprove = core_.cluster.View(index).facts.reprove;
  Found found;
  for (uint32_t bucket = 0; bucket < wanted.size(); ++bucket) {
    bool differs = has.buckets(static_cast<int>(bucket)) != StringView(wanted[bucket]);
    if (reprove) AddAll(bucket, found);
    if (differs || look_everywhere) HSM_RETURN_IF_ERROR(CompareBucket(index, bucket, found));
  }
  HSM_RETURN_IF_ERROR(Push(index, found));
  if (!HSM_MUTANT("ready-without-proof")) HSM_RETURN_IF_ERROR(ProveAll(index, found.unproved));
  if (!found.push_names.empty() || !found.push_tombstones.empty() || !found.unproved.empty() ||
      found.quarantined) {
    LogInfo("partition brought in step", {{"partition", core_.cluster.name(index)},
                                          {"pushed", found.push_names.size()},
                                          {"tombstones", found.push_tombstones.size()},
                                          {"proved", found.unproved.size()},
                                          {"quarantined", found.quarantined}});
  }
  if (core_.state.View()->epoch != epoch)
    return Error(v1::REASON_FENCED, "leadership changed during the sync");
  core_.cluster.ClearBehind(index, behind);
  if (!core_.cluster.FinishSync(index, begun, core_.clock.Uptime())) {
    return Error(v1::REASON_REVISION_CONFLICT, "it missed a message during the sync: once more");
  }
  return absl::OkStatus();
}

void Reconciler::AddAll(uint32_t bucket, Found& found) {
  for (const KeyEntryPtr& entry : core_.table.BucketContent(bucket).keys) {
    for (const EntryVersion& version : entry->versions)
      found.unproved.push_back({entry->head.uid, version.id});
  }
}

// Every key of the bucket on both sides; what to do goes into `found`.
absl::Status Reconciler::CompareBucket(size_t index, uint32_t bucket, Found& found) {
  KeyTable::Bucket content = core_.table.BucketContent(bucket);
  std::set<KeyUid> held_live, held_tombstones;
  rpc::ListBucketRequest request;
  *request.mutable_fence() = core_.Fence();
  request.set_bucket(bucket);
  request.set_limit(kListLimit);
  while (true) {
    HSM_ASSIGN_OR_RETURN(rpc::ListBucketResponse page,
                         core_.cluster.client(index).ListBucket(request, kSyncTimeout));
    for (const rpc::HeldKey& held : page.keys()) {
      std::optional<KeyUid> uid = KeyUid::From(held.uid());
      if (!uid.has_value()) return Error(v1::REASON_RECORD_CORRUPT, "a partition lists a key without a uid");
      if (held.staged()) {
        HSM_RETURN_IF_ERROR(JudgeStaged(index, held, found));
        continue;
      }
      (held.tombstone() ? held_tombstones : held_live).insert(*uid);
      HSM_RETURN_IF_ERROR(JudgeHeld(index, held, found));
    }
    if (!page.more() || page.keys().empty()) break;
    request.set_after(Hex(View(page.keys(page.keys_size() - 1).uid())));
  }
  for (const KeyEntryPtr& entry : content.keys) {
    if (held_live.contains(entry->head.uid)) continue;
    found.push_names.push_back(entry->head.name);
    for (const EntryVersion& version : entry->versions)
      found.unproved.push_back({entry->head.uid, version.id});
  }
  for (const auto& [uid, tombstone] : content.tombstones) {
    if (!held_live.contains(uid) && !held_tombstones.contains(uid)) found.push_tombstones.push_back(uid);
  }
  return absl::OkStatus();
}

absl::Status Reconciler::JudgeHeld(size_t index, const rpc::HeldKey& held, Found& found) {
  const KeyUid uid = *KeyUid::From(held.uid());
  KeyEntryPtr entry = core_.table.FindUid(uid);  // now, not at the start of the pass
  if (held.tombstone()) {
    if (entry == nullptr || entry->head.incarnation > held.incarnation()) return absl::OkStatus();
    core_.state.Stop(v1::REASON_STORE_ROLLED_BACK,
                     "partition " + core_.cluster.name(index) + " remembers the end of key " +
                         entry->head.name + ", the store does not: it is older than the partitions");
    return Error(v1::REASON_STORE_ROLLED_BACK, "a partition holds a tombstone the catalogue does not know");
  }
  if (entry == nullptr) {
    if (core_.table.FindTombstone(uid).has_value()) {
      found.push_tombstones.push_back(uid);
      return absl::OkStatus();
    }
    rpc::QuarantineRequest quarantine;
    *quarantine.mutable_fence() = core_.Fence();
    quarantine.set_uid(held.uid());
    LogError("a partition holds a key the catalogue does not know: quarantined",
             {{"partition", core_.cluster.name(index)}, {"uid", uid.ToHex()}});
    ++found.quarantined;
    return core_.cluster.client(index).Quarantine(quarantine, kSyncTimeout).status();
  }
  if (held.incarnation() == entry->head.incarnation && held.revision() > entry->head.revision) {
    core_.state.Stop(v1::REASON_STORE_ROLLED_BACK,
                     "partition " + core_.cluster.name(index) + " has a newer state of key " +
                         entry->head.name + " than the store: the store is older than the partitions");
    return Error(v1::REASON_STORE_ROLLED_BACK, "a partition holds a newer head than the catalogue");
  }
  bool same =
      held.revision() == entry->head.revision && held.head_mac() == entry->head_mac && HoldsAll(held, *entry);
  if (!same) found.push_names.push_back(entry->head.name);
  std::set<std::string_view> have(held.versions().begin(), held.versions().end());
  std::set<std::string_view> unproved(held.unproved().begin(), held.unproved().end());
  for (const EntryVersion& version : entry->versions) {
    const std::string raw = version.id.Raw();
    if (unproved.contains(raw) || !have.contains(raw)) found.unproved.push_back({uid, version.id});
  }
  return absl::OkStatus();
}

absl::Status Reconciler::JudgeStaged(size_t index, const rpc::HeldKey& held, Found& found) {
  std::optional<OpId> attempt = OpId::From(held.op_id());
  if (!attempt.has_value())
    return Error(v1::REASON_RECORD_CORRUPT, "a partition lists a staged key without an op id");
  if (replicator_.AttemptRuns(*attempt)) return absl::OkStatus();
  const KeyUid uid = *KeyUid::From(held.uid());
  auto committed = [&] {
    KeyEntryPtr entry = core_.table.FindUid(uid);
    return entry != nullptr && KnowsAll(*entry, held);
  };
  if (!committed()) {
    absl::Duration age = core_.clock.Now() - absl::FromUnixMillis(OpIdTimeMs(*attempt));
    if (age < core_.config.staged_age) return absl::OkStatus();
    // From here on a late commit of this attempt is impossible: its guard asks for the absence of this row.
    Change change;
    rpc::StoredAborted aborted;
    aborted.set_time_ms(absl::ToUnixMillis(core_.clock.Now()));
    change.ops = {StoreOp::Put(store_key::Aborted(*attempt), aborted.SerializeAsString())};
    HSM_RETURN_IF_ERROR(core_.committer.Commit(std::move(change)).status);
  }
  if (!committed()) {
    rpc::DiscardRequest discard;
    *discard.mutable_fence() = core_.Fence();
    discard.set_op_id(held.op_id());
    ++found.swept;
    return core_.cluster.client(index).Discard(discard, kSyncTimeout).status();
  }
  rpc::ActivateRequest activate;
  *activate.mutable_fence() = core_.Fence();
  rpc::ActivateItem& item = *activate.add_items();
  item.set_op_id(held.op_id());
  item.set_uid(held.uid());
  item.set_revision(held.revision());
  HSM_ASSIGN_OR_RETURN(auto response, core_.cluster.client(index).Activate(activate, kSyncTimeout));
  if (response.answers_size() == 1 && response.answers(0).has_error())
    return Error(response.answers(0).error());
  return absl::OkStatus();
}

absl::Status Reconciler::Push(size_t index, const Found& found) {
  const DataSet data_set = core_.state.View()->data_set;
  rpc::PutRecordsRequest request;
  size_t records = 0;
  size_t bytes = 0;
  auto add = [&](rpc::KeyRecords key) -> absl::Status {
    records += 1 + static_cast<size_t>(key.versions_size());
    bytes += key.ByteSizeLong();
    *request.add_records() = std::move(key);
    if (records < limits::kSyncRecordsPerCall && bytes < limits::kMessageBytesMax / 4)
      return absl::OkStatus();
    records = bytes = 0;
    return SendRecords(index, request);
  };
  for (const std::string& name : found.push_names) {
    HSM_ASSIGN_OR_RETURN(auto key, core_.catalogue.Key(data_set, name));
    if (key.has_value()) HSM_RETURN_IF_ERROR(add(std::move(key->records)));  // else destroyed meanwhile
  }
  for (const KeyUid& uid : found.push_tombstones) {
    HSM_ASSIGN_OR_RETURN(auto row, core_.catalogue.Read<rpc::StoredTombstone>(store_key::Tombstone(uid)));
    if (!row.has_value()) continue;
    rpc::KeyRecords key;
    *key.mutable_head() = std::move(*row->value.mutable_head());
    HSM_RETURN_IF_ERROR(add(std::move(key)));
  }
  return SendRecords(index, request);
}

absl::Status Reconciler::SendRecords(size_t index, rpc::PutRecordsRequest& request) {
  if (request.records().empty()) return absl::OkStatus();
  *request.mutable_fence() = core_.Fence();
  absl::Status status = core_.cluster.client(index).PutRecords(request, kSyncTimeout).status();
  request.Clear();
  return status;
}

absl::Status Reconciler::ProveAll(size_t index, const std::vector<ProofItem>& items) {
  size_t failed = 0;
  std::string example;
  for (size_t at = 0; at < items.size(); at += kProofsPerRound) {
    size_t end = std::min(items.size(), at + kProofsPerRound);
    std::vector<ProofItem> round(items.begin() + static_cast<long>(at),
                                 items.begin() + static_cast<long>(end));
    for (const PartitionProof& proof : prover_.ProveMany(index, round)) {
      // One that stands alone is good enough only where there is nobody to compare with (ProveMany has
      // looked).
      if (proof.result == v1::PROOF_RESULT_PROVED || proof.result == v1::PROOF_RESULT_SELF_CHECKED) continue;
      ++failed;
      example = proof.message;
    }
    if (core_.cluster.View(index).facts.refused.size() != 0) break;
    core_.cluster.SetMessage(index,
                             "proving keys: " + std::to_string(end) + " of " + std::to_string(items.size()));
  }
  if (failed == 0) return absl::OkStatus();
  return Error(v1::REASON_PROOF_FAILED, std::to_string(failed) + " key versions are not proved: " + example);
}

absl::Status Reconciler::RepairBehind(size_t index) {
  auto behind = core_.cluster.Behind(index);
  if (behind.size() > limits::kSyncRecordsPerCall) behind.resize(limits::kSyncRecordsPerCall);
  Found found;
  std::vector<KeyEntryPtr> entries;
  for (const auto& [uid, stamp] : behind) {
    if (KeyEntryPtr entry = core_.table.FindUid(uid); entry != nullptr) {
      found.push_names.push_back(entry->head.name);
      for (const EntryVersion& version : entry->versions) found.unproved.push_back({uid, version.id});
      entries.push_back(std::move(entry));
    } else if (core_.table.FindTombstone(uid).has_value()) {
      found.push_tombstones.push_back(uid);
    }
  }
  HSM_RETURN_IF_ERROR(Push(index, found));
  HSM_RETURN_IF_ERROR(ProveAll(index, found.unproved));
  core_.cluster.ClearBehind(index, behind);
  for (const KeyEntryPtr& entry : entries) entry->RaiseActive(static_cast<uint32_t>(entry->versions.size()));
  return absl::OkStatus();
}

absl::Status Reconciler::Scrub(size_t index, uint32_t count) {
  std::pair<uint32_t, size_t> at;
  {
    MutexLock lock(mutex_);
    at = scrub_at_[index];
  }
  std::vector<ProofItem> items;
  for (size_t buckets = 0; items.size() < count && buckets < limits::kBuckets; ++buckets) {
    KeyTable::Bucket content = core_.table.BucketContent(at.first);
    for (; at.second < content.keys.size() && items.size() < count; ++at.second) {
      const KeyEntry& entry = *content.keys[at.second];
      for (const EntryVersion& version : entry.versions) items.push_back({entry.head.uid, version.id});
    }
    if (at.second < content.keys.size()) break;
    at = {(at.first + 1) % static_cast<uint32_t>(limits::kBuckets), 0};
  }
  {
    MutexLock lock(mutex_);
    scrub_at_[index] = at;
  }
  return ProveAll(index, items);
}

}  // namespace hsm
