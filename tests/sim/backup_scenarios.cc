// Backup and restore while processes die (I8, I13): a restore is all or nothing, and what it brings back is
// exactly what was there when the backup was taken.
#include <fmt/format.h>

#include <filesystem>

#include "common/check.h"
#include "common/error.h"
#include "store/catalogue.h"
#include "tests/sim/ledger.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/scenarios.h"
#include "tests/sim/sim_cluster.h"
#include "tests/sim/workload.h"

namespace hsm::testing {
namespace {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    char name[] = "/tmp/qhsm-sim-XXXXXX";
    HSM_CHECK(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Every key with its versions and its policy, as text that can be compared; without what a restore must
// change.
std::map<std::string, std::string> Inventory(SimCluster& cluster, const std::vector<std::string>& names) {
  std::map<std::string, std::string> out;
  const KeyTable& table = cluster.leader()->core().table;
  for (const std::string& name : names) {
    KeyEntryPtr entry = table.Find(name);
    if (entry == nullptr) continue;
    std::string& text = out[name];
    text = fmt::format("enabled {} operations {} created {}", entry->head.enabled, entry->head.operations,
                       entry->head.created);
    for (const auto& [tag, value] : entry->head.tags) text += fmt::format(" {}={}", tag, value);
    for (const EntryVersion& version : entry->versions) text += " " + version.id.ToHex() + Hex(version.spki);
  }
  return out;
}

std::string Text(const std::map<std::string, std::string>& inventory) {
  std::string out;
  for (const auto& [name, text] : inventory) out += "  " + name + ": " + text.substr(0, 120) + "\n";
  return out;
}

// Follows a job to its end over crashes of whoever works on it.
std::optional<v1::Job> AwaitJob(SimCluster& cluster, const std::string& id, absl::Duration within) {
  absl::Duration end = cluster.scheduler().Now() + within;
  v1::GetJobRequest request;
  request.set_id(id);
  std::string last;
  while (cluster.scheduler().Now() < end) {
    absl::StatusOr<v1::Job> job = cluster.GetJob(request);
    last = job.ok() ? job->ShortDebugString() : job.status().ToString();
    if (job.ok() && (job->status() == v1::JOB_STATUS_SUCCEEDED || job->status() == v1::JOB_STATUS_FAILED))
      return *job;
    cluster.scheduler().Sleep(absl::Milliseconds(200));
  }
  cluster.scheduler().Fail("a job does not end: " + last);
  return std::nullopt;
}

template <typename Request>
std::string Insist(SimCluster& cluster, Request request,
                   absl::StatusOr<v1::StartJobResponse> (SimCluster::*start)(const Request&),
                   const char* what) {
  request.set_op_id(cluster.random().NewOpId(cluster.clock()).Raw());
  absl::Status last;
  for (int attempt = 0; attempt < 40; ++attempt) {
    absl::StatusOr<v1::StartJobResponse> started = (cluster.*start)(request);
    if (started.ok()) return started->job_id();
    last = started.status();
    cluster.scheduler().Sleep(absl::Milliseconds(700));
  }
  cluster.scheduler().Fail(fmt::format("{} does not start: {}", what, last.ToString()));
  return "";
}

// While `job` runs, kills this or that now and then; the job must end by itself.
std::optional<v1::Job> RunUnderCrashes(SimCluster& cluster, const std::string& id) {
  auto stop = std::make_shared<bool>(false);
  auto stopped = std::make_shared<bool>(false);
  StartNemesis(cluster,
               {.kill_node = 2,
                .power_loss = 1,
                .wipe_node = 0,
                .kill_coordinator = 5,
                .netsplit = 1,
                .bad_network = 1,
                .store_faults = 1,
                .pause_node = 0,
                .token_faults = 1,
                .pause_max = absl::Milliseconds(1'500)},
               stop, stopped);
  absl::Duration faults = absl::Milliseconds(static_cast<int64_t>(cluster.scheduler().Draw(8'000)));
  cluster.scheduler().Sleep(faults);
  *stop = true;
  while (!*stopped) cluster.scheduler().Sleep(absl::Milliseconds(50));
  HealAll(cluster);
  return AwaitJob(cluster, id, absl::Minutes(5));
}

// The job has recorded that restore mode is entered and acknowledged everywhere.
bool LoadHasBegun(SimCluster& cluster) {
  absl::StatusOr<StorePage> page = cluster.store().Scan(store_key::JobPrefix(), "", 100);
  if (!page.ok()) return false;
  for (const StoreRecord& record : page->records) {
    rpc::StoredJob job;
    if (job.ParseFromString(record.value) && (job.job().step() == "load" || job.job().step() == "compare"))
      return true;
  }
  return false;
}

// No partition uses a key while the HSM is being restored (I8).
void WatchRestoreMode(SimCluster& cluster, const v1::CryptoOp& op, std::shared_ptr<bool> over) {
  cluster.scheduler().Spawn(kWorld, "watch", [&cluster, op, over] {
    while (!*over) {
      Coordinator* leader = cluster.leader();
      if (leader != nullptr && leader->core().state.View()->mode == rpc::HSM_MODE_RESTORING) {
        absl::StatusOr<v1::CryptoResult> answer = cluster.Crypto(SignOp("b1", std::string(32, 'w')));
        bool still =
            leader == cluster.leader() && leader->core().state.View()->mode == rpc::HSM_MODE_RESTORING;
        if (answer.ok() && still && !*over) cluster.scheduler().Fail("I8: a key was used in restore mode");
        if (still && LoadHasBegun(cluster)) {
          for (size_t i = 0; i < cluster.size(); ++i) {
            bool served = cluster.CryptoAt(i, op).reason() == v1::REASON_UNSPECIFIED;
            still =
                leader == cluster.leader() && leader->core().state.View()->mode == rpc::HSM_MODE_RESTORING;
            if (served && still && !*over) cluster.scheduler().Fail("I8: a partition serves in restore mode");
          }
        }
      }
      cluster.scheduler().Sleep(absl::Milliseconds(30));
    }
  });
}

}  // namespace

void BackupsAndRestores(SimScheduler& scheduler) {
  TemporaryDirectory target;
  SimCluster cluster(scheduler, 3, /*jobs=*/true);
  Ledger ledger;
  if (!cluster.Start()) return;
  SimCaller caller(cluster, ledger);
  const std::vector<std::string> names = {"b1", "b2", "b3", "late"};
  for (const char* name : {"b1", "b2", "b3"}) caller.Create(name);
  caller.Rotate("b2");
  caller.SetEnabled("b3", false);
  std::map<std::string, std::string> before = Inventory(cluster, names);

  v1::StartBackupRequest backup;
  backup.mutable_target()->set_directory(target.path());
  std::string id = Insist(cluster, backup, &SimCluster::StartBackup, "a backup");
  std::optional<v1::Job> done = RunUnderCrashes(cluster, id);
  if (!done.has_value()) return;
  if (done->status() != v1::JOB_STATUS_SUCCEEDED)
    return scheduler.Fail("a backup failed: " + done->ShortDebugString());
  if (done->backup().keys() != before.size()) {
    return scheduler.Fail(
        fmt::format("I13: {} keys in the backup of {}", done->backup().keys(), before.size()));
  }

  // Everything that a restore must undo.
  if (!cluster.AwaitConvergence(absl::Seconds(60)))
    return scheduler.Fail("I21: not whole:\n" + cluster.Describe());
  caller.Create("late");
  caller.Destroy("b1");
  caller.SetEnabled("b3", true);
  caller.Rotate("b2");
  std::map<std::string, std::string> changed = Inventory(cluster, names);
  if (changed == before) return scheduler.Fail("the changes before the restore did not happen");

  auto over = std::make_shared<bool>(false);
  KeyEntryPtr watched = cluster.leader()->core().table.Find("b2");
  v1::CryptoOp op = SignOp("b2", std::string(32, 'w'));
  op.set_version(watched->versions.front().id.Raw());
  op.mutable_route()->set_uid(watched->head.uid.Raw());
  op.mutable_route()->set_incarnation(watched->head.incarnation);
  op.mutable_route()->set_revision(1);
  WatchRestoreMode(cluster, op, over);
  v1::StartRestoreRequest restore;
  *restore.mutable_target() = backup.target();
  restore.set_folder(done->backup().folder());
  std::string restore_id = Insist(cluster, restore, &SimCluster::StartRestore, "a restore");
  done = RunUnderCrashes(cluster, restore_id);
  *over = true;
  if (!done.has_value()) return;
  if (!cluster.AwaitConvergence(absl::Seconds(90))) {
    return scheduler.Fail("I21: not whole after a restore:\n" + cluster.Describe());
  }
  std::map<std::string, std::string> after = Inventory(cluster, names);
  const std::map<std::string, std::string>& wanted =
      done->status() == v1::JOB_STATUS_SUCCEEDED ? before : changed;
  if (after != wanted) {
    return scheduler.Fail(fmt::format("I8, I13: after a restore that ended {}:\n{}instead of\n{}",
                                      v1::JobStatus_Name(done->status()), Text(after), Text(wanted)));
  }
  // The destroyed key came back as another incarnation, or not at all; the old one is dead for ever (I3).
  CheckNothingDeadIsServed(cluster, ledger);
  for (const auto& [name, text] : wanted) CheckSignsEverywhere(cluster, name);
  cluster.Stop();
}

}  // namespace hsm::testing
