// qhsm-coordinator: the front of one HSM. Runs until SIGTERM or SIGINT, or until it no longer leads; then the
// supervisor starts it again. Exit codes: 0 asked to end, 1 failed, 2 wrong command line or configuration.
#include <signal.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/completion_loop.h"
#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "common/process.h"
#include "common/status_macros.h"
#include "common/virtual_clock.h"
#include "coordinator/config.h"
#include "coordinator/coordinator.h"
#include "coordinator/crypto.h"
#include "coordinator/grpc_partition_client.h"
#include "coordinator/jobs.h"
#include "coordinator/server.h"
#include "store/store_sqlite.h"

namespace hsm {
namespace {

constexpr absl::Duration kDrainGrace = absl::Seconds(2);

JobOptions JobOptionsOf(const CoordinatorConfig& config) {
  JobOptions options;
  options.max_busy_partitions = config.max_busy_partitions;
  options.min_throughput = config.min_throughput;
  options.gate = absl::Minutes(config.restore_gate_minutes);
  options.rollback_hold = absl::Hours(config.rollback_hold_hours);
  return options;
}

// True once the process was asked to end. Signals are blocked in all threads and only taken here.
bool AskedToEnd(const sigset_t& signals) {
  timespec half_second{.tv_sec = 0, .tv_nsec = 500'000'000};
  return sigtimedwait(&signals, nullptr, &half_second) > 0;
}

absl::Status Run(const CoordinatorConfig& config, const sigset_t& signals) {
  HSM_RETURN_IF_ERROR(MakeDirectories(config.data_dir));
  HSM_ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Take(config.data_dir));
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<Store> store,
                       OpenStoreSqlite({.path = JoinPath(config.data_dir, "catalogue.db")}));
  TlsFiles tls{config.tls_ca, config.tls_certificate, config.tls_key};
  HSM_ASSIGN_OR_RETURN(Clock * clock, ProcessClock(config.clock_file));
  CompletionLoop loop("streams");
  std::vector<std::unique_ptr<PartitionClient>> owned;
  std::vector<PartitionClient*> clients;
  for (const PartitionConfig& partition : config.partitions) {
    HSM_ASSIGN_OR_RETURN(std::unique_ptr<PartitionClient> client,
                         MakeGrpcPartitionClient(partition, tls, loop));
    clients.push_back(client.get());
    owned.push_back(std::move(client));
  }
  Coordinator coordinator(config, *store, clients, *clock, SystemRandom());
  HSM_RETURN_IF_ERROR(coordinator.Start());
  Crypto crypto(coordinator.core());
  Jobs jobs(coordinator, JobOptionsOf(config));
  Front front{coordinator, crypto, &jobs};
  CoordinatorServer server(loop, front);
  HSM_ASSIGN_OR_RETURN(int port, server.Start(config.listen, tls));
  jobs.Start();
  LogInfo("serving", {{"hsm", config.hsm_name},
                      {"listen", config.listen},
                      {"port", port},
                      {"partitions", config.partitions.size()}});
  bool leads = true;
  while (leads && !AskedToEnd(signals)) leads = coordinator.Leads();
  LogInfo("ending", {{"leads", leads}});
  server.Drain(leads ? kDrainGrace : absl::ZeroDuration());
  jobs.Stop();
  coordinator.Stop();
  return leads ? absl::OkStatus() : Error(v1::REASON_FENCED, "another coordinator leads");
}

constexpr char kUsage[] =
    "Usage: qhsm-coordinator --config FILE [--log-level debug|info|warning|error|off]\n"
    "       qhsm-coordinator --help | --version\n\n"
    "FILE is coordinator.toml; its keys are explained in deploy/config/coordinator.toml.\n"
    "Exit codes: 0 ended as asked (SIGTERM, SIGINT); 1 failed, see the last line; 2 usage or "
    "configuration.\n";

int Main(int argc, char** argv) {
  std::string path;
  if (argc == 2 && std::string_view(argv[1]) == "--help") return std::fputs(kUsage, stdout) < 0;
  if (argc == 2 && std::string_view(argv[1]) == "--version") return std::puts("qhsm-coordinator 0.1.0") < 0;
  LogLevel level = LogLevel::kInfo;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--config" && i + 1 < argc) {
      path = argv[++i];
    } else if (argument != "--log-level" || i + 1 >= argc || !ParseLogLevel(argv[++i], level)) {
      path.clear();
      break;
    }
  }
  if (path.empty()) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before the first thread starts
  HardenProcess();
  SetLogLevel(level);
  SetLogProgram("qhsm-coordinator");
  absl::StatusOr<CoordinatorConfig> config = LoadCoordinatorConfig(path);
  if (!config.ok()) {
    LogError("the configuration is not usable", {{"error", config.status()}});
    return 2;
  }
  absl::Status status = Run(*config, signals);
  if (status.ok()) return 0;
  LogError("stopped", {{"error", status}, {"hint", ReasonHint(ReasonOf(status))}});
  return 1;
}

}  // namespace
}  // namespace hsm

int main(int argc, char** argv) { return hsm::Main(argc, argv); }
