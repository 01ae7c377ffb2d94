#include "coordinator/restore.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/status_macros.h"
#include "coordinator/backup_file.h"
#include "coordinator/export_pool.h"
#include "coordinator/job_calls.h"
#include "coordinator/merkle.h"

namespace hsm {
namespace {

constexpr absl::Duration kDigestTimeout = absl::Seconds(30);
constexpr absl::Duration kServingWait = absl::Minutes(2);
constexpr size_t kRollbackKeysPerStep = 256;
constexpr int kNewIncarnationsListedMax = 500;

// Merkle root and counts of one data set as the store has it. `as_expected` changes a key's records to what
// is to be counted, or answers false for a key that is not.
struct Inventory {
  Sha256Hash root{};
  uint64_t keys = 0, versions = 0;
};
absl::StatusOr<Inventory> InventoryOf(
    Catalogue& catalogue, DataSet data_set,
    const std::function<absl::StatusOr<bool>(rpc::KeyRecords&)>& as_expected) {
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<CatalogueSnapshot> snapshot, catalogue.Snapshot());
  MerkleTree tree;
  Inventory inventory;
  for (std::string after;;) {
    HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot->Keys(data_set, after, 200));
    for (CatalogueKey& key : page.keys) {
      if (as_expected != nullptr) {
        HSM_ASSIGN_OR_RETURN(const bool counts, as_expected(key.records));
        if (!counts) continue;
      }
      HSM_ASSIGN_OR_RETURN(const Bytes leaf, InventoryLeafOf(key.records));
      tree.Add(leaf);
      ++inventory.keys;
      inventory.versions += static_cast<uint64_t>(key.records.versions_size());
    }
    if (!page.more || page.keys.empty()) break;
    after = page.keys.back().name;
  }
  inventory.root = tree.Root();
  return inventory;
}

}  // namespace

RestoreJob::RestoreJob(Coordinator& coordinator, const JobOptions& options, JobStore& store,
                       std::function<bool()> stopping)
    : coordinator_(coordinator),
      core_(coordinator.core()),
      options_(options),
      store_(store),
      stopping_(std::move(stopping)) {}

AuditFields RestoreJob::Audit(const JobRow& row, std::string_view operation) const {
  AuditFields audit = AuditOfSystem(operation, row.id.ToHex());
  const std::optional<PrincipalId> principal = PrincipalId::From(row.stored.principal());
  if (principal) audit.principal = GuidText(*principal);
  return audit;
}

absl::Status RestoreJob::SaveState(JobRow& row) {
  row.stored.set_state(state_.SerializeAsString());
  return store_.Save(row);
}

absl::Status RestoreJob::Open(JobRow& row) {
  if (open_) return absl::OkStatus();
  if (!state_.ParseFromString(row.stored.state())) {
    return Error(v1::REASON_RECORD_CORRUPT, "the restore job's row cannot be read");
  }
  if (!state_.rollback()) {
    if (!request_.ParseFromString(row.stored.request())) {
      return Error(v1::REASON_RECORD_CORRUPT, "the restore job's request cannot be read");
    }
    HSM_ASSIGN_OR_RETURN(target_, OpenBackupTarget(request_.target()));
    HSM_ASSIGN_OR_RETURN(reader_, BackupReader::Open(core_, *target_, request_.folder()));
  }
  open_ = true;
  return absl::OkStatus();
}

absl::StatusOr<JobProgress> RestoreJob::Work(JobRow& row) {
  const std::string step = row.job().step();
  if (step == "switch") {
    if (!open_ && !state_.ParseFromString(row.stored.state())) {
      return Error(v1::REASON_RECORD_CORRUPT, "the restore job's row cannot be read");
    }
    return Switch(row);  // needs no folder any more
  }
  HSM_RETURN_IF_ERROR(Open(row));
  if (step == "check") return Check(row);
  if (step == "enter") return Enter(row);
  if (step == "load") return Load(row);
  if (step == "compare") return Compare(row);
  return Error(v1::REASON_RECORD_CORRUPT, "the restore job is at a step this version does not know");
}

// --- check -------------------------------------------------------------------------------------------------

