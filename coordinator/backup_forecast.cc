#include "coordinator/backup_forecast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <queue>
#include <vector>

#include "coordinator/routing.h"

namespace hsm {
namespace {

constexpr int kOperationsSimulated = 4'000;
constexpr int kCallersMax = 256;
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

// A closed queue: callers that ask again as soon as they are answered, partitions that serve one operation at
// a time in order of arrival, and exports that queue at the busy ones. The routing is the very function that
// routes.
class QueueModel {
 public:
  QueueModel(const ForecastInput& input, uint32_t busy, double operation_seconds)
      : operation_seconds_(operation_seconds), export_step_seconds_(input.export_seconds / 2) {
    free_at_.resize(input.ready, 0);
    loads_.resize(input.ready);
    for (uint32_t i = 0; i < input.ready; ++i) loads_[i] = {true, 0, i < busy};
    const int callers = std::clamp(static_cast<int>(std::lround(input.in_flight)), 1, kCallersMax);
    for (int i = 0; i < callers; ++i) Ask(0);
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
        --loads_[event.partition].in_flight;
        Ask(now);
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
  double Serve(uint32_t partition, double now, double seconds) {
    free_at_[partition] = std::max(free_at_[partition], now) + seconds;
    return free_at_[partition];
  }
  void Ask(double now) {
    const uint32_t partition = static_cast<uint32_t>(ChoosePartition(loads_, draws_.Next()));
    ++loads_[partition].in_flight;
    events_.push({Serve(partition, now, operation_seconds_), partition, false});
  }
  void Export(uint32_t partition, double now) {
    events_.push({Serve(partition, now, export_step_seconds_), partition, true});
  }

  const double operation_seconds_, export_step_seconds_;
  std::vector<double> free_at_;
  std::vector<RouteLoad> loads_;
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
  const double served_at_once = std::min<double>(std::max(input.in_flight, 1.0), input.ready);
  const double operation_seconds = served_at_once / *input.operations_per_second;
  const QueueModel::Rates before = QueueModel(input, 0, operation_seconds).Run();
  const QueueModel::Rates during = QueueModel(input, input.busy, operation_seconds).Run();
  effect.ratio = std::min(1.0, during.operations / before.operations);
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
