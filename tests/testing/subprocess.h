#pragma once
// Runs our programs from tests: what they print, how they end, how long they take.
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/json.h"

namespace hsm::testing {

struct Ended {
  int exit_code = -1;  // -1: killed, by a signal or because `timeout` passed
  std::string out, err;
  absl::Duration took;
  absl::Duration cpu;  // of the program itself: does not grow when the machine is busy

  // The JSON document on standard output; a null value, and a test failure, if it is none.
  Json Document() const;
};

// Runs `arguments[0]` with the others; `environment` is added to this process's.
Ended RunProgram(const std::vector<std::string>& arguments,
                 const std::map<std::string, std::string>& environment = {},
                 absl::Duration timeout = absl::Seconds(60));

// A program of $QHSM_BIN, or else of the build directory's bin/.
std::string ProgramPath(const std::string& name);

}  // namespace hsm::testing
