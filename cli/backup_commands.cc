#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/documents.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr absl::Duration kPollMin = absl::Milliseconds(30);
constexpr absl::Duration kPollMax = absl::Milliseconds(400);

struct JobArguments {
  std::string target, folder, id, op_id;
  std::optional<double> min_throughput;
  bool allow_degraded = false, wait = false, discard = false;
  uint32_t max_results = 100;
};
using Arguments = std::shared_ptr<JobArguments>;

absl::StatusOr<v1::BackupTarget> TargetOf(const JobArguments& a) {
  if (!a.target.starts_with('/')) {
    return Error(v1::REASON_INVALID_ARGUMENT, "--target takes an absolute path on the coordinator's host");
  }
  v1::BackupTarget target;
  target.set_directory(a.target);
  return target;
}

absl::StatusOr<v1::Job> FetchJob(Client& client, const std::string& id) {
  v1::GetJobRequest request;
  request.set_id(id);
  return client.GetJob(request);
}

std::string ProgressText(const v1::Job& job) {
  std::string text = job.step();
  if (job.status() == v1::JOB_STATUS_PAUSED) text = "paused: " + job.message();
  double total = 0;
  for (const auto& partition : job.backup().live()) total += partition.ops_per_second();
  if (job.backup().live_size() > 0) text += fmt::format(", others' calls {:.0f} ops/s", total);
  return text;
}

bool Running(const v1::Job& job) {
  return job.status() == v1::JOB_STATUS_IN_PROGRESS || job.status() == v1::JOB_STATUS_PAUSED;
}

absl::StatusOr<v1::Job> WaitForJob(Client& client, const std::string& id) {
  Progress progress(fmt::format("job {}", id.substr(0, 8)));
  for (absl::Duration pause = kPollMin;; pause = std::min(pause * 1.5, kPollMax)) {
    HSM_ASSIGN_OR_RETURN(v1::Job job, FetchJob(client, id));
    if (!Running(job)) return job;
    progress.Update(job.done(), job.total(), ProgressText(job));
    Pause(pause);
  }
}

// Prints the job; a job that failed is a failed command.
absl::Status PrintEnded(const v1::Job& job) {
  if (job.status() == v1::JOB_STATUS_FAILED || job.status() == v1::JOB_STATUS_CANCELLED) {
    if (job.has_error() && job.error().reason() != v1::REASON_UNSPECIFIED) return Error(job.error());
    return Error(v1::REASON_CANCELLED,
                 fmt::format("{} job {} was ended: {}", job.kind(), job.id(), job.message()));
  }
  Print(JobJson(job), JobTable(job));
  return absl::OkStatus();
}

absl::Status FinishStart(Client& client, const std::string& id, bool wait) {
  if (!wait) {
    Print(Json::Object({{"job_id", id}, {"status", "in_progress"}}),
          fmt::format("job {} has started; qhsm job wait --id {} waits for it", id, id));
    return absl::OkStatus();
  }
  HSM_ASSIGN_OR_RETURN(v1::Job job, WaitForJob(client, id));
  return PrintEnded(job);
}

absl::Status PlanBackup(const JobArguments& a) {
  v1::PlanBackupRequest request;
  if (a.min_throughput) request.set_min_throughput(*a.min_throughput);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::BackupPlan plan, client->PlanBackup(request));
  Print(PlanJson(plan), PlanTable(plan));
  return absl::OkStatus();
}

absl::Status StartBackup(const JobArguments& a) {
  v1::StartBackupRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_target(), TargetOf(a));
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  if (a.min_throughput) request.set_min_throughput(*a.min_throughput);
  request.set_allow_degraded(a.allow_degraded);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::StartJobResponse started, client->StartBackup(request));
  return FinishStart(*client, started.job_id(), a.wait);
}

absl::Status StartRestore(const JobArguments& a) {
  v1::StartRestoreRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_target(), TargetOf(a));
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  request.set_folder(a.folder);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::StartJobResponse started, client->StartRestore(request));
  return FinishStart(*client, started.job_id(), a.wait);
}

absl::Status RollBack(const JobArguments& a) {
  v1::RollbackRestoreRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  request.set_discard_changes(a.discard);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::RestoreResult result, client->RollbackRestore(request));
  Print(Json::Object({{"status", "rolled_back"}, {"data_set", result.data_set()}}),
        fmt::format("data set {} serves again", result.data_set()));
  return absl::OkStatus();
}

absl::Status ShowJob(const JobArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::Job job, FetchJob(*client, a.id));
  Print(JobJson(job), JobTable(job));
  return absl::OkStatus();
}

absl::Status AwaitJob(const JobArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::Job job, WaitForJob(*client, a.id));
  return PrintEnded(job);
}

absl::Status ListJobs(const JobArguments& a) {
  v1::ListJobsRequest request;
  request.set_page_size(a.max_results);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::ListJobsResponse page, client->ListJobs(request));
  Json jobs = Json::Array();
  std::vector<std::vector<std::string>> rows = {
      {"JOB", "KIND", "STATUS", "STEP", "DONE", "STARTED", "ENDED"}};
  for (const v1::Job& job : page.jobs()) {
    jobs.Add(JobJson(job));
    rows.push_back({job.id(), job.kind(), JobStatusText(job.status()), job.step(),
                    fmt::format("{}/{}", job.done(), job.total()), TimeText(job.started()),
                    TimeText(job.ended())});
  }
  Print(Json::Object({{"jobs", jobs}}), Columns(rows));
  return absl::OkStatus();
}

