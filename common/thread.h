#pragma once
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "common/mutex.h"

namespace hsm {

// A named thread, owned and joined by the class that runs the loop. Under a simulated scheduler
// (common/mutex.h) it is one of that scheduler's threads. The body must end by itself soon after its owner
// asked it to; the destructor joins.
class Thread {
 public:
  Thread() = default;
  Thread(std::string name, std::function<void()> body);
  Thread(Thread&& other) { *this = std::move(other); }
  Thread& operator=(Thread&& other);
  ~Thread();
  void Join();
  bool Joinable() const { return thread_.joinable() || simulated_ != nullptr; }

 private:
  std::thread thread_;
  SchedulerHooks* scheduler_ = nullptr;
  void* simulated_ = nullptr;
};

}  // namespace hsm
