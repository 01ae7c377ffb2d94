#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/dev_cluster.h"
#include "cli/dev_control.h"
#include "cli/dev_supervisor.h"
#include "cli/documents.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/file.h"
#include "common/record.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr absl::Duration kUpTimeout =
    absl::Milliseconds(14'000);  // up answers within 15 s, one way or the other
constexpr absl::Duration kPoll = absl::Milliseconds(40);
constexpr absl::Duration kDownTimeout = absl::Seconds(20);
constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr uint32_t kRestartsMax = 4;  // while coming up: then it will not
constexpr size_t kLogTailBytes = 3000;

struct DevArguments {
  std::string data, profile = "none", healing = "automatic", module, process, signal = "KILL";
  std::optional<std::string> clock;  // of an existing cluster: what it was made with
  std::optional<std::string> name;   // of an existing cluster: what it was made with
  std::optional<uint32_t> partitions, retention_days;
  uint32_t coordinators = 1, port_base = 0;
  bool detach = false, wait = false, no_wait = false, purge_protection = false;
};
using Arguments = std::shared_ptr<DevArguments>;

absl::StatusOr<DevCluster> FindCluster(const DevArguments& a) {
  HSM_ASSIGN_OR_RETURN(std::string data, DevDirectory(a.data));
  return LoadDevCluster(data);
}

ClientOptions AdminOptions(const DevCluster& cluster, absl::Duration timeout) {
  return {.endpoints = {cluster.coordinator.Address()},
          .ca = cluster.Path("ca/tls.crt"),
          .certificate = cluster.Path("admin/tls.crt"),
          .key = cluster.Path("admin/tls.key"),
          .hsm = cluster.name,
          .clock_file = cluster.ClockFile(),
          .timeout = timeout,
          .crypto_timeout = timeout};
}

bool AllReady(const v1::HsmStatus& status, const DevCluster& cluster) {
  size_t ready = 0;
  for (const auto& partition : status.partitions()) ready += partition.state() == v1::PARTITION_STATE_READY;
  return status.state() == "active" && ready == cluster.partitions.size();
}

std::string WhyNotReady(const absl::StatusOr<v1::HsmStatus>& status) {
  if (!status.ok()) return fmt::format("the coordinator does not answer: {}", MessageOf(status.status()));
  std::string out = fmt::format("the HSM is {}", status->state());
  for (const auto& p : status->partitions()) {
    if (p.state() == v1::PARTITION_STATE_READY) continue;
    out += fmt::format(", {} is {}{}{}", p.name(), PartitionStateText(p.state()),
                       p.message().empty() ? "" : ": ", p.message());
  }
  for (const std::string& warning : status->warnings()) {
    if (warning.starts_with("short-of-space")) out += ", " + warning;
  }
  return out;
}

void PrintLogTail(const DevCluster& cluster, const DevProcess& process) {
  auto text = ReadTextFile(cluster.LogFile(process), size_t{64} << 20);
  if (!text.ok() || text->empty()) return;
  size_t start = text->size() > kLogTailBytes ? text->find('\n', text->size() - kLogTailBytes) + 1 : 0;
  fmt::print(stderr, "--- end of {}\n{}", cluster.LogFile(process), text->substr(start));
}

// The last thing of level error that the process has logged, e.g. that its port is taken; empty if none.
std::string LastError(const DevCluster& cluster, const std::string& process) {
  for (const DevProcess& candidate : cluster.Processes()) {
    if (candidate.name != process) continue;
    auto text = ReadTextFile(cluster.LogFile(candidate), size_t{64} << 20);
    const size_t line = text.ok() ? text->rfind(" error [") : std::string::npos;
    if (line == std::string::npos) return "";
    const size_t start = text->find("] ", line);
    return start == std::string::npos ? "" : text->substr(start + 2, text->find('\n', start) - start - 2);
  }
  return "";
}

// The reason why processes keep dying, if they do.
std::optional<std::string> Hopeless(const DevCluster& cluster) {
  auto processes = ListProcesses(cluster.data);
  if (!processes.ok()) return std::string("the supervisor ended");
  for (const DevProcessState& process : *processes) {
    if (process.restarts >= kRestartsMax && process.last_end != "exit 75") {
      const std::string error = LastError(cluster, process.name);
      return fmt::format("{} does not stay up ({}{}{})", process.name, process.last_end,
                         error.empty() ? "" : ": ", error);
    }
  }
  return std::nullopt;
}

absl::Status AwaitReady(const DevCluster& cluster, Deadline deadline) {
  HSM_ASSIGN_OR_RETURN(auto client, Client::Connect(AdminOptions(cluster, absl::Milliseconds(500))));
  Progress progress("starting");
  for (;;) {
    absl::StatusOr<v1::HsmStatus> status = client->GetStatus();
    if (status.ok() && AllReady(*status, cluster)) return absl::OkStatus();
    std::string why = WhyNotReady(status);
    if (auto reason = Hopeless(cluster)) return Error(v1::REASON_NOT_ACTIVE, *reason + "; " + why);
    if (deadline.Passed()) return Error(v1::REASON_NOT_ACTIVE, "not ready in time: " + why);
    progress.Update(0, 0, status.ok() ? why : "the coordinator starts");
    Pause(kPoll);
  }
}

// A cluster stays what it was made as: another wish is refused, not ignored.
absl::StatusOr<DevCluster> FindOrMake(const DevArguments& a, const std::string& data) {
  if (!DevClusterExists(data)) {
    const std::string name = a.name.value_or("demo");
    if (!CheckKeyName(name).ok()) {
      return Error(v1::REASON_INVALID_ARGUMENT, "--name takes 1 to 127 of 0-9 A-Z a-z and -");
    }
    if (a.healing != "automatic") {
      return Error(
          v1::REASON_INVALID_ARGUMENT,
          "a new cluster is made with --healing automatic; choose another one the next time it starts");
    }
    HSM_ASSIGN_OR_RETURN(DevCluster made, MakeDevCluster(data, {.name = name,
                                                                .partitions = a.partitions.value_or(3),
                                                                .profile = a.profile,
                                                                .module = a.module}));
    made.virtual_clock = a.clock == "virtual";
    made.retention_days = a.retention_days.value_or(90);
    made.purge_protection = a.purge_protection;
    return made;
  }
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, LoadDevCluster(data));
  auto other = [&](const std::string& what, const std::string& made) {
    return Error(v1::REASON_INVALID_ARGUMENT,
                 fmt::format("the cluster in {} was made with {} {}; use another directory for another one",
                             data, what, made));
  };
  if (a.name && *a.name != cluster.name) return other("--name", cluster.name);
  if (a.partitions && *a.partitions != cluster.partitions.size())
    return other("--partitions", std::to_string(cluster.partitions.size()));
  if (!a.module.empty() && a.module != cluster.module) return other("--module", cluster.module);
  if (a.retention_days && *a.retention_days != cluster.retention_days)
    return other("--retention-days", std::to_string(cluster.retention_days));
  const std::string clock = cluster.virtual_clock ? "virtual" : "system";
  if (a.clock && *a.clock != clock) return other("--clock", clock);
  return cluster;
}

