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
constexpr absl::Duration kManifestTimeout = absl::Seconds(60);
constexpr size_t kLookAheadPerWorker = 2;
constexpr size_t kTombstonesPerChunk = 400;
constexpr int kSkippedListedMax = 500;
constexpr uint64_t kTrafficOperationsMin = 10;  // fewer in the baseline window: the probe says more
constexpr size_t kTypeSample = 100;

// Seconds of processor time that re-wrapping takes on a software token; docs/performance.md.
double SoftwareExportSeconds(const KeySpec& spec) {
  switch (spec.type) {
    case v1::KEY_TYPE_OCT_HSM:
      return 0.0002;
    case v1::KEY_TYPE_EC_HSM:
      return 0.0008;
    default:
      return 0.0011;
  }
}

bool OwnCapacity(const rpc::HeartbeatRequest& heartbeat) {
  const bool profile = !heartbeat.profile().empty() && heartbeat.profile() != "none";
  return profile || heartbeat.backend().find("SoftHSM") == std::string::npos;
}

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

v1::ThroughputMeasured MeasuredFigures(const rpc::BackupState& state) {
  v1::ThroughputMeasured measured;
  if (state.export_seconds() > 0) measured.set_seconds(state.export_seconds());
  const bool before = state.baseline_seconds() > 0;
  const bool during = state.during_seconds() > 0;
  if (before) {
    measured.set_baseline_ops(state.baseline_ops());
    measured.set_source(state.probe() ? "probe" : "traffic");
  }
  if (during && before) {
    measured.set_during_ops(state.during_operations() / state.during_seconds());
    const double window = std::min(state.baseline_seconds(), state.export_seconds());
    measured.set_window_seconds(window);
    measured.set_confidence(window < 0.5 ? "low" : "high");
    if (state.baseline_ops() > 0) measured.set_ratio(measured.during_ops() / state.baseline_ops());
  }
  return measured;
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

absl::Status BackupJob::Forecast(JobRow& row, const std::optional<OpsWindow>& baseline) {
  const std::vector<PartitionView> views = core_.cluster.Views();
  const size_t free = request_.allow_degraded() ? 1 : core_.cluster.quorum();
  HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot_->Keys(state_.data_set(), "", kTypeSample));
  v1::BackupResult& result = *row.job().mutable_backup();
  const std::optional<double> floor =
      request_.has_min_throughput() ? std::optional(request_.min_throughput()) : options_.min_throughput;
  ForecastInput input = MakeForecastInput(views, page, core_.table.versions(), free, options_);
  input.floor = floor;
  if (baseline && !state_.probe()) {
    input.operations_per_second = baseline->operations_per_second();
    input.in_flight = baseline->in_flight;
  }
  *result.mutable_forecast() = ForecastBackup(input);
  for (const PartitionView& view : views) {
    if (view.state != v1::PARTITION_STATE_READY) continue;
    result.set_profile(view.heartbeat.profile().empty() ? "none" : view.heartbeat.profile());
    result.set_backend(view.heartbeat.backend());
    break;
  }
  return absl::OkStatus();
}

ForecastInput MakeForecastInput(const std::vector<PartitionView>& partitions, const CatalogueKeys& sample,
                                uint64_t versions, size_t free, const JobOptions& options) {
  ForecastInput input;
  for (const PartitionView& view : partitions) {
    if (view.state != v1::PARTITION_STATE_READY) continue;
    ++input.ready;
    input.own_capacity = OwnCapacity(view.heartbeat);
    input.export_seconds = std::max(input.export_seconds, view.heartbeat.export_seconds());
  }
  input.busy = static_cast<uint32_t>(ChooseBusy(partitions, options.max_busy_partitions, free).size());
  input.versions = versions;
  input.exports_in_flight = options.exports_in_flight;
  input.processors = static_cast<uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  if (input.export_seconds > 0) return input;
  double sum = 0;
  size_t counted = 0;
  for (const CatalogueKey& key : sample.keys) {
    auto head = DecodeHead(key.records.head());
    if (!head.ok()) continue;
    sum += SoftwareExportSeconds(head->spec);
    ++counted;
  }
  if (counted != 0) input.export_seconds = sum / static_cast<double>(counted);
  return input;
}

