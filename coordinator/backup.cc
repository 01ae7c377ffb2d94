#include "coordinator/backup.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "common/aead.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "common/status_macros.h"
#include "coordinator/job_calls.h"
#include "coordinator/merkle.h"

namespace hsm {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(10);
constexpr size_t kLookAheadPerWorker = 2;
constexpr size_t kTombstonesPerChunk = 400;
constexpr int kSkippedListedMax = 500;

}  // namespace

std::vector<size_t> ChooseBusy(const std::vector<PartitionView>& partitions, size_t busy_max, size_t free) {
  std::vector<size_t> ready;
  for (size_t i = 0; i < partitions.size(); ++i) {
    if (partitions[i].state == v1::PARTITION_STATE_READY) ready.push_back(i);
  }
  if (!HSM_MUTANT("backup-any-busy") && ready.size() <= free) return {};
  std::stable_sort(ready.begin(), ready.end(),
                   [&](size_t a, size_t b) { return partitions[a].in_flight < partitions[b].in_flight; });
  ready.resize(std::min(busy_max, HSM_MUTANT("backup-any-busy") ? ready.size() : ready.size() - free));
  return ready;
}

struct BackupJob::Chunk {
  rpc::Chunk content;
  rpc::ChunkReceipts receipts;
  uint32_t versions = 0;
  std::string last_uid_body;  // head body of the last key, to join what two calls exported
  std::string skipped;        // name of the key being left out
};

BackupJob::BackupJob(Core& core, const JobOptions& options, JobStore& store, Throughput& throughput,
                     std::function<bool()> stopping)
    : core_(core),
      options_(options),
      store_(store),
      throughput_(throughput),
      stopping_(std::move(stopping)) {}

BackupJob::~BackupJob() {
  for (size_t index : busy_) core_.cluster.SetBusy(index, BusyWith::kNothing);
}

absl::Status BackupJob::SaveState(JobRow& row) {
  row.stored.set_state(state_.SerializeAsString());
  return store_.Save(row);
}

absl::StatusOr<JobProgress> BackupJob::Wait(JobRow& row, const std::string& why) {
  v1::Job& job = row.job();
  if (job.status() != v1::JOB_STATUS_PAUSED || job.message() != why) {
    job.set_status(v1::JOB_STATUS_PAUSED);
    job.set_message(why);
    HSM_RETURN_IF_ERROR(SaveState(row));
  }
  return JobProgress::kWaiting;
}

// What a process needs before it can work on the row, whichever step it is at.
absl::Status BackupJob::Open(JobRow& row) {
  if (snapshot_ != nullptr) return absl::OkStatus();
  if (!request_.ParseFromString(row.stored.request()) || !state_.ParseFromString(row.stored.state())) {
    return Error(v1::REASON_RECORD_CORRUPT, "the backup job's row cannot be read");
  }
  HSM_ASSIGN_OR_RETURN(target_, OpenBackupTarget(request_.target()));
  HSM_RETURN_IF_ERROR(target_->MakeFolder(row.job().backup().folder()));
  HSM_ASSIGN_OR_RETURN(snapshot_, core_.catalogue.Snapshot());
  source_ = std::make_unique<BackupSource>(*snapshot_, state_.data_set());
  if (state_.chunks() == 0) return absl::OkStatus();
  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::StoredChunk> parts, store_.Parts(row.id, state_.chunks()));
  uint32_t hold = HSM_MUTANT("backup-keep-stale-chunks") ? state_.chunks() : 0;
  if (hold == 0) {
    HSM_ASSIGN_OR_RETURN(hold, source_->StillHold(parts));
  }
  uint64_t versions = 0, bytes = 0;
  for (uint32_t i = 0; i < hold; ++i) {
    versions += parts[i].entry().versions();
    bytes += parts[i].entry().bytes();
  }
  state_.set_chunks(hold);
  row.job().set_done(versions);
  row.job().mutable_backup()->set_bytes(bytes);
  row.job().set_step("export");
  // Keys beyond the chunks that hold are tried again.
  const std::string last = hold == 0 ? "" : parts[hold - 1].last();
  auto* skipped = state_.mutable_skipped();
  skipped->erase(
      std::remove_if(skipped->begin(), skipped->end(),
                     [&](const std::string& line) { return line.substr(0, line.find(':')) > last; }),
      skipped->end());
  return absl::OkStatus();
}

// A process may have died between the manifest and the row.
absl::StatusOr<bool> BackupJob::AlreadyComplete(JobRow& row) {
  if (state_.chunks() == 0 && row.job().step() != "manifest" && row.job().step() != "export") return false;
  auto stored = target_->Read(row.job().backup().folder(), std::string(kManifestObject), kManifestBytesMax);
  if (ReasonOf(stored.status()) == v1::REASON_NOT_FOUND) return false;
  if (!stored.ok()) return stored.status();
  HSM_ASSIGN_OR_RETURN(const rpc::ManifestFile file, ParseManifestFile(*stored));
  rpc::ManifestFields fields;
  if (!fields.ParseFromString(file.manifest()) || fields.backup_id() != state_.backup_id()) {
    return Error(v1::REASON_CONFLICT, "the folder holds the manifest of another backup");
  }
  v1::BackupResult& result = *row.job().mutable_backup();
  result.set_keys(fields.keys());
  result.set_versions(fields.versions());
  result.set_snapshot_revision(fields.snapshot_revision());
  row.job().set_done(fields.versions());
  row.job().set_total(fields.versions());
  return true;
}

