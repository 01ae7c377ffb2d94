#include "common/worker_pool.h"

#include <utility>

namespace hsm {

bool WorkerPool::Submit(std::function<void()> task) {
  MutexLock lock(mutex_);
  if (stopping_ || queue_.size() >= queue_max_) return false;
  queue_.push_back(std::move(task));
  if (idle_ >= queue_.size()) {
    changed_.NotifyOne();
  } else if (threads_.size() < threads_max_) {
    threads_.emplace_back(name_, [this] { Work(); });
  }
  return true;
}

void WorkerPool::Work() {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(mutex_);
      ++idle_;
      while (queue_.empty() && !stopping_) changed_.Wait(mutex_);
      --idle_;
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

void WorkerPool::Stop() {
  std::vector<Thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
    threads.swap(threads_);
  }
  for (Thread& thread : threads) thread.Join();
}

}  // namespace hsm
