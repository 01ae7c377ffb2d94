#pragma once
// CPU time of this and other processes, and where they may run.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace hsm::cli {

struct MeasuredProcesses {
  std::vector<int> coordinators, nodes;  // pids; empty = not known, figures are absent
};

// CPU time so far, in microseconds. Absent when a process is not known or is gone.
struct CpuSample {
  double client = 0;
  std::optional<double> coordinator, node;
};
CpuSample SampleCpu(const MeasuredProcesses& processes);

// Binds all threads of the processes, and of this one, to one CPU while it lives; then to all again.
class SameCore {
 public:
  SameCore(const MeasuredProcesses& processes, int cpu);
  ~SameCore();
  SameCore(const SameCore&) = delete;
  SameCore& operator=(const SameCore&) = delete;
  bool held() const { return held_; }

 private:
  std::vector<int> pids_;
  bool held_ = true;
};

// P-256 signs a second by OpenSSL over 50 ms: how fast this CPU is just now.
double Calibrate();

std::string CpuModel();
std::string KernelRelease();

}  // namespace hsm::cli
