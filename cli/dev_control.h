#pragma once
// The supervisor of a dev cluster from outside: starting it, and asking it over DATA/run/control.sock.
//
// Wire: one request line, e.g. "kill p2 STOP"; the answer is "ok\n" and maybe lines, or "error MESSAGE\n";
// then the connection ends. Only the directory's owner can open the socket.
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/dev_cluster.h"

namespace hsm::cli {

struct DevProcessState {
  std::string name;
  std::string state;  // "running", "stopped" (SIGSTOP), "killed" (by dev kill), "restarting", "failed"
  int pid = 0;        // 0 = none
  uint32_t restarts = 0;
  std::string last_end;  // "", "exit 1", "signal 9": how it last ended by itself
};

// Path of the socket or pid file by which the calling process can reach them, however long DATA is.
int OpenRunDirectory(const std::string& data);  // -1 on failure; the caller closes it
std::string ControlAddress(int run_directory);  // for sockaddr_un

// The parts between `separator`s; one more than there are separators.
std::vector<std::string> SplitText(std::string_view text, char separator);

// Starts `qhsm dev supervise` in a session of its own and returns when it answers.
absl::Status StartSupervisor(const DevCluster& cluster);
bool SupervisorAnswers(const std::string& data);
// NOT_FOUND when no supervisor runs.
absl::StatusOr<std::string> AskSupervisor(const std::string& data, const std::string& request);
absl::StatusOr<std::vector<DevProcessState>> ListProcesses(const std::string& data);
// Ends everything; returns when the supervisor is gone. OK if nothing ran.
absl::Status StopSupervisor(const std::string& data, absl::Duration timeout);

}  // namespace hsm::cli
