#include "coordinator/modes.h"

#include <algorithm>

#include "common/error.h"
#include "common/log.h"
#include "common/mutant.h"

namespace hsm {
namespace {

constexpr absl::Duration kServingTimeout = absl::Minutes(2);

}  // namespace

absl::Status Modes::HeldBy(const HsmView& view, const JobId& job) const {
  if (!view.stopped.empty()) return Error(view.stopped_reason, "changes are stopped: " + view.stopped);
  if (view.mode != rpc::HSM_MODE_RESTORING)
    return Error(v1::REASON_CONFLICT, "the HSM is not being restored");
  if (view.stored.restore_job() != job.Raw())
    return Error(v1::REASON_CONFLICT, "another restore holds the HSM");
  return absl::OkStatus();
}

absl::Status Modes::EnterRestore(const JobId& job, const AuditFields& audit) {
  HsmViewPtr view = core_.state.View();
  if (view->mode != rpc::HSM_MODE_RESTORING) {
    HSM_RETURN_IF_ERROR(core_.MayChange());
    rpc::StoredHsm next = view->stored;
    next.set_mode(rpc::HSM_MODE_RESTORING);
    next.set_restore_job(job.Raw());
    HSM_RETURN_IF_ERROR(CommitHsm(core_, *view, next, audit).status);
  } else {
    HSM_RETURN_IF_ERROR(HeldBy(*view, job));
  }
  // Also on a repeat: an earlier leader may have committed and not come to the barrier.
  rpc::ControlRequest stop;
  stop.set_stop_serving(true);
  if (HSM_MUTANT("restore-without-barrier")) return absl::OkStatus();
  return core_.revoker.Barrier(stop).status();
}

absl::StatusOr<DataSet> Modes::NewDataSet(const JobId& job) {
  HsmViewPtr view = core_.state.View();
  if (!view->stopped.empty()) return Error(view->stopped_reason, "changes are stopped: " + view->stopped);
  rpc::StoredHsm next = view->stored;
  next.set_highest_data_set(std::max(next.highest_data_set(), next.data_set()) + 1);
  AuditFields audit = AuditOfSystem("NewDataSet", job.ToHex());
  HSM_RETURN_IF_ERROR(CommitHsm(core_, *view, next, audit).status);
  return next.highest_data_set();
}

absl::Status Modes::SwitchDataSet(const JobId& job, DataSet to, const AuditFields& audit) {
  HsmViewPtr view = core_.state.View();
  if (view->mode != rpc::HSM_MODE_ACTIVE || view->data_set != to) {  // else: a repeat, the switch is made
    HSM_RETURN_IF_ERROR(HeldBy(*view, job));
    // Nothing reads the table while the HSM is being restored; it must be right before the mode says ACTIVE.
    HSM_RETURN_IF_ERROR(core_.table.Load(core_.catalogue, to));
    for (size_t i = 0; i < core_.cluster.size(); ++i) core_.cluster.WithholdLease(i, core_.clock.Uptime());
    rpc::StoredHsm next = view->stored;
    next.set_previous_data_set(view->data_set);
    next.set_data_set(to);
    next.set_highest_data_set(std::max<uint64_t>(next.highest_data_set(), to));
    next.set_mode(rpc::HSM_MODE_ACTIVE);
    next.clear_restore_job();
    next.set_switched(absl::ToUnixSeconds(core_.clock.Now()));
    next.set_commit_at_switch(core_.committer.commit_counter() + 1);
    if (absl::Status status = CommitHsm(core_, *view, next, audit).status; !status.ok()) {
      if (ReasonOf(status) != v1::REASON_OUTCOME_UNKNOWN) {
        HSM_RETURN_IF_ERROR(core_.table.Load(core_.catalogue, view->data_set));
      }
      return status;
    }
    LogInfo("data set switched", {{"from", view->data_set}, {"to", to}});
  }
  return AwaitServing();
}

absl::Status Modes::LeaveRestore(const JobId& job, const AuditFields& audit) {
  HsmViewPtr view = core_.state.View();
  if (view->mode == rpc::HSM_MODE_ACTIVE) return absl::OkStatus();
  HSM_RETURN_IF_ERROR(HeldBy(*view, job));
  if (core_.table.data_set() != view->data_set) {
    HSM_RETURN_IF_ERROR(core_.table.Load(core_.catalogue, view->data_set));
  }
  for (size_t i = 0; i < core_.cluster.size(); ++i) core_.cluster.WithholdLease(i, core_.clock.Uptime());
  rpc::StoredHsm next = view->stored;
  next.set_mode(rpc::HSM_MODE_ACTIVE);
  next.clear_restore_job();
  HSM_RETURN_IF_ERROR(CommitHsm(core_, *view, next, audit).status);
  kick_();
  return absl::OkStatus();
}

// Until W partitions are in step with the new data set and in rotation.
absl::Status Modes::AwaitServing() {
  kick_();
  Mutex mutex;
  CondVar never;
  for (Deadline deadline(core_.clock, kServingTimeout); !deadline.Passed();) {
    if (core_.cluster.ReadyCount() >= core_.cluster.quorum()) return absl::OkStatus();
    if (HsmViewPtr view = core_.state.View(); !view->stopped.empty()) {
      return Error(view->stopped_reason, "the switch is made; then changes stopped: " + view->stopped);
    }
    MutexLock lock(mutex);
    core_.clock.Await(mutex, never, [] { return false; }, absl::Milliseconds(20));
  }
  return Error(v1::REASON_OUTCOME_UNKNOWN, "the switch is made, but fewer than W partitions serve it yet");
}

}  // namespace hsm