absl::StatusOr<DevCluster> PrepareCluster(const DevArguments& a, const std::string& data) {
  if (a.coordinators != 1) return Error(v1::REASON_UNSUPPORTED, "one coordinator is what there is for now");
  if (a.profile != "none" && !FileExists(ProfileFile(a.profile))) {
    return Error(v1::REASON_NOT_FOUND,
                 fmt::format("no profile \"{}\" ({})", a.profile, ProfileFile(a.profile)));
  }
  for (const char* program : {"qhsm-node", "qhsm-coordinator"}) {
    if (FileExists(ProgramDirectory() + "/" + program)) continue;
    return Error(v1::REASON_NOT_FOUND,
                 fmt::format("{} is not beside qhsm in {}", program, ProgramDirectory()));
  }
  if (SupervisorAnswers(data))
    return Error(v1::REASON_LOCKED, fmt::format("a cluster already runs in {}", data));
  absl::StatusOr<DevCluster> cluster = FindOrMake(a, data);
  HSM_RETURN_IF_ERROR(cluster.status());
  cluster->profile = a.profile;
  cluster->healing = a.healing;
  HSM_RETURN_IF_ERROR(ChoosePorts(*cluster, a.port_base));
  HSM_RETURN_IF_ERROR(WriteDevConfigs(*cluster));
  return cluster;
}

