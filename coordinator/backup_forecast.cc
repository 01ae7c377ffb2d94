#include "coordinator/backup_forecast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <queue>
#include <vector>

#include "coordinator/routing.h"

namespace hsm {
namespace {

constexpr int kOperationsSimulated = 4'000;
constexpr uint32_t kCallersMax = 256;
constexpr uint32_t kLanesMax = 8;  // a client has as many for each class of operations
// Between two calls an export spends this long outside the device: encoding, the wire.
constexpr double kExportGapSeconds = 0.0002;

// A fixed sequence: the forecast must not depend on chance.
class Draws {
 public:
  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_ = 0;
};

// A closed queue. Callers travel in batches: a batch goes to one partition, is answered as a whole, and its
// callers ask again. A partition works through its batches one operation at a time, and its device serves in
// order of arrival: so each call of an export waits for one operation, not for all that wait behind it. The
// routing is the very function that routes.
class QueueModel {
 public:
  QueueModel(const ForecastInput& input, uint32_t busy, double operation_seconds)
      : operation_seconds_(operation_seconds), export_step_seconds_(input.export_seconds / 2) {
    partitions_.resize(input.ready);
    loads_.resize(input.ready);
    for (uint32_t i = 0; i < input.ready; ++i) loads_[i] = {true, 0, i < busy};
    const uint32_t callers =
        std::clamp<uint32_t>(static_cast<uint32_t>(std::lround(input.in_flight)), 1, kCallersMax);
    const uint32_t lanes = std::min(callers, kLanesMax);
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      lanes_.push_back({(callers + lane) / lanes, 0});
      Ask(lane, 0);
    }
    for (uint32_t i = 0; i < busy && export_step_seconds_ > 0; ++i) {
      for (uint32_t call = 0; call < input.exports_in_flight; ++call) Export(i, 0);
    }
  }

  struct Rates {
    double operations = 0, versions = 0;  // per second
  };
  Rates Run() {
    double now = 0;
    uint64_t operations = 0, export_steps = 0;
    while (operations < kOperationsSimulated) {
      const Event event = events_.top();
      events_.pop();
      now = event.at;
      if (event.is_export) {
        ++export_steps;
        Export(event.partition, now + kExportGapSeconds);
      } else {
        ++operations;
        FinishOne(event.partition, now);
      }
    }
    // A version is unwrapped and wrapped: two steps.
    return {static_cast<double>(operations) / now, static_cast<double>(export_steps) / 2 / now};
  }

 private:
  struct Event {
    double at;
    uint32_t partition;
    bool is_export;
    bool operator>(const Event& other) const { return at > other.at; }
  };
  struct Partition {
    double free_at = 0;          // its device
    std::deque<uint32_t> lanes;  // whose batches are here; the first one's is being worked on
  };
  struct Lane {
    uint32_t callers, left;  // `left` of its batch
  };
  void Serve(uint32_t partition, double now, double seconds, bool is_export) {
    double& free_at = partitions_[partition].free_at;
    free_at = std::max(free_at, now) + seconds;
    events_.push({free_at, partition, is_export});
  }
  void Ask(uint32_t lane, double now) {
    const uint32_t partition = static_cast<uint32_t>(ChoosePartition(loads_, draws_.Next()));
    lanes_[lane].left = lanes_[lane].callers;
    loads_[partition].in_flight += lanes_[lane].callers;
    partitions_[partition].lanes.push_back(lane);
    if (partitions_[partition].lanes.size() == 1) Serve(partition, now, operation_seconds_, false);
  }
  void FinishOne(uint32_t partition, double now) {
    Partition& at = partitions_[partition];
    const uint32_t lane = at.lanes.front();
    const bool answered = --lanes_[lane].left == 0;
    if (answered) {
      at.lanes.pop_front();
      loads_[partition].in_flight -= lanes_[lane].callers;
    }
    if (!at.lanes.empty()) Serve(partition, now, operation_seconds_, false);
    if (answered) Ask(lane, now);
  }
  void Export(uint32_t partition, double now) { Serve(partition, now, export_step_seconds_, true); }

  const double operation_seconds_, export_step_seconds_;
  std::vector<Partition> partitions_;
  std::vector<RouteLoad> loads_;
  std::vector<Lane> lanes_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  Draws draws_;
};

struct Effect {
  double ratio = 1;
  double versions_per_second = 0;  // 0 = not known
};

Effect OwnCapacity(const ForecastInput& input) {
  Effect effect;
  if (!input.operations_per_second || *input.operations_per_second <= 0) {
    if (input.export_seconds > 0) effect.versions_per_second = input.busy / input.export_seconds;
    return effect;  // one caller finds a free partition
  }
  // Callers in batches leave devices idle now and then. So the time of one operation is the one with which
  // the model shows the load that was measured.
  const double unit_rate = QueueModel(input, 0, 1.0).Run().operations;
  const double operation_seconds = unit_rate / *input.operations_per_second;
  const QueueModel::Rates during = QueueModel(input, input.busy, operation_seconds).Run();
  effect.ratio = std::min(1.0, during.operations / *input.operations_per_second);
  effect.versions_per_second = during.versions;
  return effect;
}

// Threads that want a processor share them equally.
Effect SharedProcessors(const ForecastInput& input) {
  const double exporting = static_cast<double>(input.busy) * input.exports_in_flight;
  const double processors = input.processors;
  const double asking = std::clamp(input.in_flight, 1.0, 2 * processors);
  Effect effect;
  effect.ratio = std::min(1.0, processors / (asking + exporting)) / std::min(1.0, processors / asking);
  const double others = input.operations_per_second ? asking : 0;
  const double exporting_share = exporting * std::min(1.0, processors / (others + exporting));
  if (input.export_seconds > 0) effect.versions_per_second = exporting_share / input.export_seconds;
  return effect;
}

}  // namespace

v1::ThroughputForecast ForecastBackup(const ForecastInput& input) {
  v1::ThroughputForecast forecast;
  forecast.set_busy_partitions(input.busy);
  if (input.ready == 0 || input.busy == 0) return forecast;  // nothing can be said while nobody can work
  Effect effect = input.own_capacity ? OwnCapacity(input) : SharedProcessors(input);
  if (input.floor && effect.ratio < *input.floor) {
    const double duty = (1 - *input.floor) / (1 - effect.ratio);
    effect.ratio = *input.floor;
    effect.versions_per_second *= std::max(duty, 0.01);
  }
  forecast.set_ratio(effect.ratio);
  if (effect.versions_per_second > 0) {
    forecast.set_seconds(static_cast<double>(input.versions) / effect.versions_per_second);
  }
  return forecast;
}

}  // namespace hsm