absl::StatusOr<JobProgress> BackupJob::Pin(JobRow& row) {
  v1::Job& job = row.job();
  const size_t free = request_.allow_degraded() ? 1 : core_.cluster.quorum();
  if (ChooseBusy(core_.cluster.Views(), options_.max_busy_partitions, free).empty()) {
    return Wait(row, fmt::format("waits for partitions: {} are READY, a backup needs {} so that {} stay free",
                                 core_.cluster.ReadyCount(), free + 1, free));
  }
  std::optional<OpsWindow> baseline = throughput_.Baseline();
  if (!baseline) return JobProgress::kWaiting;  // this process has not sampled for a whole window yet
  std::optional<ProbeSubject> subject;
  if (baseline->operations < kTrafficOperationsMin) {
    HSM_ASSIGN_OR_RETURN(subject, ChooseProbeSubject(core_, *snapshot_));
    state_.set_probe(true);
  }
  // Fixed before anything of the backup touches a partition, and never edited.
  HSM_RETURN_IF_ERROR(Forecast(row, baseline));
  if (!state_.probe()) {
    state_.set_baseline_ops(baseline->operations_per_second());
    state_.set_baseline_seconds(absl::ToDoubleSeconds(baseline->length));
  } else if (subject) {
    ThroughputProbe probe(core_, *subject);
    MutexLock lock(mutex_);
    CondVar never;
    core_.clock.Await(mutex_, never, [] { return false; }, options_.window);
    state_.set_baseline_ops(probe.Read().calls_per_second());
    state_.set_baseline_seconds(absl::ToDoubleSeconds(options_.window));
  }
  state_.set_measured_before(true);
  *job.mutable_backup()->mutable_measured() = MeasuredFigures(state_);
  job.set_total(core_.table.versions());
  job.mutable_backup()->set_snapshot_revision(static_cast<uint64_t>(snapshot_->revision()));
  job.set_status(v1::JOB_STATUS_IN_PROGRESS);
  job.set_message("");
  job.set_step("export");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

// --- measuring ---------------------------------------------------------------------------------------------

void BackupJob::BeginMeasuring() {
  mark_ = throughput_.Now();
  probe_mark_ = probe_ == nullptr ? ThroughputProbe::Count{} : probe_->Read();
  MutexLock lock(mutex_);
  exporting_ = true;
}

void BackupJob::Measure(JobRow& row) {
  const OpsSample now = throughput_.Now();
  const double seconds = absl::ToDoubleSeconds(now.at - mark_.at);
  state_.set_export_seconds(state_.export_seconds() + seconds);
  if (probe_ != nullptr) {
    const ThroughputProbe::Count count = probe_->Read();
    state_.set_during_operations(state_.during_operations() +
                                 static_cast<double>(count.calls - probe_mark_.calls));
    state_.set_during_seconds(state_.during_seconds() +
                              absl::ToDoubleSeconds(count.running - probe_mark_.running));
    probe_mark_ = count;
  } else if (!state_.probe()) {
    uint64_t operations = 0;
    for (size_t i = 0; i < now.done.size(); ++i) operations += now.done[i] - mark_.done[i];
    state_.set_during_operations(state_.during_operations() + static_cast<double>(operations));
    state_.set_during_seconds(state_.during_seconds() + seconds);
  }
  mark_ = now;
  *row.job().mutable_backup()->mutable_measured() = MeasuredFigures(state_);
  MutexLock lock(mutex_);
  during_operations_ = state_.during_operations();
  during_seconds_ = state_.during_seconds();
}

// Of a worker, after each call: rests so that the floor holds.
absl::Duration BackupJob::Pause(absl::Duration took) {
  const std::optional<OpsWindow> live = throughput_.Live();
  MutexLock lock(mutex_);
  if (!floor_ || control_baseline_ <= 0 || !live) return absl::ZeroDuration();
  const double now = live->operations_per_second() / control_baseline_;
  const double overall = during_seconds_ > 0 ? during_operations_ / during_seconds_ / control_baseline_ : now;
  return floor_->Pause(now, overall, took);
}

void BackupJob::AddLive(v1::Job& job) const {
  {
    MutexLock lock(mutex_);
    if (!exporting_) return;
  }
  const std::optional<OpsWindow> live = throughput_.Live();
  v1::BackupResult& result = *job.mutable_backup();
  result.clear_live();
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    v1::PartitionThroughput& partition = *result.add_live();
    partition.set_name(core_.cluster.name(i));
    if (live) partition.set_ops_per_second(live->per_partition[i]);
    partition.set_busy(core_.cluster.View(i).busy == BusyWith::kBackup);
  }
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
                          reason == v1::REASON_TOKEN_FAILED || reason == v1::REASON_UNSUPPORTED;
    if (!of_a_key) return result.status();
    if (!careful_ || plan.last.empty()) {
      careful_ = true;  // next time one key a call, so that one bad key does not stop the others
      return Error(v1::REASON_NO_PARTITION,
                   fmt::format("a batch could not be exported: {}", std::string(result.status().message())));
    }
    if (state_.skipped_size() >= kSkippedListedMax) return result.status();
    state_.add_skipped(fmt::format("{}: {}", plan.last, std::string(result.status().message())));
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

// --- verify and manifest -----------------------------------------------------------------------------------

absl::StatusOr<JobProgress> BackupJob::Verify(JobRow& row) {
  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::StoredChunk> parts, store_.Parts(row.id, state_.chunks()));
  for (const rpc::StoredChunk& part : parts) {
    if (stopping_()) return JobProgress::kAdvanced;
    HSM_ASSIGN_OR_RETURN(const Bytes stored, target_->Read(row.job().backup().folder(), part.entry().object(),
                                                           kChunkStoredBytesMax));
    HSM_RETURN_IF_ERROR(CheckStoredChunk(stored, *BackupId::From(state_.backup_id()), part.entry()).status());
  }
  row.job().set_step("manifest");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

absl::StatusOr<rpc::ManifestFields> BackupJob::BuildManifest(JobRow& row, rpc::SignManifestRequest& request) {
  const HsmViewPtr view = core_.state.View();
  rpc::ManifestFields fields;
  fields.set_format(kBackupFormat);
  fields.set_backup_id(state_.backup_id());
  fields.set_hsm_id(view->id.Raw());
  fields.set_hsm_name(core_.config.hsm_name);
  fields.set_folder(row.job().backup().folder());
  fields.set_created(absl::ToUnixSeconds(core_.clock.Now()));
  fields.set_snapshot_revision(static_cast<uint64_t>(snapshot_->revision()));
  fields.set_data_set(state_.data_set());
  fields.set_epoch(view->epoch);
  fields.set_backup_kek_fingerprint(view->stored.bundle().backup_kek_fingerprint());
  fields.set_bundle_generation(view->stored.bundle().generation());
  *fields.mutable_skipped() = state_.skipped();
  std::vector<std::string> skipped;
  for (const std::string& line : state_.skipped()) skipped.push_back(line.substr(0, line.find(':')));

  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::StoredChunk> parts, store_.Parts(row.id, state_.chunks()));
  uint64_t exported = 0;
  for (const rpc::StoredChunk& part : parts) {
    *fields.add_chunks() = part.entry();
    exported += part.entry().versions();
    *request.add_chunks() = part.receipts();
  }
  MerkleTree tree;
  uint64_t versions = 0;
  for (std::string after;;) {
    HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot_->Keys(state_.data_set(), after, 200));
    for (const CatalogueKey& key : page.keys) {
      if (std::find(skipped.begin(), skipped.end(), key.name) != skipped.end()) continue;
      HSM_ASSIGN_OR_RETURN(const Bytes leaf, InventoryLeafOf(key.records));
      tree.Add(leaf);
      versions += static_cast<uint64_t>(key.records.versions_size());
      fields.add_names(key.name);
    }
    if (!page.more || page.keys.empty()) break;
    after = page.keys.back().name;
  }
  // The chunks must hold what the snapshot holds: a slip in the bookkeeping must not become a signed backup.
  if (exported != versions) {
    return Error(v1::REASON_INTERNAL,
                 fmt::format("{} versions were exported, the snapshot has {}", exported, versions));
  }
  const Sha256Hash root = tree.Root();
  fields.set_keys(static_cast<uint64_t>(fields.names_size()));
  fields.set_versions(versions);
  fields.set_merkle_root(root.data(), root.size());
  return fields;
}

