#pragma once
// Waiting in real time, for tests of real threads and processes: the only place where a test sleeps. What
// runs on a FakeClock or a SimScheduler needs none of it.
#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace hsm::testing {

// Looks again every `pause` until `condition` holds; returns at once then. False after `timeout`, which is
// there to end a broken test and is no measure of speed.
inline bool Eventually(const std::function<bool()>& condition, absl::Duration timeout = absl::Seconds(30),
                       absl::Duration pause = absl::Milliseconds(2)) {
  const absl::Time end = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() >= end) return false;
    absl::SleepFor(pause);
  }
  return true;
}

// For tests whose subject is the moment itself: a kill at some time after a start.
inline void PauseFor(absl::Duration duration) { absl::SleepFor(duration); }

}  // namespace hsm::testing