// A full backup of this HSM that ended well within the gate: the way back if the restore was a mistake.
absl::Status RestoreJob::CheckGate() {
  if (options_.gate <= absl::ZeroDuration() || HSM_MUTANT("restore-no-gate")) return absl::OkStatus();
  const int64_t oldest = absl::ToUnixSeconds(core_.clock.Now() - options_.gate);
  std::string after;
  for (bool more = true; more;) {
    HSM_ASSIGN_OR_RETURN(const std::vector<JobRow> rows, store_.List(after, limits::kStorePageMax, &more));
    for (const JobRow& row : rows) {
      const v1::Job& job = row.job();
      if (job.kind() == "backup" && job.status() == v1::JOB_STATUS_SUCCEEDED && job.ended() >= oldest) {
        return absl::OkStatus();
      }
      after = job.id();
    }
    if (rows.empty()) break;
  }
  return Error(
      v1::REASON_RESTORE_GATE,
      fmt::format("a restore needs a full backup of this HSM that ended within the last {} minutes: make one "
                  "now, so that there is a way back",
                  absl::ToInt64Minutes(options_.gate)));
}

absl::StatusOr<JobProgress> RestoreJob::Check(JobRow& row) {
  if (!state_.rollback()) {
    HSM_RETURN_IF_ERROR(CheckGate());
    HSM_RETURN_IF_ERROR(reader_->VerifyAll(stopping_));
    state_.set_merkle_root(reader_->fields().merkle_root());
    state_.set_backup_id(reader_->fields().backup_id());
    row.job().set_total(reader_->fields().versions());
  } else {
    state_.set_backup_id(core_.random.NewId<BackupId>().Raw());
  }
  const uint32_t ready = core_.cluster.ReadyCount();
  if (ready < core_.cluster.quorum()) {
    return Error(v1::REASON_NO_QUORUM,
                 fmt::format("{} partitions are READY, a restore needs {}", ready, core_.cluster.quorum()));
  }
  row.job().set_step("enter");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

// --- enter -------------------------------------------------------------------------------------------------

absl::StatusOr<JobProgress> RestoreJob::Enter(JobRow& row) {
  HSM_RETURN_IF_ERROR(coordinator_.EnterRestore(row.id, Audit(row, "EnterRestore")));
  // No change can be acknowledged from here on, so what is seen now stays true until the switch.
  if (state_.rollback()) HSM_RETURN_IF_ERROR(CheckUnchanged());
  if (state_.data_set() == 0) {
    HSM_ASSIGN_OR_RETURN(const DataSet data_set, coordinator_.NewDataSet(row.id));
    state_.set_data_set(data_set);
  }
  row.job().mutable_restore()->set_data_set(state_.data_set());
  row.job().set_step("load");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

// For a roll-back: whether keys were created, changed or destroyed since the switch.
absl::Status RestoreJob::CheckUnchanged() {
  if (state_.discard_changes()) return absl::OkStatus();
  const HsmViewPtr view = core_.state.View();
  const absl::Status changed = Error(
      v1::REASON_CONFLICT, "keys were changed since the restore; say that these changes are to be discarded");
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<CatalogueSnapshot> snapshot, core_.catalogue.Snapshot());
  for (std::string after;;) {
    HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot->Keys(view->data_set, after, 200));
    for (const CatalogueKey& key : page.keys) {
      if (key.head_revision > static_cast<StoreRevision>(state_.undone_revision())) return changed;
    }
    if (!page.more || page.keys.empty()) break;
    after = page.keys.back().name;
  }
  for (std::string after;;) {
    HSM_ASSIGN_OR_RETURN(auto page, snapshot->Tombstones(after, 200));
    for (const auto& tombstone : page.rows) {
      if (tombstone.value.data_set() == view->data_set) return changed;
    }
    if (!page.more || page.rows.empty()) return absl::OkStatus();
    after = page.rows.back().key;
  }
}

