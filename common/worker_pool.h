#pragma once
// Threads for calls that block, behind a bounded queue. Threads start when there is work for them, up to a
// bound, and stay. Thread-safe.
#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/thread.h"

namespace hsm {

class WorkerPool {
 public:
  WorkerPool(std::string name, size_t threads_max, size_t queue_max)
      : name_(std::move(name)), threads_max_(threads_max), queue_max_(queue_max) {}
  WorkerPool(const WorkerPool&) = delete;
  ~WorkerPool() { Stop(); }

  // Has `task` done by one of the threads, in the order of submission. False, and nothing happens, when
  // queue_max tasks wait or the pool was stopped.
  bool Submit(std::function<void()> task);
  // Runs what waits, then ends. Not from a task.
  void Stop();

 private:
  void Work();

  const std::string name_;
  const size_t threads_max_, queue_max_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ HSM_GUARDED_BY(mutex_);
  size_t idle_ HSM_GUARDED_BY(mutex_) = 0;
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  std::vector<Thread> threads_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
