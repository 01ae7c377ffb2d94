// What a backup says about throughput: the forecast before, the figures during and after.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "common/error.h"
#include "common/status_macros.h"
#include "coordinator/backup.h"

namespace hsm {
namespace {

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

}  // namespace hsm
