#pragma once
// Durable background work: full backup and full restore. A job is a row in the catalogue {id, kind, params,
// step, cursor, attempts, epoch, result}; one loop claims the row that runs, does one step, records it, and
// goes on. Every step may run twice (a coordinator that died after the effect and before the record), so
// every step is written to be repeated. At most one backup or restore per HSM runs at a time.
// docs/backup_file.md; DESIGN sections 11 and 12.
//
// Thread-safe. No lock is held across the store, a partition or the target.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/caller.h"
#include "hsm/v1/backup.pb.h"
#include "hsm/v1/job.pb.h"

namespace hsm {

class Coordinator;

// [backup] and [restore] of coordinator.toml.
struct JobOptions {
  uint32_t max_busy_partitions = 1;      // partitions working on a backup at any time
  std::optional<double> min_throughput;  // default floor, as a ratio of the baseline; absent = none
  uint32_t exports_in_flight = 2;  // calls per busy partition, so that it never waits for the coordinator
  absl::Duration gate =
      absl::Minutes(30);  // age of the target's own backup that a restore asks for; zero = no gate
  absl::Duration rollback_hold = absl::Hours(24);
  absl::Duration poll = absl::Milliseconds(200);  // how often the loop looks for work it was not told of
  absl::Duration window = absl::Seconds(1);       // throughput windows; shorter in simulation only
};

class Jobs {
 public:
  Jobs(Coordinator& coordinator, JobOptions options);
  ~Jobs();  // stops
  Jobs(const Jobs&) = delete;
  Jobs& operator=(const Jobs&) = delete;

  void Start();  // the loop; works only while this coordinator leads
  void
  Stop();  // returns when the step in progress has ended or was given up; the job resumes at the next Start

  // Each checks the caller's right itself (backup/start, backup/read, restore/start, ...): PERMISSION_DENIED.
  // CONFLICT while another backup or restore runs or waits. The same op id and request give the same job id.
  absl::StatusOr<v1::StartJobResponse> StartBackup(const Caller& caller,
                                                   const v1::StartBackupRequest& request);
  absl::StatusOr<v1::StartJobResponse> StartRestore(const Caller& caller,
                                                    const v1::StartRestoreRequest& request);
  // What a backup started now would take: moves no data and makes no load.
  absl::StatusOr<v1::BackupPlan> PlanBackup(const Caller& caller, const v1::PlanBackupRequest& request);
  // Folders of the target, newest first, complete or not with the reason. Reads manifests, not chunks.
  absl::StatusOr<v1::ListBackupsResponse> ListBackups(const Caller& caller,
                                                      const v1::ListBackupsRequest& request);
  // Reads every object back. A damaged backup is an answer (complete = false and why), not an error.
  absl::StatusOr<v1::BackupSummary> VerifyBackup(const Caller& caller,
                                                 const v1::VerifyBackupRequest& request);
  // Switches back to the data set that the last restore replaced. CONFLICT if changes were acknowledged since
  // and discard_changes is not set, or if the hold has run out.
  absl::StatusOr<v1::RestoreResult> RollbackRestore(const Caller& caller,
                                                    const v1::RollbackRestoreRequest& request);

  // Who started a job may always read it, also after a restore took its role away. NOT_FOUND otherwise.
  absl::StatusOr<v1::Job> GetJob(const Caller& caller, const v1::GetJobRequest& request);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const Caller& caller, const v1::ListJobsRequest& request);

  // Id of the job that runs or waits; empty if none. For HsmStatus.active_job.
  std::string ActiveJob() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm
