#pragma once
#include <functional>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace hsm {

// The seam of time. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;  // wall time: timestamps and retention dates only
  // Monotonic and counts suspend (CLOCK_BOOTTIME): for leases, deadlines and backoff.
  virtual absl::Duration Uptime() const = 0;
  // Waits until `ready` holds or `timeout` passes on this clock; returns whether `ready` holds. `changed`
  // must be notified under `mutex` whenever `ready` may have become true.
  virtual bool Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
                     absl::Duration timeout) HSM_REQUIRES(mutex) = 0;
};

Clock& RealClock();

// A point in time by which something must end, on one clock.
class Deadline {
 public:
  Deadline(const Clock& clock, absl::Duration timeout) : clock_(&clock), at_(clock.Uptime() + timeout) {}
  absl::Duration Left() const { return at_ - clock_->Uptime(); }
  bool Passed() const { return Left() <= absl::ZeroDuration(); }

 private:
  const Clock* clock_;
  absl::Duration at_;
};

}  // namespace hsm