absl::Status ListBackups(const JobArguments& a) {
  v1::ListBackupsRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_target(), TargetOf(a));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::ListBackupsResponse list, client->ListBackups(request));
  Json backups = Json::Array();
  std::vector<std::vector<std::string>> rows = {
      {"FOLDER", "COMPLETE", "KEYS", "VERSIONS", "CREATED", "MESSAGE"}};
  for (const v1::BackupSummary& backup : list.backups()) {
    backups.Add(BackupSummaryJson(backup));
    auto count = [&](uint64_t n) { return backup.complete() ? fmt::format("{}", n) : std::string("-"); };
    rows.push_back({backup.folder(), backup.complete() ? "yes" : "NO", count(backup.keys()),
                    count(backup.versions()), TimeText(backup.created()), backup.message()});
  }
  Print(Json::Object({{"backups", backups}}), Columns(rows));
  return absl::OkStatus();
}

absl::Status VerifyBackup(const JobArguments& a) {
  v1::VerifyBackupRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_target(), TargetOf(a));
  request.set_folder(a.folder);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::BackupSummary backup, client->VerifyBackup(request));
  if (!backup.complete()) {
    return Error(v1::REASON_BACKUP_INVALID, fmt::format("{}: {}", a.folder, backup.message()));
  }
  Print(BackupSummaryJson(backup),
        fmt::format("{} is complete and intact: {} keys, {} versions, {} bytes", backup.folder(),
                    backup.keys(), backup.versions(), backup.bytes()));
  return absl::OkStatus();
}

void TargetOption(Command& verb, const Arguments& a) {
  verb.Text("--target", a->target, "directory, absolute, on the coordinator's host").Required();
}
void IdOption(Command& verb, const Arguments& a) {
  verb.Text("--id,--job-id,ID", a->id, "the job_id: 32 hex digits").Required();
}
void OpIdOption(Command& verb, const Arguments& a) {
  verb.Text("--op-id", a->op_id,
            "the same id again starts nothing new; 32 hex digits, of which the first 12 are the time in ms");
}

}  // namespace

void AddBackupCommands(Command& root) {
  auto a = std::make_shared<JobArguments>();
  auto verb = [a](Command& noun, const std::string& name, const std::string& about,
                  absl::Status (*action)(const JobArguments&)) {
    Command made = noun.Sub(name, about);
    made.Does([a, action] { return action(*a); });
    return made;
  };

  Command backup = root.Sub("backup", "Back up all keys, and learn what that costs");
  Command plan = verb(backup, "plan", "What a backup would cost now: throughput, duration, busy partitions",
                      &PlanBackup);
  plan.Number("--min-throughput", a->min_throughput, "floor to hold, 0..1 of the present throughput");
  Command start = verb(backup, "start", "Start a backup; the HSM goes on working", &StartBackup);
  TargetOption(start, a);
  start.Number("--min-throughput", a->min_throughput,
               "hold at least this ratio of the present throughput, 0..1");
  start.Flag("--allow-degraded", a->allow_degraded, "go on while only one partition stays free");
  start.Flag("--wait", a->wait, "return when it has ended, with the throughput report");
  OpIdOption(start, a);
  start.Example("qhsm backup plan");
  start.Example("qhsm backup start --target /srv/backups --wait");
  start.Example("qhsm backup start --target /srv/backups --min-throughput 0.8 --wait -o json");
  Command show = verb(backup, "show", "A backup job: progress, live throughput, result", &ShowJob);
  IdOption(show, a);
  Command list = verb(backup, "list", "The backups in a target", &ListBackups);
  TargetOption(list, a);
  Command verify = verb(backup, "verify", "Read a backup back: signature, all hashes, counts", &VerifyBackup);
  TargetOption(verify, a);
  verify.Text("--folder", a->folder, "bare name, as backup list shows it").Required();

  Command restore = root.Sub("restore", "Put the HSM back to a backup");
  Command begin =
      verb(restore, "start", "Replace all keys by those of a backup (needs a backup of the last 30 minutes)",
           &StartRestore);
  TargetOption(begin, a);
  begin.Text("--folder", a->folder, "bare name, as backup list shows it").Required();
  begin.Flag("--wait", a->wait, "return when the partitions serve the restored keys");
  OpIdOption(begin, a);
  begin.Example("qhsm restore start --target /srv/backups --folder mhsm-demo-2026112507201200 --wait");
  Command state = verb(restore, "show", "A restore job: progress, result", &ShowJob);
  IdOption(state, a);
  Command back = verb(restore, "rollback", "Undo the last restore while its old data set is kept", &RollBack);
  back.Flag("--discard-changes", a->discard, "also if keys were changed since");
  OpIdOption(back, a);

  Command job = root.Sub("job", "Backup and restore jobs");
  Command jobs = verb(job, "list", "List jobs, newest first", &ListJobs);
  jobs.Number("--max-results", a->max_results, "at most that many");
  Command one = verb(job, "show", "Show one job", &ShowJob);
  IdOption(one, a);
  Command wait = verb(job, "wait", "Wait until a job has ended", &AwaitJob);
  IdOption(wait, a);
}

}  // namespace hsm::cli