// The last line of what `up` says is the reason, wherever a caller looks for it.
absl::Status ReportUpFailure(const absl::Status& failure) {
  struct stat out{}, error{};
  bool same = fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &error) == 0 &&
              out.st_dev == error.st_dev && out.st_ino == error.st_ino;
  if (!JsonOutput() && !same) {
    fmt::print("error: {}: {}\n", ReasonName(ReasonOf(failure)), MessageOf(failure));
    std::fflush(stdout);
  }
  return failure;
}

Json ProcessesJson(const DevCluster& cluster, const std::vector<DevProcessState>& states) {
  Json out = Json::Array();
  for (const DevProcess& process : cluster.Processes()) {
    const DevProcessState* state = nullptr;
    for (const DevProcessState& candidate : states) {
      if (candidate.name == process.name) state = &candidate;
    }
    bool node = process.name != cluster.coordinator.name;
    out.Add(Json::Object(
        {{"name", process.name},
         {"program", process.program},
         {"state", state == nullptr ? Json("down") : Json(state->state)},
         {"pid", state == nullptr || state->pid == 0 ? Json() : Json(state->pid)},
         {"restarts", state == nullptr ? Json() : Json(state->restarts)},
         {"last_end", state == nullptr || state->last_end.empty() ? Json() : Json(state->last_end)},
         {"address", process.Address()},
         {"log", cluster.LogFile(process)},
         {"token_directory", node ? Json(cluster.Folder(process) + "/tokens") : Json()}}));
  }
  return out;
}

std::string ProcessesTable(const DevCluster& cluster, const std::vector<DevProcessState>& states) {
  std::vector<std::vector<std::string>> rows = {{"PROCESS", "STATE", "PID", "RESTARTS", "LAST END", "LOG"}};
  for (const DevProcess& process : cluster.Processes()) {
    for (const DevProcessState& s : states) {
      if (s.name != process.name) continue;
      rows.push_back({s.name, s.state, s.pid == 0 ? "-" : fmt::format("{}", s.pid),
                      fmt::format("{}", s.restarts), s.last_end.empty() ? "-" : s.last_end,
                      cluster.LogFile(process)});
    }
  }
  return Columns(rows);
}

// HsmStatus (all null when the coordinator does not answer) and the processes.
absl::Status PrintDevStatus(const DevCluster& cluster) {
  std::vector<DevProcessState> states;
  auto listed = ListProcesses(cluster.data);
  if (listed.ok()) states = *listed;
  std::string table = fmt::format("{} in {}: {}\n", cluster.name, cluster.data, listed.ok() ? "up" : "down");
  Json document = Json::Object();
  absl::StatusOr<v1::HsmStatus> status = Error(v1::REASON_UNREACHABLE, "down");
  if (listed.ok()) {
    HSM_ASSIGN_OR_RETURN(auto client, Client::Connect(AdminOptions(cluster, absl::Milliseconds(800))));
    status = client->GetStatus();
  }
  if (status.ok()) {
    document = StatusJson(*status);
    table += StatusTable(*status);
  } else {
    document = Json::Object({{"name", cluster.name},
                             {"state", listed.ok() ? Json("unreachable") : Json("down")},
                             {"partitions", Json()},
                             {"quorum", Json()}});
  }
  document.Add("data", cluster.data);
  document.Add("profile", cluster.profile);
  document.Add("endpoint", cluster.coordinator.Address());
  document.Add("processes", ProcessesJson(cluster, states));
  Print(document, table + ProcessesTable(cluster, states));
  return absl::OkStatus();
}

absl::Status StayInForeground(const DevCluster& cluster) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  fmt::print(stderr, "running; Ctrl-C ends it\n");
  int signal = 0;
  sigwait(&signals, &signal);
  return StopSupervisor(cluster.data, kDownTimeout);
}

