#include "common/thread.h"

#include <pthread.h>

#include <utility>

#include "common/check.h"

namespace hsm {

Thread::Thread(std::string name, std::function<void()> body) {
  if (SchedulerHooks* scheduler = CurrentScheduler()) {
    scheduler_ = scheduler;
    simulated_ = scheduler->Start(name.c_str(), std::move(body));
    return;
  }
  thread_ = std::thread([name = name.substr(0, 15), body = std::move(body)] {
    pthread_setname_np(pthread_self(), name.c_str());
    body();
  });
}

Thread& Thread::operator=(Thread&& other) {
  HSM_CHECK(!Joinable());
  thread_ = std::move(other.thread_);
  scheduler_ = std::exchange(other.scheduler_, nullptr);
  simulated_ = std::exchange(other.simulated_, nullptr);
  return *this;
}

Thread::~Thread() { Join(); }

void Thread::Join() {
  if (simulated_ != nullptr) scheduler_->Join(std::exchange(simulated_, nullptr));
  if (thread_.joinable()) thread_.join();
}

}  // namespace hsm
