// What people ask of jobs: start, plan, list, verify, roll back, look.
#include <fmt/format.h>

#include <algorithm>

#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "coordinator/backup_reader.h"
#include "coordinator/jobs_impl.h"

namespace hsm {
namespace {

constexpr absl::Duration kRollbackWait = absl::Minutes(10);

template <typename Request>
absl::Status CheckFloor(const Request& request) {
  if (!request.has_min_throughput()) return absl::OkStatus();
  if (request.min_throughput() >= 0 && request.min_throughput() < 1) return absl::OkStatus();
  return Error(v1::REASON_INVALID_ARGUMENT,
               "min_throughput is a ratio of the baseline: 0 or more, less than 1");
}

}  // namespace

absl::Status Jobs::Impl::Check(const Caller& caller, DataAction action, std::string_view operation) {
  absl::Status allowed = core_.roles.View()->authz.Check(caller.principal, action);
  if (!allowed.ok()) {
    AuditFields audit = AuditOf(caller, operation, "");
    audit.outcome = std::string(ReasonName(ReasonOf(allowed)));
    core_.committer.Denied(std::move(audit));
  }
  return allowed;
}

absl::StatusOr<JobId> Jobs::Impl::Create(const Caller& caller, const std::string& op_id,
                                         std::string_view operation, JobRow row) {
  absl::StatusOr<JobId> id = store_.Create(caller, op_id, operation, row);
  // The same op id at the same moment: the other one's row is there now.
  if (ReasonOf(id.status()) == v1::REASON_CONFLICT && !op_id.empty()) {
    id = store_.Create(caller, op_id, operation, std::move(row));
  }
  if (!id.ok()) return id;
  MutexLock lock(mutex_);
  if (active_.empty()) active_ = id->ToHex();
  kicked_ = true;
  changed_.NotifyAll();
  return id;
}

absl::StatusOr<v1::StartJobResponse> Jobs::Impl::StartBackup(const Caller& caller,
                                                             const v1::StartBackupRequest& request) {
  const absl::Time received = core_.clock.Now();
  HSM_RETURN_IF_ERROR(Check(caller, DataAction::kBackupStart, "StartBackup"));
  HSM_RETURN_IF_ERROR(core_.MayChange());
  HSM_RETURN_IF_ERROR(OpenBackupTarget(request.target()).status());
  HSM_RETURN_IF_ERROR(CheckFloor(request));
  v1::StartBackupRequest asked = request;
  asked.clear_op_id();
  rpc::BackupState state;
  state.set_backup_id(core_.random.NewId<BackupId>().Raw());
  state.set_received_ms(absl::ToUnixMillis(received));
  state.set_data_set(core_.state.View()->data_set);
  JobRow row;
  row.job().set_kind("backup");
  row.job().set_step("pin");
  row.job().mutable_backup()->set_folder(BackupFolderName(core_.config.hsm_name, received));
  row.stored.set_request(asked.SerializeAsString());
  row.stored.set_state(state.SerializeAsString());
  HSM_ASSIGN_OR_RETURN(const JobId id, Create(caller, request.op_id(), "StartBackup", std::move(row)));
  v1::StartJobResponse response;
  response.set_job_id(id.ToHex());
  return response;
}

absl::StatusOr<v1::StartJobResponse> Jobs::Impl::StartRestore(const Caller& caller,
                                                              const v1::StartRestoreRequest& request) {
  HSM_RETURN_IF_ERROR(Check(caller, DataAction::kRestoreStart, "StartRestore"));
  HSM_RETURN_IF_ERROR(core_.MayChange());
  HSM_RETURN_IF_ERROR(OpenBackupTarget(request.target()).status());
  HSM_RETURN_IF_ERROR(CheckFolderName(request.folder()));
  v1::StartRestoreRequest asked = request;
  asked.clear_op_id();
  JobRow row;
  row.job().set_kind("restore");
  row.job().set_step("check");
  row.job().mutable_restore()->set_folder(request.folder());
  row.stored.set_request(asked.SerializeAsString());
  row.stored.set_state(rpc::RestoreState().SerializeAsString());
  HSM_ASSIGN_OR_RETURN(const JobId id, Create(caller, request.op_id(), "StartRestore", std::move(row)));
  v1::StartJobResponse response;
  response.set_job_id(id.ToHex());
  return response;
}

absl::StatusOr<v1::BackupPlan> Jobs::Impl::PlanBackup(const Caller& caller,
                                                      const v1::PlanBackupRequest& request) {
  HSM_RETURN_IF_ERROR(Check(caller, DataAction::kBackupStatus, "PlanBackup"));
  HSM_RETURN_IF_ERROR(core_.MayRead());
  HSM_RETURN_IF_ERROR(CheckFloor(request));
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<CatalogueSnapshot> snapshot, core_.catalogue.Snapshot());
  HSM_ASSIGN_OR_RETURN(const CatalogueKeys sample, snapshot->Keys(core_.state.View()->data_set, "", 100));
  const std::vector<PartitionView> views = core_.cluster.Views();
  ForecastInput input =
      MakeForecastInput(views, sample, core_.table.versions(), core_.cluster.quorum(), options_);
  input.floor =
      request.has_min_throughput() ? std::optional(request.min_throughput()) : options_.min_throughput;
  const std::optional<OpsWindow> load = throughput_.Baseline();
  if (load && load->operations > 0) {
    input.operations_per_second = load->operations_per_second();
    input.in_flight = load->in_flight;
  }
  v1::BackupPlan plan;
  plan.set_keys(core_.table.keys());
  plan.set_versions(core_.table.versions());
  *plan.mutable_forecast() = ForecastBackup(input);
  const std::vector<size_t> busy = ChooseBusy(views, options_.max_busy_partitions, core_.cluster.quorum());
  for (size_t i = 0; i < views.size(); ++i) {
    v1::PartitionThroughput& partition = *plan.add_partitions();
    partition.set_name(views[i].name);
    if (load) partition.set_ops_per_second(load->per_partition[i]);
    partition.set_busy(std::find(busy.begin(), busy.end(), i) != busy.end());
    if (views[i].state != v1::PARTITION_STATE_READY) continue;
    plan.set_profile(views[i].heartbeat.profile().empty() ? "none" : views[i].heartbeat.profile());
    plan.set_backend(views[i].heartbeat.backend());
  }
  return plan;
}

