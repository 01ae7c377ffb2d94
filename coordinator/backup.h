#pragma once
// The steps of a full backup; DESIGN section 11. Each call of Work does one step of the row and records it:
//   pin       a snapshot, the baseline, the forecast: fixed before anything is exported
//   export    chunk by chunk, re-wrapped by few partitions, sealed into the target
//   verify    every object is read back
//   manifest  signed by a partition, written last
// Every step may run twice. A process that takes the job over has no snapshot: it takes a new one, keeps the
// chunks in whose ranges nothing has changed, and goes on from there; the manifest names the newer revision,
// and the backup equals the catalogue at it. Not thread-safe: one loop works on a job.
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "coordinator/backup_file.h"
#include "coordinator/backup_forecast.h"
#include "coordinator/backup_source.h"
#include "coordinator/backup_target.h"
#include "coordinator/core.h"
#include "coordinator/export_pool.h"
#include "coordinator/job_store.h"
#include "coordinator/jobs.h"
#include "coordinator/throughput.h"
#include "coordinator/throughput_probe.h"

namespace hsm {

enum class JobProgress { kAdvanced, kWaiting, kDone };

// Which partitions a backup may keep busy now: at most `busy_max`, and so many that `free` READY ones stay;
// the least loaded first. Empty: it has to wait. Pure.
std::vector<size_t> ChooseBusy(const std::vector<PartitionView>& partitions, size_t busy_max, size_t free);

class BackupJob {
 public:
  BackupJob(Core& core, const JobOptions& options, JobStore& store, Throughput& throughput,
            std::function<bool()> stopping);
  ~BackupJob();

  // kWaiting: not enough partitions; the row says why. kDone: the backup is complete, the row not yet ended.
  absl::StatusOr<JobProgress> Work(JobRow& row);
  // Figures of this moment, newer than the row's.
  void AddLive(v1::Job& job) const;

 private:
  struct Chunk;  // the one being put together

  absl::Status Open(JobRow& row);
  absl::StatusOr<bool> AlreadyComplete(JobRow& row);
  absl::StatusOr<JobProgress> Pin(JobRow& row);
  absl::Status Forecast(JobRow& row, const std::optional<OpsWindow>& baseline);
  absl::StatusOr<JobProgress> Export(JobRow& row);
  absl::Status ExportKeys(JobRow& row, ExportPool& pool);
  absl::StatusOr<bool> ExportTombstones(JobRow& row);
  absl::Status Merge(JobRow& row, Chunk& chunk, const PlannedBatch& plan,
                     absl::StatusOr<ExportedBatch> result);
  absl::Status WriteChunk(JobRow& row, Chunk& chunk, rpc::StoredChunk part);
  absl::StatusOr<JobProgress> Verify(JobRow& row);
  absl::StatusOr<JobProgress> Manifest(JobRow& row);
  absl::StatusOr<rpc::ManifestFields> BuildManifest(JobRow& row, rpc::SignManifestRequest& request);
  absl::StatusOr<JobProgress> Wait(JobRow& row, const std::string& why);

  void BeginMeasuring();
  void Measure(JobRow& row);  // adds what was served since the last time
  absl::Duration Pause(absl::Duration took);
  absl::Status SaveState(JobRow& row);

  Core& core_;
  const JobOptions& options_;
  JobStore& store_;
  Throughput& throughput_;
  const std::function<bool()> stopping_;

  v1::StartBackupRequest request_;
  rpc::BackupState state_;
  std::unique_ptr<BackupStorage> target_;
  std::unique_ptr<CatalogueSnapshot> snapshot_;
  std::unique_ptr<BackupSource> source_;
  std::unique_ptr<ThroughputProbe> probe_;
  bool careful_ = false;  // one key a call, to find the one that fails
  bool verified_ = false;
  std::vector<size_t> busy_;

  OpsSample mark_;  // where the last Measure ended
  ThroughputProbe::Count probe_mark_;

  mutable Mutex mutex_;  // what Pause and AddLive share with the loop
  double during_operations_ HSM_GUARDED_BY(mutex_) = 0;
  double during_seconds_ HSM_GUARDED_BY(mutex_) = 0;
  double control_baseline_ HSM_GUARDED_BY(mutex_) = 0;
  std::optional<FloorKeeper> floor_ HSM_GUARDED_BY(mutex_);
  bool exporting_ HSM_GUARDED_BY(mutex_) = false;
};

// What is known before the first export. `sample`: some keys, for their types.
ForecastInput MakeForecastInput(const std::vector<PartitionView>& partitions, const CatalogueKeys& sample,
                                uint64_t versions, size_t free, const JobOptions& options);

// `measured` from what the state has summed up; absent figures stay absent.
v1::ThroughputMeasured MeasuredFigures(const rpc::BackupState& state);

}  // namespace hsm
