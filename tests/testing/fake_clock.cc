#include "tests/testing/fake_clock.h"

namespace hsm::testing {

absl::Time FakeClock::Now() const {
  MutexLock lock(mutex_);
  return now_;
}

absl::Duration FakeClock::Uptime() const {
  MutexLock lock(mutex_);
  return uptime_;
}

bool FakeClock::Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
                      absl::Duration timeout) {
  absl::Duration end = Uptime() + timeout;
  ++waiters_;
  bool came;
  while (!(came = ready()) && Uptime() < end) changed.WaitFor(mutex, absl::Milliseconds(1));
  --waiters_;
  return came;
}

void FakeClock::Advance(absl::Duration by) {
  MutexLock lock(mutex_);
  now_ += by;
  uptime_ += by;
}

void FakeClock::JumpWallClock(absl::Duration by) {
  MutexLock lock(mutex_);
  now_ += by;
}

}  // namespace hsm::testing
