#include "coordinator/jobs.h"

#include "common/error.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/job_calls.h"
#include "coordinator/jobs_impl.h"

namespace hsm {
namespace {

constexpr int kFailuresMax = 60;  // in a row, of one step
constexpr absl::Duration kRetryPause = absl::Seconds(1);
constexpr absl::Duration kIdlePause = absl::Seconds(5);

}  // namespace

void Jobs::Impl::Start() {
  {
    MutexLock lock(mutex_);
    stopping_ = false;
  }
  throughput_.Start();
  thread_ = Thread("jobs", [this] { Run(); });
}

void Jobs::Impl::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.Joinable()) thread_.Join();
  throughput_.Stop();
}

void Jobs::Impl::Run() {
  for (;;) {
    const absl::Duration pause = Stopping() ? kIdlePause : Step();
    MutexLock lock(mutex_);
    core_.clock.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stopping_ || kicked_; }, pause);
    kicked_ = false;
    if (stopping_) break;
  }
  Forget();
}

void Jobs::Impl::Forget() {
  working_on_.clear();
  failures_ = 0;
  std::shared_ptr<BackupJob> live;
  {
    MutexLock lock(mutex_);
    live.swap(live_);
  }
  live.reset();
  backup_.reset();
  restore_.reset();
}

absl::Duration Jobs::Impl::Step() {
  absl::StatusOr<std::optional<JobRow>> row = store_.Active();
  if (!row.ok()) return kRetryPause;
  {
    MutexLock lock(mutex_);
    active_ = *row ? (*row)->id.ToHex() : "";
  }
  if (!*row) {
    Forget();
    EraseReplaced();
    return kIdlePause;
  }
  return WorkOn(**row);
}

absl::Duration Jobs::Impl::WorkOn(JobRow& row) {
  if (working_on_ != row.id.ToHex()) {
    Forget();
    working_on_ = row.id.ToHex();
    row.stored.set_attempts(row.stored.attempts() + 1);
    if (row.stored.attempts() > 1)
      LogInfo("taking a job over", {{"job", working_on_}, {"step", row.job().step()}});
  }
  const absl::StatusOr<JobProgress> progress = Progress(row);
  if (Stopping()) return options_.poll;
  if (!progress.ok()) return OnFailure(row, progress.status());
  failures_ = 0;
  if (*progress == JobProgress::kAdvanced) return absl::ZeroDuration();
  if (*progress == JobProgress::kWaiting) return options_.poll;
  const absl::Status finished = store_.Finish(row, absl::OkStatus());
  if (!finished.ok()) return OnFailure(row, finished);
  Forget();
  return absl::ZeroDuration();
}

absl::StatusOr<JobProgress> Jobs::Impl::Progress(JobRow& row) {
  auto stopping = [this] { return Stopping(); };
  if (row.job().step() == "abort") {
    HSM_RETURN_IF_ERROR(GiveUp(row, Error(row.job().error())));
    return JobProgress::kAdvanced;
  }
  if (IsRestore(row.job())) {
    if (restore_ == nullptr)
      restore_ = std::make_shared<RestoreJob>(coordinator_, options_, store_, stopping);
    return restore_->Work(row);
  }
  if (backup_ == nullptr) {
    backup_ = std::make_shared<BackupJob>(core_, options_, store_, throughput_, stopping);
    MutexLock lock(mutex_);
    live_ = backup_;
  }
  return backup_->Work(row);
}

absl::Duration Jobs::Impl::OnFailure(JobRow& row, const absl::Status& status) {
  const v1::Reason reason = ReasonOf(status);
  if (reason == v1::REASON_FENCED || reason == v1::REASON_CANCELLED) {
    // Not the leader any more, or the row or data set moved on: look at it afresh.
    Forget();
    return kRetryPause;
  }
  const bool passing = IsPassing(reason) || reason == v1::REASON_STORE_FAILED;
  // A restore's checks are answered, not waited for; what has begun is tried for a minute.
  const bool at_check = IsRestore(row.job()) && row.job().step() == "check";
  if (passing && !at_check && ++failures_ < kFailuresMax) {
    row.job().set_status(v1::JOB_STATUS_PAUSED);
    row.job().set_message(DetailOf(status).message());
    (void)store_.Save(row);  // only what people see; the row's state is as the last step left it
    return kRetryPause;
  }
  LogWarning("a job failed", {{"job", working_on_}, {"step", row.job().step()}, {"why", status}});
  *row.job().mutable_error() = DetailOf(status);
  row.job().set_step("abort");
  if (!store_.Save(row).ok()) return kRetryPause;
  return absl::ZeroDuration();
}

