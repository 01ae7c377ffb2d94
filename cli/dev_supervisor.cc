#include "cli/dev_supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "cli/dev_cluster.h"
#include "cli/dev_control.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr int kRestartAtOnce = 75;  // EX_TEMPFAIL: the node asks for a fresh process, e.g. after a hand-over
constexpr absl::Duration kPauseMin = absl::Milliseconds(100);
constexpr absl::Duration kPauseMax = absl::Seconds(5);
constexpr absl::Duration kSteady = absl::Seconds(10);  // ran that long: the next pause is the shortest again
constexpr int kRestartsAtOnceMax = 10;                 // in a row, each within kSteady
constexpr absl::Duration kGrace = absl::Seconds(4);    // between SIGTERM and SIGKILL
constexpr off_t kLogBytesMax = 20 * 1024 * 1024;

struct Child {
  DevProcess process;
  std::string program, config, log;
  pid_t pid = 0;
  bool suspended = false;  // SIGSTOP by dev kill
  bool wanted = true;      // false after dev kill
  uint32_t restarts = 0;
  int quick = 0;  // restarts at once in a row
  absl::Duration started, start_at, pause = kPauseMin;
  std::string last_end;

  const char* State() const {
    if (pid != 0) return suspended ? "stopped" : "running";
    if (!wanted) return "killed";
    return "restarting";
  }
};

class Supervisor {
 public:
  explicit Supervisor(DevCluster cluster) : cluster_(std::move(cluster)) {}

  absl::Status Run() {
    HSM_RETURN_IF_ERROR(Open());
    for (const DevProcess& process : cluster_.Processes()) {
      children_.push_back({.process = process,
                           .program = ProgramDirectory() + "/" + process.program,
                           .config = cluster_.ConfigFile(process),
                           .log = cluster_.LogFile(process)});
    }
    while (!ending_) {
      StartDue();
      Wait();
    }
    EndAll();
    unlink(cluster_.Path("run/control.sock").c_str());
    unlink(cluster_.Path("run/supervisor.pid").c_str());
    if (closing_ >= 0) close(closing_);
    return absl::OkStatus();
  }

