#pragma once
// How many crypto operations a second the partitions serve, over windows of a second and more. One thread
// samples the counters the router keeps anyway; a backup reads its baseline from the samples taken before it
// began, so measuring costs the callers nothing. Thread-safe.
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "coordinator/cluster_state.h"

namespace hsm {

// Counters at one moment, by partition index.
struct OpsSample {
  absl::Duration at;  // Clock::Uptime()
  std::vector<uint64_t> done;
  std::vector<uint32_t> in_flight;
};

struct OpsWindow {
  absl::Duration length;
  uint64_t operations = 0;
  std::vector<double> per_partition;  // operations per second
  double in_flight = 0;               // of all partitions together, mean of the samples
  double operations_per_second() const {
    return length > absl::ZeroDuration() ? static_cast<double>(operations) / absl::ToDoubleSeconds(length)
                                         : 0;
  }
};

// The window between the first and the last of `samples`; nothing for fewer than two.
std::optional<OpsWindow> WindowOf(std::span<const OpsSample> samples);

// The part at the end of `samples`, at least `shortest` long, in which the load was steady: it grows
// backwards while the rate of each further stretch of `shortest` is within 15 % of the last one's, up to five
// stretches. Nothing if the samples do not reach back that far.
std::optional<OpsWindow> SteadyEnd(std::span<const OpsSample> samples, absl::Duration shortest);

class Throughput {
 public:
  Throughput(const ClusterState& cluster, Clock& clock, absl::Duration window);
  ~Throughput();
  void Start();
  void Stop();

  OpsSample Now() const;  // read this moment
  // What was served up to now, over at least one window; nothing until that long has been sampled.
  std::optional<OpsWindow> Baseline() const;
  std::optional<OpsWindow> Live() const;  // the last window alone

 private:
  void Run();
  std::vector<OpsSample> Samples() const;

  const ClusterState& cluster_;
  Clock& clock_;
  const absl::Duration window_;
  const absl::Duration period_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  std::deque<OpsSample> samples_ HSM_GUARDED_BY(mutex_);
  Thread thread_;
};

// Holds a floor: says how long to wait after a piece of work, from the ratio seen. Pure, apart from its
// memory; one per stretch of exports. Not thread-safe.
class FloorKeeper {
 public:
  // `floor` and `expected` are ratios of the baseline; `expected` is the forecast without a floor.
  FloorKeeper(double floor, double expected);
  // `live`: ratio over the last window; `overall`: since the exports began; `took`: the work just done.
  absl::Duration Pause(double live, double overall, absl::Duration took);
  double duty() const { return duty_; }

 private:
  const double floor_;
  double duty_;  // share of the time in which exports run
};

}  // namespace hsm