absl::StatusOr<v1::ListBackupsResponse> Jobs::Impl::ListBackups(const Caller& caller,
                                                                const v1::ListBackupsRequest& request) {
  HSM_RETURN_IF_ERROR(Check(caller, DataAction::kBackupStatus, "ListBackups"));
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<BackupStorage> target, OpenBackupTarget(request.target()));
  HSM_ASSIGN_OR_RETURN(std::vector<std::string> folders, target->ListFolders());
  std::sort(folders.rbegin(), folders.rend());
  v1::ListBackupsResponse response;
  for (const std::string& folder : folders) {
    const auto reader = BackupReader::Open(core_, *target, folder);
    if (ReasonOf(reader.status()) == v1::REASON_NO_PARTITION)
      return reader.status();  // nobody to check signatures
    *response.add_backups() = SummaryOf(folder, reader);
  }
  return response;
}

absl::StatusOr<v1::BackupSummary> Jobs::Impl::VerifyBackup(const Caller& caller,
                                                           const v1::VerifyBackupRequest& request) {
  HSM_RETURN_IF_ERROR(Check(caller, DataAction::kBackupStatus, "VerifyBackup"));
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<BackupStorage> target, OpenBackupTarget(request.target()));
  absl::StatusOr<std::unique_ptr<BackupReader>> reader = BackupReader::Open(core_, *target, request.folder());
  if (!reader.ok() && ReasonOf(reader.status()) != v1::REASON_BACKUP_INVALID) return reader.status();
  v1::BackupSummary summary = SummaryOf(request.folder(), reader);
  if (!reader.ok()) return summary;
  const absl::Status verified = (*reader)->VerifyAll([this] { return Stopping(); });
  if (verified.ok()) return summary;
  if (ReasonOf(verified) != v1::REASON_BACKUP_INVALID) return verified;
  summary.set_complete(false);
  summary.set_message(DetailOf(verified).message());
  return summary;
}

// The store revision at which the serving data set was switched in by a restore.
absl::StatusOr<uint64_t> Jobs::Impl::SwitchRevision(DataSet data_set) {
  std::string after;
  for (bool more = true; more;) {
    HSM_ASSIGN_OR_RETURN(const std::vector<JobRow> rows, store_.List(after, limits::kStorePageMax, &more));
    for (const JobRow& row : rows) {
      after = row.job().id();
      rpc::RestoreState state;
      if (IsRestore(row.job()) && row.job().status() == v1::JOB_STATUS_SUCCEEDED &&
          state.ParseFromString(row.stored.state()) && state.data_set() == data_set) {
        return state.switch_revision();
      }
    }
    if (rows.empty()) break;
  }
  return Error(v1::REASON_CONFLICT,
               "the serving data set did not come from a restore: there is nothing to roll back");
}

