#include "cli/dev_control.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr size_t kAnswerBytesMax = 64 * 1024;
constexpr absl::Duration kStartTimeout = absl::Seconds(3);

void Pause(absl::Duration time) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(mutex);
  never.WaitFor(mutex, time);
}

int Connect(const std::string& data) {
  int directory = OpenRunDirectory(data);
  if (directory < 0) return -1;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, ControlAddress(directory).c_str(), sizeof address.sun_path - 1);
  if (fd >= 0 && connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    close(fd);
    fd = -1;
  }
  close(directory);
  return fd;
}

int SupervisorPid(const std::string& data) {
  auto text = ReadTextFile(data + "/run/supervisor.pid", 64);
  int pid = 0;
  if (!text.ok() || !absl::SimpleAtoi(*text, &pid)) return 0;
  return pid;
}

// A zombie has ended: whoever inherited it may take its time to reap it.
bool Runs(int pid) {
  auto stat = ReadTextFile(fmt::format("/proc/{}/stat", pid), 4096);
  if (!stat.ok()) return false;
  size_t end = stat->rfind(") ");
  return end != std::string::npos && stat->substr(end + 2, 1) != "Z";
}

// In the child of a double fork: becomes the supervisor. Only async-signal-safe calls.
[[noreturn]] void BecomeSupervisor(const char* program, const char* data, const char* log) {
  setsid();
  int null = open("/dev/null", O_RDONLY);
  int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(null, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  for (int fd = 3; fd < 1024; ++fd) close(fd);  // a caller's pipe held open would make it wait for us
  execl(program, program, "dev", "supervise", "--data", data, nullptr);
  _exit(127);
}

}  // namespace

int OpenRunDirectory(const std::string& data) {
  return open((data + "/run").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
}

std::string ControlAddress(int run_directory) {
  return fmt::format("/proc/self/fd/{}/control.sock", run_directory);
}

std::vector<std::string> SplitText(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t end; (end = text.find(separator)) != std::string_view::npos; text.remove_prefix(end + 1)) {
    parts.emplace_back(text.substr(0, end));
  }
  parts.emplace_back(text);
  return parts;
}

absl::Status StartSupervisor(const DevCluster& cluster) {
  std::string program = ProgramDirectory() + "/qhsm";
  std::string log = cluster.Path("run/supervisor.log");
  pid_t child = fork();
  if (child < 0) return Error(v1::REASON_INTERNAL, fmt::format("fork: {}", std::strerror(errno)));
  if (child == 0) {
    if (fork() == 0) BecomeSupervisor(program.c_str(), cluster.data.c_str(), log.c_str());
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  Deadline deadline(RealClock(), kStartTimeout);
  while (!SupervisorAnswers(cluster.data)) {
    if (deadline.Passed())
      return Error(v1::REASON_INTERNAL, fmt::format("the supervisor did not start: see {}", log));
    Pause(absl::Milliseconds(5));
  }
  return absl::OkStatus();
}

bool SupervisorAnswers(const std::string& data) { return AskSupervisor(data, "ping").ok(); }

absl::StatusOr<std::string> AskSupervisor(const std::string& data, const std::string& request) {
  int fd = Connect(data);
  if (fd < 0) return Error(v1::REASON_NOT_FOUND, fmt::format("no dev cluster runs in {}", data));
  std::string line = request + "\n";
  bool sent = send(fd, line.data(), line.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(line.size());
  std::string answer;
  char buffer[4096];
  while (sent && answer.size() < kAnswerBytesMax) {
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    answer.append(buffer, static_cast<size_t>(got));
  }
  close(fd);
  if (answer.starts_with("ok\n")) return answer.substr(3);
  if (answer.starts_with("error ")) {
    return Error(v1::REASON_NOT_FOUND, answer.substr(6, answer.find('\n') - 6));
  }
  return Error(v1::REASON_UNREACHABLE, "the supervisor gave no answer");
}

absl::StatusOr<std::vector<DevProcessState>> ListProcesses(const std::string& data) {
  HSM_ASSIGN_OR_RETURN(std::string answer, AskSupervisor(data, "list"));
  std::vector<DevProcessState> out;
  for (const std::string& line : SplitText(answer, '\n')) {
    if (line.empty()) continue;
    std::vector<std::string> parts = SplitText(line, '\t');
    if (parts.size() != 5) return Error(v1::REASON_INTERNAL, "the supervisor speaks another version");
    DevProcessState state{.name = parts[0], .state = parts[1], .last_end = parts[4]};
    if (!absl::SimpleAtoi(parts[2], &state.pid) || !absl::SimpleAtoi(parts[3], &state.restarts)) {
      return Error(v1::REASON_INTERNAL, "the supervisor speaks another version");
    }
    out.push_back(std::move(state));
  }
  return out;
}

absl::Status StopSupervisor(const std::string& data, absl::Duration timeout) {
  int pid = SupervisorPid(data);
  absl::StatusOr<std::string> asked = AskSupervisor(data, "down");
  if (!asked.ok() && ReasonOf(asked.status()) != v1::REASON_NOT_FOUND) return asked.status();
  if (!asked.ok()) return absl::OkStatus();
  Deadline deadline(RealClock(), timeout);
  while (pid > 0 && Runs(pid)) {
    if (deadline.Passed()) return Error(v1::REASON_DEADLINE_EXCEEDED, "the supervisor did not end");
    Pause(absl::Milliseconds(10));
  }
  return absl::OkStatus();
}

}  // namespace hsm::cli
