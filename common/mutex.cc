#include "common/mutex.h"

namespace hsm {
namespace {
thread_local SchedulerHooks* current = nullptr;
}  // namespace

SchedulerHooks* CurrentScheduler() { return current; }
void SetCurrentScheduler(SchedulerHooks* hooks) { current = hooks; }

void CondVar::Wait(Mutex& mutex) HSM_NO_ANALYSIS {
  if (current != nullptr) {
    mutex.Unlock();
    current->Block(this, absl::InfiniteDuration());
    mutex.Lock();
    return;
  }
  std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
  changed_.wait(lock);
  lock.release();
}

bool CondVar::WaitFor(Mutex& mutex, absl::Duration timeout) HSM_NO_ANALYSIS {
  if (current != nullptr) {
    mutex.Unlock();
    current->Block(this, timeout);
    mutex.Lock();
    return true;
  }
  if (timeout == absl::InfiniteDuration()) {
    Wait(mutex);
    return true;
  }
  std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
  bool notified = changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout)) == std::cv_status::no_timeout;
  lock.release();
  return notified;
}

void CondVar::NotifyAll() {
  if (current != nullptr) current->Wake(this);
  changed_.notify_all();
}

}  // namespace hsm
