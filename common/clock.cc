#include "common/clock.h"

#include "absl/time/clock.h"

#include <time.h>

namespace hsm {
namespace {

class SystemClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
  absl::Duration Uptime() const override {
    timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return absl::DurationFromTimespec(now);
  }
  bool Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
             absl::Duration timeout) override HSM_REQUIRES(mutex) {
    absl::Duration end = timeout == absl::InfiniteDuration() ? timeout : Uptime() + timeout;
    while (!ready()) {
      absl::Duration left = end == absl::InfiniteDuration() ? end : end - Uptime();
      if (left <= absl::ZeroDuration()) return false;
      changed.WaitFor(mutex, left);
    }
    return true;
  }
};

}  // namespace

Clock& RealClock() {
  static SystemClock clock;
  return clock;
}

}  // namespace hsm