absl::Status Up(const DevArguments& a) {
  Deadline deadline(RealClock(), ChosenTimeout().value_or(kUpTimeout));
  HSM_ASSIGN_OR_RETURN(std::string data, DevDirectory(a.data));
  absl::StatusOr<DevCluster> cluster = PrepareCluster(a, data);
  if (!cluster.ok()) return ReportUpFailure(cluster.status());
  if (absl::Status started = StartSupervisor(*cluster); !started.ok()) return ReportUpFailure(started);
  if (!a.detach) {  // blocked in every thread made from here on, and taken by sigwait
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
  }
  if (a.detach && a.no_wait) return PrintDevStatus(*cluster);
  if (absl::Status ready = AwaitReady(*cluster, deadline); !ready.ok()) {
    absl::Status stopped = StopSupervisor(cluster->data, kDownTimeout);
    for (const DevProcess& process : cluster->Processes()) PrintLogTail(*cluster, process);
    if (!stopped.ok()) fmt::print(stderr, "and it could not be stopped: {}\n", MessageOf(stopped));
    return ReportUpFailure(ready);
  }
  HSM_RETURN_IF_ERROR(PrintDevStatus(*cluster));
  return a.detach ? absl::OkStatus() : StayInForeground(*cluster);
}

absl::Status Down(const DevArguments& a) {
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, FindCluster(a));
  HSM_RETURN_IF_ERROR(StopSupervisor(cluster.data, kDownTimeout));
  Print(Json::Object({{"name", cluster.name}, {"data", cluster.data}, {"state", "down"}}), "down");
  return absl::OkStatus();
}

absl::Status Status(const DevArguments& a) {
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, FindCluster(a));
  return PrintDevStatus(cluster);
}

std::string ShellQuoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

absl::Status Env(const DevArguments& a) {
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, FindCluster(a));
  ClientOptions options = AdminOptions(cluster, absl::Seconds(1));
  std::vector<std::pair<std::string, std::string>> variables = {{"QHSM_ENDPOINT", options.endpoints[0]},
                                                                {"QHSM_CA", options.ca},
                                                                {"QHSM_CERTIFICATE", options.certificate},
                                                                {"QHSM_KEY", options.key},
                                                                {"QHSM_HSM", options.hsm},
                                                                {"QHSM_DEV_DATA", cluster.data}};
  if (cluster.virtual_clock) variables.emplace_back("QHSM_CLOCK_FILE", cluster.ClockFile());
  Json document = Json::Object();
  std::string lines;
  for (const auto& [name, value] : variables) {
    document.Add(name, value);
    lines += fmt::format("export {}={}\n", name, ShellQuoted(value));
  }
  Print(document, lines);
  return absl::OkStatus();
}

absl::Status PrintProcess(const DevCluster& cluster, const std::string& name) {
  HSM_ASSIGN_OR_RETURN(std::vector<DevProcessState> states, ListProcesses(cluster.data));
  for (const DevProcessState& state : states) {
    if (state.name != name) continue;
    Print(Json::Object(
              {{"name", name}, {"state", state.state}, {"pid", state.pid == 0 ? Json() : Json(state.pid)}}),
          fmt::format("{} is {}", name, state.state));
  }
  return absl::OkStatus();
}

absl::Status Kill(const DevArguments& a) {
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, FindCluster(a));
  HSM_RETURN_IF_ERROR(AskSupervisor(cluster.data, fmt::format("kill {} {}", a.process, a.signal)).status());
  return PrintProcess(cluster, a.process);
}

absl::Status AwaitPartition(const DevCluster& cluster, const std::string& name) {
  HSM_ASSIGN_OR_RETURN(auto client, Client::Connect(AdminOptions(cluster, absl::Seconds(1))));
  Deadline deadline(RealClock(), ChosenTimeout().value_or(kStartTimeout));
  std::string seen = "unknown";
  while (!deadline.Passed()) {
    absl::StatusOr<v1::HsmStatus> status = client->GetStatus();
    if (status.ok() && name == cluster.coordinator.name) return absl::OkStatus();
    for (const auto& p : status.ok() ? status->partitions() : decltype(status->partitions()){}) {
      if (p.name() != name) continue;
      if (p.state() == v1::PARTITION_STATE_READY) return absl::OkStatus();
      seen = PartitionStateText(p.state()) + " " + p.message();
    }
    Pause(kPoll);
  }
  return Error(v1::REASON_DEADLINE_EXCEEDED, fmt::format("{} did not become READY: {}", name, seen));
}

