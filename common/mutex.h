#pragma once
// std::mutex with clang's thread-safety attributes, and a condition variable that a simulated scheduler can
// take over. Rule: a Mutex is never held across an RPC, a token call, a store call or any other seam.
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>

#include "absl/time/time.h"

#if defined(__clang__)
#define HSM_ATTRIBUTE(x) __attribute__((x))
#else
#define HSM_ATTRIBUTE(x)
#endif
#define HSM_CAPABILITY(x) HSM_ATTRIBUTE(capability(x))
#define HSM_SCOPED_CAPABILITY HSM_ATTRIBUTE(scoped_lockable)
#define HSM_GUARDED_BY(x) HSM_ATTRIBUTE(guarded_by(x))
#define HSM_REQUIRES(...) HSM_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define HSM_ACQUIRE(...) HSM_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define HSM_RELEASE(...) HSM_ATTRIBUTE(release_capability(__VA_ARGS__))
#define HSM_EXCLUDES(...) HSM_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define HSM_NO_ANALYSIS HSM_ATTRIBUTE(no_thread_safety_analysis)

namespace hsm {

// What a simulated scheduler implements for the threads it owns; null everywhere else. See tests/testing.
class SchedulerHooks {
 public:
  virtual ~SchedulerHooks() = default;
  // Lets other threads run until `ready` may hold or `timeout` has passed on the simulated clock. Called
  // without locks.
  virtual void Block(const void* channel, absl::Duration timeout) = 0;
  virtual void Wake(const void* channel) = 0;
  virtual void Yield() = 0;  // at a seam: any other thread may run here
  // Starts `body` as a simulated thread; Join blocks the caller until it ended.
  virtual void* Start(const char* name, std::function<void()> body) = 0;
  virtual void Join(void* thread) = 0;
  // A Mutex was taken, is wanted but held by another simulated thread (which breaks the rule above), was let
  // go (a switch point: another thread may run before the caller goes on).
  virtual void Acquired(const void* /*mutex*/) {}
  virtual void Contended(const void* /*mutex*/) { Yield(); }
  virtual void Released(const void* /*mutex*/) {}
};
// Of the calling thread; set by a simulated scheduler on the threads it makes.
extern constinit thread_local SchedulerHooks* current_scheduler;
inline SchedulerHooks* CurrentScheduler() { return current_scheduler; }
void SetCurrentScheduler(SchedulerHooks* hooks);

class HSM_CAPABILITY("mutex") Mutex {
 public:
  void Lock() HSM_ACQUIRE() {
    if (CurrentScheduler() == nullptr) {
      mutex_.lock();
    } else {
      LockSimulated();
    }
  }
  void Unlock() HSM_RELEASE() {
    mutex_.unlock();
    if (SchedulerHooks* scheduler = CurrentScheduler()) scheduler->Released(this);
  }

 private:
  friend class CondVar;
  void LockSimulated();
  std::mutex mutex_;
};

class HSM_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) HSM_ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() HSM_RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class CondVar {
 public:
  // Waits until notified (or spuriously). Loop on the condition.
  void Wait(Mutex& mutex) HSM_REQUIRES(mutex);
  // Real time, or simulated time under a scheduler. Returns false when `timeout` passed.
  bool WaitFor(Mutex& mutex, absl::Duration timeout) HSM_REQUIRES(mutex);
  void NotifyAll();
  void NotifyOne();  // when any of the waiting threads will do

 private:
  std::condition_variable changed_;
};

}  // namespace hsm
