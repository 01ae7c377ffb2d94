#include "tests/testing/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "common/check.h"
#include "common/clock.h"
#include "tests/testing/paths.h"

extern char** environ;

namespace hsm::testing {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> WithEnvironment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string text = *entry;
    if (!added.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [name, value] : added) all.push_back(name + "=" + value);
  return all;
}

// Reads both pipes until both are closed or time is up; false then.
bool Drain(int out, int err, Ended& ended, Deadline deadline) {
  pollfd waited[] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  std::string* texts[] = {&ended.out, &ended.err};
  int open_pipes = 2;
  while (open_pipes > 0) {
    int left_ms = static_cast<int>(absl::ToInt64Milliseconds(deadline.Left()));
    if (left_ms <= 0 || poll(waited, 2, left_ms) <= 0) return false;
    for (int i = 0; i < 2; ++i) {
      if (waited[i].fd < 0 || waited[i].revents == 0) continue;
      char buffer[8192];
      ssize_t got = read(waited[i].fd, buffer, sizeof buffer);
      if (got > 0) {
        texts[i]->append(buffer, static_cast<size_t>(got));
      } else {
        waited[i].fd = -1;
        --open_pipes;
      }
    }
  }
  return true;
}

}  // namespace

Json Ended::Document() const {
  auto document = Json::Parse(out);
  EXPECT_TRUE(document.ok()) << "not one JSON document: " << out << "\n" << err;
  return document.ok() ? *document : Json();
}

std::string ProgramPath(const std::string& name) {
  const char* folder = std::getenv("QHSM_BIN");
  return (folder == nullptr ? BinaryDir() + "/bin" : folder) + "/" + name;
}

Ended RunProgram(const std::vector<std::string>& arguments,
                 const std::map<std::string, std::string>& environment, absl::Duration timeout) {
  Ended ended;
  absl::Duration started = RealClock().Uptime();
  Deadline deadline(RealClock(), timeout);
  int out[2], err[2];
  HSM_CHECK(pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  std::vector<std::string> argument_texts = arguments, environment_texts = WithEnvironment(environment);
  pid_t pid = 0;
  int failed = posix_spawn(&pid, arguments[0].c_str(), &actions, nullptr, Pointers(argument_texts).data(),
                           Pointers(environment_texts).data());
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  close(err[1]);
  if (failed == 0) {
    if (!Drain(out[0], err[0], ended, deadline)) kill(pid, SIGKILL);
    int status = 0;
    rusage used{};
    wait4(pid, &status, 0, &used);
    ended.cpu = absl::DurationFromTimeval(used.ru_utime) + absl::DurationFromTimeval(used.ru_stime);
    ended.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  close(out[0]);
  close(err[0]);
  ended.took = RealClock().Uptime() - started;
  return ended;
}

}  // namespace hsm::testing