absl::Status Start(const DevArguments& a) {
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, FindCluster(a));
  HSM_RETURN_IF_ERROR(AskSupervisor(cluster.data, fmt::format("start {}", a.process)).status());
  if (a.wait) HSM_RETURN_IF_ERROR(AwaitPartition(cluster, a.process));
  return PrintProcess(cluster, a.process);
}

absl::Status RunSupervisor(const DevArguments& a) {
  HSM_ASSIGN_OR_RETURN(std::string data, DevDirectory(a.data));
  return Supervise(data);
}

}  // namespace

void AddDevCommands(Command& root) {
  auto a = std::make_shared<DevArguments>();
  Command dev = root.Sub("dev", "A whole cluster on this machine, for trying and testing");
  auto verb = [&](const std::string& name, const std::string& about,
                  absl::Status (*action)(const DevArguments&)) {
    Command made = dev.Sub(name, about);
    made.Text("--data", a->data, "directory the cluster lives in; $QHSM_DEV_DATA if left out");
    made.Does([a, action] { return action(*a); });
    return made;
  };

  Command up = verb("up", "Start a cluster; the first time, make it", &Up);
  up.Text("--name", a->name, "name of the HSM; demo if left out");
  up.Number("--partitions", a->partitions, "how many; 3 if left out");
  up.Number("--coordinators", a->coordinators, "1");
  up.Text("--profile", a->profile,
          "give each partition the speed of an appliance: none, azure-managed-hsm, ...");
  up.Text("--healing", a->healing,
          "what a wiped partition gets its domain keys by: itself, or `qhsm partition approve`")
      .OneOf({"automatic", "approved"});
  up.Number("--retention-days", a->retention_days,
            "how long a deleted key can be recovered: 7 to 90; 90 if left out");
  up.Flag("--enable-purge-protection", a->purge_protection, "nobody purges a deleted key before that");
  up.Text("--clock", a->clock, "virtual: time passes when `qhsm dev clock` says so; system if left out")
      .OneOf({"system", "virtual"});
  up.Text("--module", a->module, "PKCS#11 library of the partitions; SoftHSM if left out");
  up.Number("--port-base", a->port_base, "coordinator here, partitions after it; free ports if left out");
  up.Flag("--detach", a->detach, "return when all partitions are READY; otherwise it runs until Ctrl-C");
  up.Flag("--no-wait", a->no_wait, "with --detach: return when the processes run, whatever they come to");
  up.Example("qhsm dev up --name demo --data ~/demo --partitions 3 --detach");
  up.Example("eval \"$(qhsm dev env --data ~/demo)\" && qhsm status");
  up.Example(
      "qhsm dev up --name busy --data ~/busy --detach --timeout 60    # on a machine that has other things "
      "to do");
  up.Example("qhsm dev up --name slow --data ~/slow --profile azure-managed-hsm --detach");
  verb("down", "End all its processes; keys and settings stay", &Down);
  verb("status", "The HSM's status, and its processes", &Status);
  verb("env", "Print the export lines that point qhsm at it", &Env)
      .Example("eval \"$(qhsm dev env --data ~/demo)\"");
  Command kill = verb("kill", "Kill or stop a process, and leave it so", &Kill);
  kill.Text("process", a->process, "p1, p2 ... or coordinator").Required();
  kill.Text("--signal", a->signal, "KILL ends it, STOP makes it hang").OneOf({"KILL", "STOP"});
  kill.Example("qhsm dev kill p2 --data ~/demo && qhsm dev start p2 --data ~/demo");
  Command start = verb("start", "Start or continue what was killed or stopped", &Start);
  start.Text("process", a->process, "p1, p2 ... or coordinator").Required();
  start.Flag("--wait", a->wait, "return when it is READY");
  AddDevClockCommands(dev);
  verb("supervise", "What up starts in the background", &RunSupervisor).Hidden();
}

}  // namespace hsm::cli
