// qhsm-node: one partition of an HSM. See kHelp.
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "common/process.h"
#include "common/status_macros.h"
#include "node/config.h"
#include "node/helper.h"
#include "node/lifecycle.h"
#include "node/restart.h"
#include "node/server.h"

namespace hsm {
namespace {

constexpr char kHelp[] =
    "Usage: qhsm-node [serve] --config FILE       run the partition (default)\n"
    "       qhsm-node probe --config FILE         open the token, try what it must refuse, say the result\n"
    "       qhsm-node helper --config FILE --mode make-domain|provision-and-join|sponsor\n"
    "                                             started by the node itself: speaks on its pipes\n"
    "       qhsm-node --help | --version\n"
    "\n"
    "FILE is node.toml; its keys are explained in deploy/config/node.toml.\n"
    "\n"
    "Exit codes: 0 ended as asked (SIGTERM, SIGINT); 1 failed, see the last line; 2 usage or configuration;\n"
    "73 another process holds the directory or the token; 74 the record store failed: start again, it reads "
    "what\n"
    "the disk has; 75 start again at once (hand-over, token lost its keys); 76 a token call overran its "
    "limit.\n";

constexpr int kExitUsage = 2;
constexpr int kExitLocked = 73;

struct Arguments {
  std::string command = "serve";
  std::string config;
  std::string mode;
};

absl::StatusOr<Arguments> ParseArguments(int argc, char** argv) {
  Arguments out;
  int at = 1;
  if (at < argc && argv[at][0] != '-') out.command = argv[at++];
  for (; at < argc; ++at) {
    std::string_view word = argv[at];
    if (word == "--help" || word == "-h") {
      out.command = "help";
      return out;
    }
    if (word == "--version") {
      out.command = "version";
      return out;
    }
    std::string* value = word == "--config" ? &out.config : word == "--mode" ? &out.mode : nullptr;
    if (value == nullptr || at + 1 >= argc) {
      return Error(v1::REASON_INVALID_ARGUMENT, "do not know what to do with '" + std::string(word) + "'");
    }
    *value = argv[++at];
  }
  if (out.command != "help" && out.config.empty())
    return Error(v1::REASON_INVALID_ARGUMENT, "--config FILE is missing");
  return out;
}

int ExitCodeOf(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::REASON_UNSPECIFIED:
      return 0;
    case v1::REASON_CONFIG_INVALID:
    case v1::REASON_INVALID_ARGUMENT:
      return kExitUsage;
    case v1::REASON_LOCKED:
      return kExitLocked;
    default:
      return 1;
  }
}

std::string ProgramPath() {
  char path[PATH_MAX];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  return size <= 0 ? "qhsm-node" : std::string(path, static_cast<size_t>(size));
}

// Set by whoever wants the process to end; main waits for the signal that comes with it.
std::atomic<int> exit_wanted{0};
void RequestExit(int code) {
  int none = 0;
  exit_wanted.compare_exchange_strong(none, code);
  kill(getpid(), SIGTERM);
}

absl::Status Serve(const Arguments& arguments, const sigset_t& signals, SecretBytes* so_pin_for_next) {
  HSM_ASSIGN_OR_RETURN(NodeConfig config, NodeConfig::Load(arguments.config));
  SetLogProgram("qhsm-node " + config.name);
  HSM_RETURN_IF_ERROR(MakeDirectories(config.data_dir));
  HSM_ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Take(config.data_dir));
  SecretBytes so_pin = TakeInheritedSoPin();
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<Lifecycle> life,
                       Lifecycle::Open(std::move(config), ProgramPath(), RequestExit));
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<NodeServer> server, NodeServer::Start(*life));
  absl::Status started = life->Start(std::move(so_pin));
  if (started.ok()) {
    LogInfo("listening", {{"address", life->config().listen}});
    timespec pause{0, 500'000'000};
    while (sigtimedwait(&signals, nullptr, &pause) < 0) {
      std::shared_ptr<Partition> partition = life->partition();
      if (partition != nullptr && partition->StoreBroken()) {
        LogError("the record store failed: the process ends");
        exit_wanted.store(Lifecycle::kExitStoreBroken);
        break;
      }
    }
    LogInfo("stopping");
  }
  server->Stop();
  life->Shutdown();
  *so_pin_for_next = life->TakeSoPin();
  // No destructors of the module's objects after this: SoftHSM crashes in them.
  (void)life.release();
  return started;
}