// For a roll-back that discards changes: what was revoked since the switch stays revoked (a disabled key
// stays disabled, narrowed operations and dates stay narrow). Nothing can change any more while this is read.
absl::Status RestoreJob::FindRevocations() {
  if (revocations_) return absl::OkStatus();
  std::map<KeyUid, rpc::SealedRecord> found;
  const HsmViewPtr view = core_.state.View();
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<CatalogueSnapshot> snapshot, core_.catalogue.Snapshot());
  for (std::string after;;) {
    HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot->Keys(view->data_set, after, 200));
    for (const CatalogueKey& key : page.keys) {
      if (key.head_revision <= static_cast<StoreRevision>(state_.undone_revision())) continue;
      HSM_ASSIGN_OR_RETURN(const KeyHead head, DecodeHead(key.records.head()));
      found[head.uid] = key.records.head();
    }
    if (!page.more || page.keys.empty()) break;
    after = page.keys.back().name;
  }
  if (HSM_MUTANT("rollback-forgets-revocations")) found.clear();
  revocations_ = std::move(found);
  return absl::OkStatus();
}

// --- load --------------------------------------------------------------------------------------------------

absl::StatusOr<JobProgress> RestoreJob::Load(JobRow& row) {
  if (Workers(core_).size() < core_.cluster.quorum()) {
    return Error(v1::REASON_NO_QUORUM, "too few partitions are READY to load the restored keys");
  }
  for (size_t i = 0; i < core_.cluster.size(); ++i) core_.cluster.SetBusy(i, BusyWith::kRestore);
  absl::StatusOr<bool> all = state_.rollback() ? LoadReplaced(row) : LoadChunk(row);
  for (size_t i = 0; i < core_.cluster.size(); ++i) core_.cluster.SetBusy(i, BusyWith::kNothing);
  if (!all.ok()) return all.status();
  if (*all) row.job().set_step("compare");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

absl::StatusOr<bool> RestoreJob::LoadChunk(JobRow& row) {
  const uint32_t chunks = static_cast<uint32_t>(reader_->fields().chunks_size());
  if (state_.chunks_loaded() >= chunks) return true;
  HSM_ASSIGN_OR_RETURN(rpc::Chunk chunk, reader_->ReadChunk(state_.chunks_loaded()));
  std::vector<RestoreLoader::Item> items;
  for (rpc::BackupKey& key : *chunk.mutable_keys()) items.push_back({std::move(key), 0});
  HSM_RETURN_IF_ERROR(LoadKeys(row, std::move(items)));
  state_.set_chunks_loaded(state_.chunks_loaded() + 1);
  return state_.chunks_loaded() >= chunks;
}

// The replaced data set, exported and opened again without touching a target.
absl::StatusOr<bool> RestoreJob::LoadReplaced(JobRow& row) {
  HSM_RETURN_IF_ERROR(FindRevocations());
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<CatalogueSnapshot> snapshot, core_.catalogue.Snapshot());
  HSM_ASSIGN_OR_RETURN(CatalogueKeys page,
                       snapshot->Keys(state_.from(), state_.after(), kRollbackKeysPerStep));
  if (page.keys.empty()) return true;
  const std::vector<size_t> ready = Workers(core_);
  if (ready.empty()) return Error(v1::REASON_NO_PARTITION, "no partition can take part in the restore");
  std::vector<RestoreLoader::Item> items;
  {
    ExportPool pool(core_, state_.backup_id(), ready, 1, nullptr);
    for (const CatalogueKey& key : page.keys) {
      // One key a call, split by versions: a roll-back is rare and need not be fast.
      for (int first = 0; first < key.records.versions_size();
           first += static_cast<int>(limits::kExportVersionsPerCall)) {
        rpc::KeyRecords part;
        *part.mutable_head() = key.records.head();
        const int end =
            std::min(first + static_cast<int>(limits::kExportVersionsPerCall), key.records.versions_size());
        for (int v = first; v < end; ++v) *part.add_versions() = key.records.versions(v);
        pool.Add({std::move(part)});
      }
    }
    while (pool.open() > 0) {
      HSM_ASSIGN_OR_RETURN(ExportedBatch batch, pool.Take());
      for (rpc::BackupKey& key : batch.keys) {
        if (!items.empty() && items.back().key.head().body() == key.head().body()) {
          for (rpc::BackupVersion& version : *key.mutable_versions()) {
            *items.back().key.add_versions() = std::move(version);
          }
        } else {
          items.push_back({std::move(key), 0});
        }
      }
    }
  }
  HSM_RETURN_IF_ERROR(LoadKeys(row, std::move(items)));
  state_.set_after(page.keys.back().name);
  return !page.more;
}

