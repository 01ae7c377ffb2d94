#pragma once
#include <atomic>

#include "common/clock.h"

namespace hsm::testing {

// A clock that stands still until it is told to move, for unit tests with real threads or none. Thread-safe.
// Await looks again each real millisecond, so that Advance needs to know nothing about who waits.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::FromUnixSeconds(1'800'000'000),
                     absl::Duration uptime = absl::Hours(1))
      : now_(now), uptime_(uptime) {}

  absl::Time Now() const override;
  absl::Duration Uptime() const override;
  bool Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
             absl::Duration timeout) override HSM_REQUIRES(mutex);

  void Advance(absl::Duration by);                    // both times
  void JumpWallClock(absl::Duration by);              // Now only, also backwards
  size_t waiters() const { return waiters_.load(); }  // calls that are inside Await

 private:
  mutable Mutex mutex_;
  absl::Time now_ HSM_GUARDED_BY(mutex_);
  absl::Duration uptime_ HSM_GUARDED_BY(mutex_);
  std::atomic<size_t> waiters_{0};
};

}  // namespace hsm::testing
