#pragma once
// The inside of Jobs: the loop (jobs.cc) and the calls of people (job_requests.cc).
#include <memory>
#include <optional>
#include <string>

#include "common/mutex.h"
#include "common/thread.h"
#include "coordinator/backup.h"
#include "coordinator/coordinator.h"
#include "coordinator/job_store.h"
#include "coordinator/jobs.h"
#include "coordinator/restore.h"

namespace hsm {

inline bool IsRestore(const v1::Job& job) { return job.kind() == "restore" || job.kind() == "rollback"; }

class Jobs::Impl {
 public:
  Impl(Coordinator& coordinator, JobOptions options)
      : coordinator_(coordinator),
        core_(coordinator.core()),
        options_(std::move(options)),
        store_(core_),
        throughput_(core_.cluster, core_.clock, options_.window) {}
  ~Impl() { Stop(); }

  void Start();
  void Stop();

  absl::StatusOr<v1::StartJobResponse> StartBackup(const Caller& caller,
                                                   const v1::StartBackupRequest& request);
  absl::StatusOr<v1::StartJobResponse> StartRestore(const Caller& caller,
                                                    const v1::StartRestoreRequest& request);
  absl::StatusOr<v1::BackupPlan> PlanBackup(const Caller& caller, const v1::PlanBackupRequest& request);
  absl::StatusOr<v1::ListBackupsResponse> ListBackups(const Caller& caller,
                                                      const v1::ListBackupsRequest& request);
  absl::StatusOr<v1::BackupSummary> VerifyBackup(const Caller& caller,
                                                 const v1::VerifyBackupRequest& request);
  absl::StatusOr<v1::RestoreResult> RollbackRestore(const Caller& caller,
                                                    const v1::RollbackRestoreRequest& request);
  absl::StatusOr<v1::Job> GetJob(const Caller& caller, const v1::GetJobRequest& request);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const Caller& caller, const v1::ListJobsRequest& request);
  std::string ActiveJob() const;

 private:
  absl::Status Check(const Caller& caller, DataAction action, std::string_view operation);
  absl::StatusOr<JobId> Create(const Caller& caller, const std::string& op_id, std::string_view operation,
                               JobRow row);
  bool MayRead(const Caller& caller, const JobRow& row) const;
  absl::StatusOr<uint64_t> SwitchRevision(DataSet data_set);

  // --- the loop ---
  void Run();
  absl::Duration Step();  // how long to wait before the next
  absl::Duration WorkOn(JobRow& row);
  absl::StatusOr<JobProgress> Progress(JobRow& row);
  absl::Duration OnFailure(JobRow& row, const absl::Status& status);
  absl::Status GiveUp(JobRow& row, const absl::Status& status);
  void Forget();
  void EraseReplaced();
  bool Stopping() const {
    MutexLock lock(mutex_);
    return stopping_ || !coordinator_.Leads();
  }

  Coordinator& coordinator_;
  Core& core_;
  const JobOptions options_;
  JobStore store_;
  Throughput throughput_;

  // The loop's own.
  std::string working_on_;
  std::shared_ptr<BackupJob> backup_;
  std::shared_ptr<RestoreJob> restore_;
  int failures_ = 0;

  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  bool kicked_ HSM_GUARDED_BY(mutex_) = false;
  std::string active_ HSM_GUARDED_BY(mutex_);
  std::shared_ptr<BackupJob> live_ HSM_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace hsm