// A purged incarnation never comes back: from a backup its key gets a higher one, in a roll-back it stays
// purged.
absl::Status RestoreJob::LoadKeys(JobRow& row, std::vector<RestoreLoader::Item> items) {
  std::vector<RestoreLoader::Item> wanted;
  v1::RestoreResult& result = *row.job().mutable_restore();
  uint64_t versions = 0;
  for (size_t begin = 0; begin < items.size(); begin += limits::kStoreOpsMax) {
    const size_t end = std::min(items.size(), begin + limits::kStoreOpsMax);
    std::vector<std::string> keys;
    std::vector<KeyHead> heads;
    for (size_t i = begin; i < end; ++i) {
      HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(items[i].key.head()));
      keys.push_back(store_key::Tombstone(head.uid));
      heads.push_back(std::move(head));
    }
    HSM_ASSIGN_OR_RETURN(const std::vector<StoreRecord> found, core_.catalogue.store().Get(keys));
    std::map<std::string, uint32_t> purged;
    for (const StoreRecord& record : found) {
      HSM_ASSIGN_OR_RETURN(const auto tombstone, ParseRow<rpc::StoredTombstone>(record));
      purged[record.key] = tombstone.value.incarnation();
    }
    for (size_t i = begin; i < end; ++i) {
      const KeyHead& head = heads[i - begin];
      const auto tombstone = purged.find(keys[i - begin]);
      if (head.state == KeyState::kTombstone) continue;  // known to this store already, or of another one
      if (tombstone != purged.end() && tombstone->second >= head.incarnation) {
        if (state_.rollback()) continue;
        items[i].incarnation = HSM_MUTANT("restore-old-incarnation") ? 0 : tombstone->second + 1;
        if (result.new_incarnations_size() < kNewIncarnationsListedMax)
          result.add_new_incarnations(head.name);
      }
      if (state_.rollback()) {
        const auto later = revocations_->find(head.uid);
        if (later != revocations_->end()) items[i].narrowed_by = later->second;
      }
      versions += static_cast<uint64_t>(items[i].key.versions_size());
      wanted.push_back(std::move(items[i]));
    }
  }
  RestoreLoader loader(core_, state_.backup_id(), state_.data_set());
  HSM_RETURN_IF_ERROR(loader.Load(wanted));
  state_.set_keys(state_.keys() + wanted.size());
  state_.set_versions(state_.versions() + versions);
  row.job().set_done(state_.versions());
  return absl::OkStatus();
}

// --- compare and switch ------------------------------------------------------------------------------------

// What a roll-back has to have loaded: the replaced keys without those purged since, less what was revoked.
absl::StatusOr<std::string> RestoreJob::RootOfReplaced() {
  HSM_RETURN_IF_ERROR(FindRevocations());
  std::map<KeyUid, uint32_t> purged;
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<CatalogueSnapshot> snapshot, core_.catalogue.Snapshot());
  for (std::string after;;) {
    HSM_ASSIGN_OR_RETURN(auto page, snapshot->Tombstones(after, 200));
    for (const auto& tombstone : page.rows) {
      purged[*KeyUid::From(tombstone.value.uid())] = tombstone.value.incarnation();
    }
    if (!page.more || page.rows.empty()) break;
    after = page.rows.back().key;
  }
  auto as_expected = [&](rpc::KeyRecords& records) -> absl::StatusOr<bool> {
    HSM_ASSIGN_OR_RETURN(const KeyHead head, DecodeHead(records.head()));
    const auto tombstone = purged.find(head.uid);
    if (tombstone != purged.end() && tombstone->second >= head.incarnation) return false;
    const auto later = revocations_->find(head.uid);
    if (later == revocations_->end()) return true;
    HSM_ASSIGN_OR_RETURN(const KeyHead revoked, DecodeHead(later->second));
    records.mutable_head()->set_body(ToString(Encode(Narrowed(head, revoked))));
    return true;
  };
  HSM_ASSIGN_OR_RETURN(const Inventory replaced, InventoryOf(core_.catalogue, state_.from(), as_expected));
  return std::string(StringView(replaced.root));
}