 private:
  absl::Status Open() {
    sigset_t mask;
    sigemptyset(&mask);
    for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&mask, signal);
    sigprocmask(SIG_BLOCK, &mask, &inherited_);
    signals_ = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    int directory = OpenRunDirectory(cluster_.data);
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, ControlAddress(directory).c_str(), sizeof address.sun_path - 1);
    unlink(address.sun_path);
    umask(0077);
    if (signals_ < 0 || listener_ < 0 ||
        bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_, 16) != 0) {
      return Error(v1::REASON_INTERNAL, fmt::format("control socket: {}", std::strerror(errno)));
    }
    close(directory);
    return WriteFileAtomic(cluster_.Path("run/supervisor.pid"), View(fmt::format("{}\n", getpid())));
  }

  void StartDue() {
    absl::Duration now = RealClock().Uptime();
    for (Child& child : children_) {
      if (child.pid == 0 && child.wanted && child.start_at <= now) Start(child);
    }
  }

  void Start(Child& child) {
    struct stat info{};
    if (stat(child.log.c_str(), &info) == 0 && info.st_size > kLogBytesMax) {
      rename(child.log.c_str(), (child.log + ".1").c_str());
    }
    pid_t pid = fork();
    if (pid == 0) Become(child);
    if (pid < 0) {
      LogError("cannot fork", {{"process", child.process.name}, {"error", std::strerror(errno)}});
      child.start_at = RealClock().Uptime() + kPauseMax;
      return;
    }
    setpgid(pid, pid);  // also done in the child; whoever is first
    child.pid = pid;
    child.suspended = false;
    child.started = RealClock().Uptime();
    LogInfo("started", {{"process", child.process.name}, {"pid", pid}});
  }

  [[noreturn]] void Become(const Child& child) {
    setpgid(0, 0);  // a group of its own: helpers end with it
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigprocmask(SIG_SETMASK, &inherited_, nullptr);
    int log = open(child.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execl(child.program.c_str(), child.program.c_str(), "--config", child.config.c_str(), nullptr);
    _exit(127);
  }

  void Wait() {
    absl::Duration now = RealClock().Uptime();
    int timeout_ms = 60'000;
    for (const Child& child : children_) {
      if (child.pid != 0 || !child.wanted) continue;
      timeout_ms =
          std::min(timeout_ms, static_cast<int>(absl::ToInt64Milliseconds(child.start_at - now)) + 1);
    }
    pollfd waited[] = {{signals_, POLLIN, 0}, {listener_, POLLIN, 0}};
    if (poll(waited, 2, std::max(timeout_ms, 0)) <= 0) return;
    if (waited[0].revents != 0) TakeSignals();
    if (waited[1].revents != 0) Answer();
  }

  void TakeSignals() {
    signalfd_siginfo info;
    while (read(signals_, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGCHLD) ending_ = true;
    }
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) Ended(pid, status);
  }

  void Ended(pid_t pid, int status) {
    auto child =
        std::find_if(children_.begin(), children_.end(), [&](const Child& c) { return c.pid == pid; });
    if (child == children_.end()) return;
    kill(-pid, SIGKILL);  // its helpers
    child->pid = 0;
    child->suspended = false;
    child->last_end = WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status))
                                          : fmt::format("exit {}", WEXITSTATUS(status));
    LogInfo("ended", {{"process", child->process.name}, {"pid", pid}, {"how", child->last_end}});
    if (!child->wanted) return;
    ++child->restarts;
    absl::Duration now = RealClock().Uptime();
    bool steady = now - child->started >= kSteady;
    if (steady) child->pause = kPauseMin;
    child->quick = steady ? 0 : child->quick + 1;
    bool at_once =
        WIFEXITED(status) && WEXITSTATUS(status) == kRestartAtOnce && child->quick <= kRestartsAtOnceMax;
    child->start_at = at_once ? now : now + child->pause;
    if (!at_once) child->pause = std::min(child->pause * 2, kPauseMax);
  }

  void Answer() {
    int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    timeval limit{1, 0};  // a client that says nothing does not hold us up
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char buffer[256];
    ssize_t got = read(fd, buffer, sizeof buffer);
    std::string_view line(buffer, got > 0 ? static_cast<size_t>(got) : 0);
    std::string answer = Obey(SplitText(line.substr(0, line.find('\n')), ' '));
    if (send(fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0)
      LogDebug("a client did not wait for its answer");
    if (ending_) {
      closing_ = fd;
    } else {
      close(fd);
    }
  }

  std::string Obey(const std::vector<std::string>& words) {
    if (words[0] == "ping") return "ok\n";
    if (words[0] == "list") return List();
    if (words[0] == "down") {
      ending_ = true;
      return "ok\n";
    }
    if (words.size() < 2) return "error not understood\n";
    auto child = std::find_if(children_.begin(), children_.end(),
                              [&](const Child& c) { return c.process.name == words[1]; });
    if (child == children_.end()) return fmt::format("error no process is called {}\n", words[1]);
    if (words[0] == "start") return Resume(*child);
    if (words[0] == "kill" && words.size() == 3) return Kill(*child, words[2]);
    return "error not understood\n";
  }

  std::string List() {
    std::string out = "ok\n";
    for (const Child& child : children_) {
      out += fmt::format("{}\t{}\t{}\t{}\t{}\n", child.process.name, child.State(), child.pid, child.restarts,
                         child.last_end);
    }
    return out;
  }

  std::string Resume(Child& child) {
    child.wanted = true;
    if (child.pid == 0) {
      child.pause = kPauseMin;
      child.quick = 0;
      Start(child);
    } else if (child.suspended) {
      kill(-child.pid, SIGCONT);
      child.suspended = false;
    }
    return "ok\n";
  }

  // Has acted when it returns: the process is reaped, or stopped.
  std::string Kill(Child& child, const std::string& signal) {
    if (signal == "STOP") {
      if (child.pid == 0) return fmt::format("error {} does not run\n", child.process.name);
      kill(-child.pid, SIGSTOP);
      int status = 0;
      if (waitpid(child.pid, &status, WUNTRACED) == child.pid && !WIFSTOPPED(status)) {
        Ended(child.pid, status);
        return fmt::format("error {} ended just now\n", child.process.name);
      }
      child.suspended = true;
      return "ok\n";
    }
    if (signal != "KILL") return "error --signal takes KILL or STOP\n";
    child.wanted = false;
    if (child.pid == 0) return "ok\n";
    pid_t pid = child.pid;
    kill(-pid, SIGKILL);
    int status = 0;
    if (waitpid(pid, &status, 0) == pid) Ended(pid, status);
    return "ok\n";
  }

  void EndAll() {
    for (Child& child : children_) {
      child.wanted = false;
      if (child.pid == 0) continue;
      kill(-child.pid, SIGTERM);
      kill(-child.pid, SIGCONT);
    }
    Deadline deadline(RealClock(), kGrace);
    auto running = [this] {
      return std::any_of(children_.begin(), children_.end(), [](const Child& c) { return c.pid != 0; });
    };
    while (running() && !deadline.Passed()) {
      pollfd waited{signals_, POLLIN, 0};
      poll(&waited, 1, 100);
      TakeSignals();
    }
    for (Child& child : children_) {
      if (child.pid == 0) continue;
      LogWarning("did not end in time", {{"process", child.process.name}});
      kill(-child.pid, SIGKILL);
      waitpid(child.pid, nullptr, 0);
    }
  }

  const DevCluster cluster_;
  std::vector<Child> children_;
  sigset_t inherited_{};
  int signals_ = -1, listener_ = -1, closing_ = -1;
  bool ending_ = false;
};

}  // namespace

absl::Status Supervise(const std::string& data) {
  SetLogProgram("qhsm dev");
  SetLogLevel(LogLevel::kInfo);
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, LoadDevCluster(data));
  HSM_ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Take(cluster.Path("run")));
  return Supervisor(std::move(cluster)).Run();
}

}  // namespace hsm::cli
