#include "coordinator/throughput.h"

#include <algorithm>
#include <cmath>

namespace hsm {
namespace {

constexpr size_t kSamplesPerWindow = 10;
constexpr size_t kWindowsKept = 6;
constexpr double kSteady = 0.15;
constexpr double kDutyMin = 0.02;
constexpr double kFloorMargin = 0.03;

std::span<const OpsSample> LastStretch(std::span<const OpsSample> samples, absl::Duration shortest) {
  if (samples.empty()) return {};
  for (size_t i = samples.size(); i-- > 0;) {
    if (samples.back().at - samples[i].at >= shortest) return samples.subspan(i);
  }
  return {};
}

}  // namespace

std::optional<OpsWindow> WindowOf(std::span<const OpsSample> samples) {
  if (samples.size() < 2) return std::nullopt;
  const OpsSample& first = samples.front();
  const OpsSample& last = samples.back();
  OpsWindow window;
  window.length = last.at - first.at;
  if (window.length <= absl::ZeroDuration()) return std::nullopt;
  for (size_t i = 0; i < last.done.size(); ++i) {
    const uint64_t operations = last.done[i] - first.done[i];
    window.operations += operations;
    window.per_partition.push_back(static_cast<double>(operations) / absl::ToDoubleSeconds(window.length));
  }
  for (const OpsSample& sample : samples) {
    for (uint32_t in_flight : sample.in_flight) window.in_flight += in_flight;
  }
  window.in_flight /= static_cast<double>(samples.size());
  return window;
}

std::optional<OpsWindow> SteadyEnd(std::span<const OpsSample> samples, absl::Duration shortest) {
  std::span<const OpsSample> stretch = LastStretch(samples, shortest);
  if (stretch.empty()) return std::nullopt;
  std::optional<OpsWindow> newest = WindowOf(stretch);
  size_t used = stretch.size();
  for (int further = 0; newest && further < 4; ++further) {
    // Neighbouring stretches share a sample.
    stretch = LastStretch(samples.first(samples.size() - used + 1), shortest);
    std::optional<OpsWindow> older = WindowOf(stretch);
    if (!older) break;
    const double rate = newest->operations_per_second();
    if (std::abs(older->operations_per_second() - rate) > kSteady * rate) break;
    used += stretch.size() - 1;
  }
  return WindowOf(samples.last(used));
}

Throughput::Throughput(const ClusterState& cluster, Clock& clock, absl::Duration window)
    : cluster_(cluster), clock_(clock), window_(window), period_(window / kSamplesPerWindow) {}

Throughput::~Throughput() { Stop(); }

void Throughput::Start() {
  {
    MutexLock lock(mutex_);
    stopping_ = false;
  }
  thread_ = Thread("throughput", [this] { Run(); });
}

void Throughput::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.Joinable()) thread_.Join();
}

OpsSample Throughput::Now() const {
  OpsSample sample;
  sample.at = clock_.Uptime();
  for (size_t i = 0; i < cluster_.size(); ++i) {
    sample.done.push_back(cluster_.OpsDone(i));
    sample.in_flight.push_back(cluster_.InFlight(i));
  }
  return sample;
}

void Throughput::Run() {
  for (;;) {
    OpsSample sample = Now();
    MutexLock lock(mutex_);
    if (stopping_) return;
    samples_.push_back(std::move(sample));
    while (samples_.size() > kSamplesPerWindow * kWindowsKept) samples_.pop_front();
    clock_.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stopping_; }, period_);
  }
}

std::vector<OpsSample> Throughput::Samples() const {
  std::vector<OpsSample> samples;
  OpsSample now = Now();
  MutexLock lock(mutex_);
  samples.assign(samples_.begin(), samples_.end());
  samples.push_back(std::move(now));
  return samples;
}

std::optional<OpsWindow> Throughput::Baseline() const { return SteadyEnd(Samples(), window_); }

std::optional<OpsWindow> Throughput::Live() const {
  const std::vector<OpsSample> samples = Samples();
  return WindowOf(LastStretch(samples, window_));
}

FloorKeeper::FloorKeeper(double floor, double expected) : floor_(floor) {
  // The duty at which the forecast's loss is just allowed, less a little.
  const double loss = std::max(1e-6, 1 - expected);
  duty_ = std::clamp(0.8 * (1 - floor) / loss, kDutyMin, 1.0);
}

absl::Duration FloorKeeper::Pause(double live, double overall, absl::Duration took) {
  const double seen = std::min(live, overall);
  const double goal = floor_ + kFloorMargin * (1 - floor_);
  // Down at once, up with care: the floor is a promise, speed is not.
  if (seen < goal) {
    duty_ = std::max(kDutyMin, duty_ * 0.7);
  } else if (seen > goal + kFloorMargin) {
    duty_ = std::min(1.0, duty_ * 1.1);
  }
  return took * (1 / duty_ - 1);
}

}  // namespace hsm