int RunServe(const Arguments& arguments, char** argv) {
  HardenProcess();
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  SecretBytes so_pin;
  absl::Status status = Serve(arguments, signals, &so_pin);
  if (!status.ok()) {
    LogError(std::string(status.message()));
    return ExitCodeOf(status);
  }
  if (!so_pin.empty()) LogError("restart failed", {{"error", RestartWithSoPin(so_pin, argv)}});
  return exit_wanted.load();
}

int RunHelperCommand(const Arguments& arguments) {
  absl::StatusOr<HelperMode> mode = ParseHelperMode(arguments.mode);
  absl::StatusOr<NodeConfig> config = NodeConfig::Load(arguments.config);
  absl::Status status = !mode.ok() ? mode.status() : config.status();
  if (!status.ok()) {
    LogError(std::string(status.message()));
    return kExitUsage;
  }
  SetLogProgram("qhsm-node helper " + config->name);
  return RunHelper(*mode, config->token, config->data_dir, STDIN_FILENO, STDOUT_FILENO);
}

int RunProbe(const Arguments& arguments) {
  HardenProcess();
  auto run = [&]() -> absl::Status {
    HSM_ASSIGN_OR_RETURN(NodeConfig config, NodeConfig::Load(arguments.config));
    HSM_ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Take(config.data_dir));
    HSM_ASSIGN_OR_RETURN(std::unique_ptr<Pkcs11Token> token, Pkcs11Token::Open(config.token));
    TokenIdentity identity = token->Identity();
    printf("token: %s %s, serial %s, label %s\n", identity.manufacturer.c_str(), identity.model.c_str(),
           identity.serial.c_str(), identity.label.c_str());
    printf("domain keys: %s\n", token->HasKeks() ? token->DomainTag().c_str() : "none");
    Pkcs11Token::ProbeSummary probe = token->JoinProbe();
    printf("grade: %s\n%s\n", probe.grade.c_str(), probe.json.c_str());
    absl::Status tried = token->HasKeks() ? token->SelfTest() : absl::OkStatus();
    if (token->HasKeks())
      printf("self-test: %s\n", tried.ok() ? "passed" : std::string(tried.message()).c_str());
    token->Shutdown();
    (void)token.release();
    return tried;
  };
  absl::Status status = run();
  if (!status.ok()) LogError(std::string(status.message()));
  return ExitCodeOf(status);
}

int Main(int argc, char** argv) {
  absl::StatusOr<Arguments> arguments = ParseArguments(argc, argv);
  if (!arguments.ok()) {
    fprintf(stderr, "qhsm-node: %s\n%s", std::string(arguments.status().message()).c_str(), kHelp);
    return kExitUsage;
  }
  if (arguments->command == "serve") return RunServe(*arguments, argv);
  if (arguments->command == "helper") return RunHelperCommand(*arguments);
  if (arguments->command == "probe") return RunProbe(*arguments);
  if (arguments->command == "version") {
    printf("qhsm-node %s\n", HSM_VERSION);
    return 0;
  }
  bool asked = arguments->command == "help";
  fputs(kHelp, asked ? stdout : stderr);
  return asked ? 0 : kExitUsage;
}

}  // namespace
}  // namespace hsm

int main(int argc, char** argv) {
  int code = hsm::Main(argc, argv);
  fflush(stdout);
  _exit(code);  // no static destructors: PKCS#11 modules crash in them
}