// Ends a job as failed, after its half-done work is undone.
absl::Status Jobs::Impl::GiveUp(JobRow& row, const absl::Status& status) {
  if (IsRestore(row.job())) {
    RestoreJob job(coordinator_, options_, store_, [] { return false; });
    HSM_RETURN_IF_ERROR(job.Abort(row));
  }
  HSM_RETURN_IF_ERROR(store_.Finish(row, status));
  Forget();
  return absl::OkStatus();
}

// The data set that the last restore replaced, once its hold is over.
void Jobs::Impl::EraseReplaced() {
  const HsmViewPtr view = core_.state.View();
  const DataSet replaced = view->stored.previous_data_set();
  if (replaced == 0 || view->mode != rpc::HSM_MODE_ACTIVE || !view->stopped.empty()) return;
  if (core_.clock.Now() < absl::FromUnixSeconds(view->stored.switched()) + options_.rollback_hold) return;
  rpc::StoredHsm next = view->stored;
  next.set_previous_data_set(0);
  // First no longer reachable, then erased: a crash in between leaves rows, never a way back to half a data
  // set.
  if (!CommitHsm(core_, *view, next, AuditOfSystem("EraseReplacedDataSet", std::to_string(replaced)))
           .status.ok())
    return;
  const absl::Status erased = store_.Erase(store_key::DataSetPrefix(replaced));
  if (!erased.ok()) LogWarning("a replaced data set was not erased whole", {{"why", erased}});
}

// --- the face ----------------------------------------------------------------------------------------------

Jobs::Jobs(Coordinator& coordinator, JobOptions options)
    : impl_(std::make_unique<Impl>(coordinator, std::move(options))) {}
Jobs::~Jobs() = default;
void Jobs::Start() { impl_->Start(); }
void Jobs::Stop() { impl_->Stop(); }
absl::StatusOr<v1::StartJobResponse> Jobs::StartBackup(const Caller& caller,
                                                       const v1::StartBackupRequest& request) {
  return impl_->StartBackup(caller, request);
}
absl::StatusOr<v1::StartJobResponse> Jobs::StartRestore(const Caller& caller,
                                                        const v1::StartRestoreRequest& request) {
  return impl_->StartRestore(caller, request);
}
absl::StatusOr<v1::BackupPlan> Jobs::PlanBackup(const Caller& caller, const v1::PlanBackupRequest& request) {
  return impl_->PlanBackup(caller, request);
}
absl::StatusOr<v1::ListBackupsResponse> Jobs::ListBackups(const Caller& caller,
                                                          const v1::ListBackupsRequest& request) {
  return impl_->ListBackups(caller, request);
}
absl::StatusOr<v1::BackupSummary> Jobs::VerifyBackup(const Caller& caller,
                                                     const v1::VerifyBackupRequest& request) {
  return impl_->VerifyBackup(caller, request);
}
absl::StatusOr<v1::RestoreResult> Jobs::RollbackRestore(const Caller& caller,
                                                        const v1::RollbackRestoreRequest& request) {
  return impl_->RollbackRestore(caller, request);
}
absl::StatusOr<v1::Job> Jobs::GetJob(const Caller& caller, const v1::GetJobRequest& request) {
  return impl_->GetJob(caller, request);
}
absl::StatusOr<v1::ListJobsResponse> Jobs::ListJobs(const Caller& caller,
                                                    const v1::ListJobsRequest& request) {
  return impl_->ListJobs(caller, request);
}
std::string Jobs::ActiveJob() const { return impl_->ActiveJob(); }

}  // namespace hsm
