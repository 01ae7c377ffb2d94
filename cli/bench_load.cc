#include "cli/bench_load.h"

#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "common/thread.h"

namespace hsm::cli {
namespace {

int64_t NowUs() { return absl::ToInt64Microseconds(RealClock().Uptime()); }

void Count(const absl::Status& status, int64_t latency_us, LoadResult& result) {
  if (IsUncounted(status)) return;
  if (status.ok()) {
    ++result.operations;
    result.latency_us.Record(latency_us);
  } else {
    ++result.errors;
    ++result.errors_by_reason[std::string(ReasonName(ReasonOf(status)))];
  }
}

void SleepUntil(int64_t at_us) {
  timespec at{at_us / 1'000'000, (at_us % 1'000'000) * 1000};
  while (clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &at, nullptr) == EINTR) {
  }
}

// When each operation is meant to start, in microseconds from the beginning.
std::vector<int64_t> Schedule(double rate, absl::Duration time, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::exponential_distribution<double> gap(rate);
  std::vector<int64_t> starts;
  double seconds = absl::ToDoubleSeconds(time);
  for (double at = gap(engine); at < seconds; at += gap(engine))
    starts.push_back(static_cast<int64_t>(at * 1e6));
  return starts;
}

}  // namespace

absl::Status Uncounted() { return absl::AbortedError("uncounted"); }
bool IsUncounted(const absl::Status& status) {
  return status.code() == absl::StatusCode::kAborted && std::string(status.message()) == "uncounted";
}

void LoadResult::Merge(const LoadResult& other) {
  operations += other.operations;
  errors += other.errors;
  for (const auto& [reason, count] : other.errors_by_reason) errors_by_reason[reason] += count;
  seconds = std::max(seconds, other.seconds);
  latency_us.Merge(other.latency_us);
  lag_us_max = std::max(lag_us_max, other.lag_us_max);
}

LoadResult RunClosedLoop(uint32_t callers, absl::Duration time, const Operation& operation) {
  std::vector<LoadResult> results(callers);
  int64_t start = NowUs(), end = start + absl::ToInt64Microseconds(time);
  auto loop = [&](uint32_t caller) {
    LoadResult& mine = results[caller];
    for (int64_t before = NowUs(); before < end;) {
      absl::Status status = operation(caller);
      int64_t after = NowUs();
      Count(status, after - before, mine);
      before = after;
    }
  };
  if (callers == 1) {
    loop(0);
  } else {
    std::vector<Thread> threads;
    for (uint32_t i = 0; i < callers; ++i) threads.emplace_back("caller", [&loop, i] { loop(i); });
  }
  LoadResult all;
  for (const LoadResult& result : results) all.Merge(result);
  all.seconds = static_cast<double>(NowUs() - start) / 1e6;
  return all;
}

LoadResult RunOpenLoop(double rate, uint32_t workers, absl::Duration time, uint64_t seed,
                       const Operation& operation) {
  const std::vector<int64_t> starts = Schedule(rate, time, seed);
  std::vector<LoadResult> results(workers);
  std::atomic<size_t> next{0};
  int64_t begin = NowUs() + 10'000;
  auto loop = [&](uint32_t worker) {
    prctl(PR_SET_TIMERSLACK, 1000);  // ns
    LoadResult& mine = results[worker];
    for (size_t i; (i = next.fetch_add(1)) < starts.size();) {
      int64_t intended = begin + starts[i];
      bool slept = NowUs() < intended;
      if (slept) SleepUntil(intended);
      if (slept) mine.lag_us_max = std::max(mine.lag_us_max, NowUs() - intended);
      absl::Status status = operation(worker);
      Count(status, NowUs() - intended, mine);
    }
  };
  {
    std::vector<Thread> threads;
    for (uint32_t i = 0; i < workers; ++i) threads.emplace_back("worker", [&loop, i] { loop(i); });
  }
  LoadResult all;
  for (const LoadResult& result : results) all.Merge(result);
  all.seconds = static_cast<double>(NowUs() - begin) / 1e6;
  return all;
}

}  // namespace hsm::cli