absl::StatusOr<JobProgress> BackupJob::Work(JobRow& row) {
  if (snapshot_ == nullptr) {
    HSM_RETURN_IF_ERROR(Open(row));
    HSM_ASSIGN_OR_RETURN(const bool complete, AlreadyComplete(row));
    if (complete) return JobProgress::kDone;
  }
  const std::string step = row.job().step();
  if (step == "pin") return Pin(row);
  if (step == "export") return Export(row);
  if (step == "verify") return Verify(row);
  if (step == "manifest") return Manifest(row);
  return Error(v1::REASON_RECORD_CORRUPT, "the backup job is at a step this version does not know");
}

// --- export ------------------------------------------------------------------------------------------------

absl::StatusOr<JobProgress> BackupJob::Export(JobRow& row) {
  const size_t free = request_.allow_degraded() ? 1 : core_.cluster.quorum();
  busy_ = ChooseBusy(core_.cluster.Views(), options_.max_busy_partitions, free);
  if (busy_.empty()) {
    return Wait(row, fmt::format("waits for partitions: {} are READY, a backup needs {} so that {} stay free",
                                 core_.cluster.ReadyCount(), free + 1, free));
  }
  for (size_t index : busy_) core_.cluster.SetBusy(index, BusyWith::kBackup);
  if (state_.probe() && state_.baseline_seconds() > 0) {
    HSM_ASSIGN_OR_RETURN(auto subject, ChooseProbeSubject(core_, *snapshot_));
    if (subject) probe_ = std::make_unique<ThroughputProbe>(core_, *subject);
  }
  const std::optional<double> floor =
      request_.has_min_throughput() ? std::optional(request_.min_throughput()) : options_.min_throughput;
  {
    MutexLock lock(mutex_);
    control_baseline_ = state_.probe() ? 0 : state_.baseline_ops();
    if (floor && control_baseline_ > 0) floor_.emplace(*floor, row.job().backup().forecast().ratio());
  }
  BeginMeasuring();
  absl::Status status;
  {
    ExportPool pool(core_, state_.backup_id(), busy_, options_.exports_in_flight,
                    [this](absl::Duration took) { return Pause(took); });
    status = ExportKeys(row, pool);
  }
  Measure(row);
  probe_.reset();
  {
    MutexLock lock(mutex_);
    exporting_ = false;
  }
  for (size_t index : busy_) core_.cluster.SetBusy(index, BusyWith::kNothing);
  busy_.clear();
  HSM_RETURN_IF_ERROR(status);
  if (stopping_()) return JobProgress::kAdvanced;
  HSM_ASSIGN_OR_RETURN(const bool all, ExportTombstones(row));
  if (all) row.job().set_step("verify");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

// OK also when asked to stop, or when a partition stopped being READY: the caller looks again.
absl::Status BackupJob::ExportKeys(JobRow& row, ExportPool& pool) {
  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::StoredChunk> parts, store_.Parts(row.id, state_.chunks()));
  if (!parts.empty() && parts.back().tombstones()) return absl::OkStatus();  // the keys are all there
  source_->Seek(parts.empty() ? "" : parts.back().last(), careful_ ? 1 : 0);
  std::deque<PlannedBatch> plans;
  Chunk chunk;
  bool planned_all = false;
  row.job().set_status(v1::JOB_STATUS_IN_PROGRESS);
  row.job().set_message("");
  for (;;) {
    while (!planned_all && pool.open() < pool.workers() * kLookAheadPerWorker) {
      HSM_ASSIGN_OR_RETURN(PlannedBatch plan, source_->Next());
      if (plan.records.empty()) {
        planned_all = true;
        break;
      }
      pool.Add(std::move(plan.records));
      plans.push_back(std::move(plan));
    }
    if (plans.empty() || stopping_()) return absl::OkStatus();
    const PlannedBatch plan = std::move(plans.front());
    plans.pop_front();
    HSM_RETURN_IF_ERROR(Merge(row, chunk, plan, pool.Take()));
    if (!plan.ends_chunk) continue;
    rpc::StoredChunk part;
    part.set_last(plan.last);
    part.set_source(plan.source);
    Measure(row);
    HSM_RETURN_IF_ERROR(WriteChunk(row, chunk, std::move(part)));
    chunk = Chunk{};
    for (size_t index : busy_) {
      if (!core_.cluster.IsReady(index)) {
        return Error(v1::REASON_NO_PARTITION, "a partition that worked on the backup is no longer READY");
      }
    }
  }
}

