#include "common/mutex.h"

namespace hsm {

constinit thread_local SchedulerHooks* current_scheduler = nullptr;
void SetCurrentScheduler(SchedulerHooks* hooks) { current_scheduler = hooks; }

void Mutex::LockSimulated() {
  while (!mutex_.try_lock()) CurrentScheduler()->Contended(this);
  CurrentScheduler()->Acquired(this);
}

// Under a scheduler the mutex is let go without Released: nothing may run between that and Block, or a
// wake-up would be lost that no real condition variable loses.
void CondVar::Wait(Mutex& mutex) HSM_NO_ANALYSIS {
  if (SchedulerHooks* scheduler = CurrentScheduler()) {
    mutex.mutex_.unlock();
    scheduler->Block(this, absl::InfiniteDuration());
    mutex.Lock();
    return;
  }
  std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
  changed_.wait(lock);
  lock.release();
}

bool CondVar::WaitFor(Mutex& mutex, absl::Duration timeout) HSM_NO_ANALYSIS {
  if (SchedulerHooks* scheduler = CurrentScheduler()) {
    mutex.mutex_.unlock();
    scheduler->Block(this, timeout);
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
  if (SchedulerHooks* scheduler = CurrentScheduler()) scheduler->Wake(this);
  changed_.notify_all();
}

void CondVar::NotifyOne() {
  if (SchedulerHooks* scheduler = CurrentScheduler()) scheduler->Wake(this);
  changed_.notify_one();
}

}  // namespace hsm