absl::StatusOr<v1::RestoreResult> Jobs::Impl::RollbackRestore(const Caller& caller,
                                                              const v1::RollbackRestoreRequest& request) {
  HSM_RETURN_IF_ERROR(Check(caller, DataAction::kRestoreStart, "RollbackRestore"));
  HSM_RETURN_IF_ERROR(core_.MayChange());
  const HsmViewPtr view = core_.state.View();
  if (view->stored.previous_data_set() == 0) {
    return Error(v1::REASON_CONFLICT,
                 "there is no replaced data set: no restore was made, or its hold is over");
  }
  rpc::RestoreState state;
  state.set_rollback(true);
  state.set_from(view->stored.previous_data_set());
  state.set_discard_changes(request.discard_changes());
  HSM_ASSIGN_OR_RETURN(const uint64_t undone, SwitchRevision(view->data_set));
  state.set_undone_revision(undone);
  v1::RollbackRestoreRequest asked = request;
  asked.clear_op_id();
  JobRow row;
  row.job().set_kind("rollback");
  row.job().set_step("check");
  row.job().mutable_restore();
  row.stored.set_request(asked.SerializeAsString());
  row.stored.set_state(state.SerializeAsString());
  HSM_ASSIGN_OR_RETURN(const JobId id, Create(caller, request.op_id(), "RollbackRestore", std::move(row)));
  const Deadline deadline(core_.clock, std::min(caller.timeout, kRollbackWait));
  for (;;) {
    HSM_ASSIGN_OR_RETURN(const std::optional<JobRow> now, store_.Read(id));
    if (now && now->Ended()) {
      if (now->job().status() == v1::JOB_STATUS_SUCCEEDED) return now->job().restore();
      return Error(now->job().error());
    }
    if (deadline.Passed() || Stopping()) {
      return Error(v1::REASON_OUTCOME_UNKNOWN, fmt::format("the roll-back goes on as job {}", id.ToHex()));
    }
    MutexLock lock(mutex_);
    core_.clock.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stopping_; }, options_.poll);
  }
}

bool Jobs::Impl::MayRead(const Caller& caller, const JobRow& row) const {
  if (row.stored.principal() == caller.principal.Raw()) return true;
  return core_.roles.View()->authz.Allowed(
      caller.principal, IsRestore(row.job()) ? DataAction::kRestoreStatus : DataAction::kBackupStatus);
}

absl::StatusOr<v1::Job> Jobs::Impl::GetJob(const Caller& caller, const v1::GetJobRequest& request) {
  const absl::Status none = Error(v1::REASON_NOT_FOUND, "there is no job of this id that you may see");
  const std::optional<JobId> id = JobId::FromHexText(request.id());
  if (!id) return none;
  HSM_ASSIGN_OR_RETURN(std::optional<JobRow> row, store_.Read(*id));
  if (!row || !MayRead(caller, *row)) return none;
  std::shared_ptr<BackupJob> live;
  {
    MutexLock lock(mutex_);
    if (active_ == row->id.ToHex()) live = live_;
  }
  if (live != nullptr && !row->Ended()) live->AddLive(row->job());
  return row->job();
}

absl::StatusOr<v1::ListJobsResponse> Jobs::Impl::ListJobs(const Caller& caller,
                                                          const v1::ListJobsRequest& request) {
  const uint32_t size = request.page_size() == 0 ? limits::kPageSizeDefault : request.page_size();
  if (size > limits::kPageSizeMax) return Error(v1::REASON_INVALID_ARGUMENT, "page_size is 1 to 500");
  HSM_ASSIGN_OR_RETURN(const std::vector<JobRow> rows, store_.NewestFirst());
  auto next = rows.begin();  // after the last one of the page before
  if (!request.page_token().empty()) {
    next = std::find_if(rows.begin(), rows.end(),
                        [&](const JobRow& row) { return row.job().id() == request.page_token(); });
    if (next == rows.end()) return Error(v1::REASON_INVALID_ARGUMENT, "page_token is not one of this list");
    ++next;
  }
  v1::ListJobsResponse response;
  for (; next != rows.end() && response.jobs_size() < static_cast<int>(size); ++next) {
    if (MayRead(caller, *next)) *response.add_jobs() = next->job();
  }
  if (next != rows.end() && response.jobs_size() > 0) {
    response.set_next_page_token(response.jobs().rbegin()->id());
  }
  return response;
}

std::string Jobs::Impl::ActiveJob() const {
  MutexLock lock(mutex_);
  return active_;
}

}  // namespace hsm