absl::StatusOr<JobProgress> BackupJob::Manifest(JobRow& row) {
  rpc::SignManifestRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_fields(), BuildManifest(row, request));
  const rpc::ManifestFields& fields = request.fields();
  const std::string& folder = row.job().backup().folder();
  HSM_RETURN_IF_ERROR(CheckManifest(fields, folder));
  *request.mutable_fence() = core_.Fence();
  HSM_ASSIGN_OR_RETURN(rpc::SignManifestResponse signed_manifest,
                       AnyReady<rpc::SignManifestResponse>(core_, [&](PartitionClient& client) {
                         return client.SignManifest(request, kManifestTimeout);
                       }));
  rpc::ManifestFile file;
  file.set_manifest(signed_manifest.manifest());
  file.set_signature(signed_manifest.signature());
  file.set_spki(signed_manifest.spki());
  const Bytes stored = EncodeManifestFile(file);
  if (stored.size() > kManifestBytesMax)
    return Error(v1::REASON_LIMIT_EXCEEDED, "too many keys for one manifest");
  HSM_RETURN_IF_ERROR(target_->Create(folder, std::string(kManifestObject), stored));
  HSM_ASSIGN_OR_RETURN(const Bytes read_back,
                       target_->Read(folder, std::string(kManifestObject), kManifestBytesMax));
  if (read_back != stored)
    return Error(v1::REASON_TARGET_FAILED, "the target gave other bytes back than were written");

  v1::BackupResult& result = *row.job().mutable_backup();
  result.set_keys(fields.keys());
  result.set_versions(fields.versions());
  result.set_snapshot_revision(fields.snapshot_revision());
  *result.mutable_skipped() = state_.skipped();
  *result.mutable_measured() = MeasuredFigures(state_);
  row.job().set_done(fields.versions());
  row.job().set_total(fields.versions());
  return JobProgress::kDone;
}

}  // namespace hsm
