#pragma once
// Load, and how long its operations took.
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/histogram.h"

namespace hsm::cli {

struct LoadResult {
  uint64_t operations = 0;  // that succeeded
  uint64_t errors = 0;
  std::map<std::string, uint64_t> errors_by_reason;
  double seconds = 0;
  Histogram latency_us;    // closed loop: service time; open loop: from the intended start
  int64_t lag_us_max = 0;  // open loop: by how much the generator itself was late at most

  void Merge(const LoadResult& other);
  double PerSecond() const { return seconds > 0 ? static_cast<double>(operations) / seconds : 0; }
};

// What an operation returns that succeeded but is not to be measured.
absl::Status Uncounted();
bool IsUncounted(const absl::Status& status);

// `caller` is 0 .. callers - 1. Must be thread-safe.
using Operation = std::function<absl::Status(uint32_t caller)>;

// Each of `callers` threads calls again as soon as it has its answer. One caller runs in the calling thread.
LoadResult RunClosedLoop(uint32_t callers, absl::Duration time, const Operation& operation);

// Poisson arrivals at `rate` a second, taken up by `workers` threads (at least four times the expected
// concurrency); a start that comes late counts as waiting time of its operation. The schedule is drawn from
// `seed` beforehand.
LoadResult RunOpenLoop(double rate, uint32_t workers, absl::Duration time, uint64_t seed,
                       const Operation& operation);

}  // namespace hsm::cli