absl::StatusOr<JobProgress> RestoreJob::Compare(JobRow& row) {
  HSM_ASSIGN_OR_RETURN(const Inventory loaded, InventoryOf(core_.catalogue, state_.data_set(), nullptr));
  std::string root = state_.merkle_root();
  if (state_.rollback()) {
    HSM_ASSIGN_OR_RETURN(root, RootOfReplaced());
  }
  if (StringView(loaded.root) != root) {
    return Error(v1::REASON_BACKUP_INVALID, "what was loaded is not what the backup holds");
  }
  // What the partitions hold: their digests against those of the very table that will serve.
  KeyTable table;
  HSM_RETURN_IF_ERROR(table.Load(core_.catalogue, state_.data_set()));
  const std::vector<Bytes> want = table.BucketDigests();
  uint32_t agree = 0;
  for (size_t i : Workers(core_)) {
    // An empty backup has given nobody a reason to open the data set yet.
    rpc::PutRecordsRequest open;
    *open.mutable_fence() = core_.Fence();
    open.mutable_fence()->set_data_set(state_.data_set());
    open.set_staging_data_set(true);
    open.set_into(state_.data_set());
    if (!core_.cluster.client(i).PutRecords(open, kDigestTimeout).ok()) continue;
    rpc::DigestRequest request;
    *request.mutable_fence() = open.fence();
    const auto answer = core_.cluster.client(i).Digest(request, kDigestTimeout);
    if (!answer.ok() || static_cast<size_t>(answer->buckets_size()) != want.size()) continue;
    bool same = true;
    for (size_t bucket = 0; bucket < want.size(); ++bucket) {
      same = same && answer->buckets(static_cast<int>(bucket)) == StringView(want[bucket]);
    }
    agree += same;
  }
  if (agree < core_.cluster.quorum() && !HSM_MUTANT("restore-skip-digests")) {
    return Error(v1::REASON_NO_QUORUM, fmt::format("{} partitions hold what was loaded, {} are needed", agree,
                                                   core_.cluster.quorum()));
  }
  v1::RestoreResult& result = *row.job().mutable_restore();
  result.set_keys_restored(loaded.keys);
  result.set_versions_restored(loaded.versions);
  row.job().set_step("switch");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

absl::StatusOr<JobProgress> RestoreJob::Switch(JobRow& row) {
  const HsmViewPtr view = core_.state.View();
  const bool done = view->data_set == state_.data_set() && view->mode == rpc::HSM_MODE_ACTIVE;
  if (!done) {
    HSM_RETURN_IF_ERROR(coordinator_.SwitchDataSet(row.id, state_.data_set(), Audit(row, "SwitchDataSet")));
  }
  // What a later roll-back compares with: anything written after this revision is a change since the restore.
  if (state_.switch_revision() == 0) {
    state_.set_switch_revision(static_cast<uint64_t>(core_.state.View()->store_revision));
    HSM_RETURN_IF_ERROR(SaveState(row));
  }
  // Done when every READY partition says that it serves the new data set, W at least. The switch stands in
  // any case.
  if (!serving_by_) serving_by_.emplace(core_.clock, kServingWait);
  uint32_t serving = 0;
  bool all = true;
  for (const PartitionView& partition : core_.cluster.Views()) {
    if (partition.state != v1::PARTITION_STATE_READY) continue;
    const bool switched = partition.heartbeat.data_set() == state_.data_set();
    serving += switched;
    all = all && switched;
  }
  if ((!all || serving < core_.cluster.quorum()) && !serving_by_->Passed()) return JobProgress::kWaiting;
  return JobProgress::kDone;
}

absl::Status RestoreJob::Abort(JobRow& row) {
  rpc::RestoreState state;
  state.ParseFromString(row.stored.state());
  const HsmViewPtr view = core_.state.View();
  if (state.data_set() != 0 && view->data_set == state.data_set()) {
    return Error(v1::REASON_INTERNAL, "the restored data set serves already");
  }
  if (view->mode == rpc::HSM_MODE_RESTORING) {
    HSM_RETURN_IF_ERROR(coordinator_.LeaveRestore(row.id, Audit(row, "LeaveRestore")));
  }
  if (state.data_set() != 0) HSM_RETURN_IF_ERROR(store_.Erase(store_key::DataSetPrefix(state.data_set())));
  return absl::OkStatus();
}

}  // namespace hsm
