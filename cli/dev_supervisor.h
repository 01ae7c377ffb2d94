#pragma once
#include <string>

#include "absl/status/status.h"

namespace hsm::cli {

// Runs the processes of the dev cluster in `data` until "down" is asked for or SIGTERM comes: starts all,
// starts again what ends by itself (at once after exit code 75, otherwise with growing pauses), and answers
// on the control socket. The calling process must have no other thread. Children die with it.
absl::Status Supervise(const std::string& data);

}  // namespace hsm::cli