absl::Status BackupJob::Merge(JobRow& row, Chunk& chunk, const PlannedBatch& plan,
                              absl::StatusOr<ExportedBatch> result) {
  if (!result.ok()) {
    const v1::Reason reason = ReasonOf(result.status());
    const bool of_a_key = reason == v1::REASON_RECORD_CORRUPT || reason == v1::REASON_PROOF_FAILED ||
                          reason == v1::REASON_UNSUPPORTED;
    const bool of_a_token = reason == v1::REASON_TOKEN_FAILED;
    if (!of_a_key && !of_a_token) return result.status();
    if (!careful_ || plan.last.empty()) {
      careful_ = true;  // next time one key a call, so that one bad key does not stop the others
      return Error(v1::REASON_NO_PARTITION,
                   fmt::format("a batch could not be exported: {}", DetailOf(result.status()).message()));
    }
    // No READY partition could, which says nothing about the key: a backup must not leave it out for that.
    if (of_a_token || state_.skipped_size() >= kSkippedListedMax) return result.status();
    state_.add_skipped(fmt::format("{}: {}", plan.last, DetailOf(result.status()).message()));
    return absl::OkStatus();
  }
  for (rpc::BackupKey& key : result->keys) {
    chunk.versions += static_cast<uint32_t>(key.versions_size());
    if (chunk.content.keys_size() > 0 && chunk.last_uid_body == key.head().body()) {
      rpc::BackupKey& begun = *chunk.content.mutable_keys(chunk.content.keys_size() - 1);
      for (rpc::BackupVersion& version : *key.mutable_versions()) *begun.add_versions() = std::move(version);
      continue;
    }
    chunk.last_uid_body = key.head().body();
    *chunk.content.add_keys() = std::move(key);
  }
  chunk.receipts.add_receipts(result->receipt);
  chunk.receipts.add_batch_hashes(result->hash);
  row.job().set_done(row.job().done() + plan.versions);
  return absl::OkStatus();
}

absl::Status BackupJob::WriteChunk(JobRow& row, Chunk& chunk, rpc::StoredChunk part) {
  ChunkPlace place;
  place.backup = *BackupId::From(state_.backup_id());
  place.place = state_.chunks();
  place.attempt = core_.random.NewId<ChunkAttempt>();
  chunk.content.set_place(place.place);

  rpc::DeriveAeadRequest derive;
  *derive.mutable_fence() = core_.Fence();
  derive.set_backup_id(state_.backup_id());
  derive.set_chunk_id(ToString(place.Id()));
  HSM_ASSIGN_OR_RETURN(const SecretBytes key, DeriveChunkKey(core_, derive));
  HSM_ASSIGN_OR_RETURN(const Bytes stored, SealChunk(chunk.content, place, key));
  const std::string& folder = row.job().backup().folder();
  HSM_RETURN_IF_ERROR(target_->Create(folder, place.ObjectName(), stored));

  rpc::ChunkEntry& entry = *part.mutable_entry();
  entry.set_place(place.place);
  entry.set_object(place.ObjectName());
  entry.set_sha256(ToString(Sha256(stored)));
  entry.set_bytes(stored.size());
  entry.set_keys(static_cast<uint32_t>(chunk.content.keys_size()));
  entry.set_versions(chunk.versions);
  *part.mutable_receipts() = chunk.receipts;
  part.mutable_receipts()->set_chunk_hash(entry.sha256());
  state_.set_chunks(place.place + 1);
  row.job().mutable_backup()->set_bytes(row.job().backup().bytes() + stored.size());
  row.stored.set_state(state_.SerializeAsString());
  return store_.SaveWithPart(row, place.place, part);
}

// Purged incarnations, so that a restore into another store knows them too. True when all are written.
absl::StatusOr<bool> BackupJob::ExportTombstones(JobRow& row) {
  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::StoredChunk> parts, store_.Parts(row.id, state_.chunks()));
  std::string after = !parts.empty() && parts.back().tombstones() ? parts.back().last() : "";
  for (;;) {
    HSM_ASSIGN_OR_RETURN(auto page, snapshot_->Tombstones(after, kTombstonesPerChunk));
    if (page.rows.empty()) return true;
    if (stopping_()) return false;
    rpc::ExportRequest
        request;  // without versions: nothing to re-wrap, but a partition vouches for the heads
    *request.mutable_fence() = core_.Fence();
    request.set_backup_id(state_.backup_id());
    for (const auto& tombstone : page.rows) *request.add_records()->mutable_head() = tombstone.value.head();
    HSM_ASSIGN_OR_RETURN(rpc::ExportResponse answer,
                         AnyReady<rpc::ExportResponse>(core_, [&](PartitionClient& client) {
                           return client.Export(request, kCallTimeout);
                         }));
    Chunk chunk;
    const std::vector<rpc::BackupKey> keys(answer.keys().begin(), answer.keys().end());
    chunk.receipts.add_receipts(answer.receipt());
    chunk.receipts.add_batch_hashes(ExportedHash(keys));
    *chunk.content.mutable_keys() = std::move(*answer.mutable_keys());
    after = page.rows.back().key;
    rpc::StoredChunk part;
    part.set_tombstones(true);
    part.set_last(after);
    HSM_RETURN_IF_ERROR(WriteChunk(row, chunk, std::move(part)));
    if (!page.more) return true;
  }
}

}  // namespace hsm
