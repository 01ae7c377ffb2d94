#pragma once
// A PKCS#11 call cannot be cancelled. When one overruns its limit the process says which, and ends: nothing
// durable is lost, the supervisor starts it again, and other partitions serve meanwhile. WatchedToken puts a
// guard around every call.
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "common/clock.h"
#include "common/thread.h"
#include "node/token.h"

namespace hsm {

class Watchdog {
 public:
  inline static constexpr int kExitCode = 76;

  // `overrun` is called once with the name of the call; null = print and _exit(kExitCode).
  Watchdog(Clock& clock, absl::Duration limit, std::function<void(const char*)> overrun = nullptr);
  ~Watchdog();

  // One call, for at most `times` limits (key generation takes longer than a signature).
  class Guard {
   public:
    Guard(Watchdog& watchdog, const char* call, int times = 1);
    Guard(const Guard&) = delete;
    ~Guard();

   private:
    std::atomic<int64_t>* slot_;
  };

 private:
  struct alignas(64) Slot {
    std::atomic<int64_t> ends_ns{0};  // on Clock::Uptime(); 0 = free
    std::atomic<const char*> call{nullptr};
  };
  void WatchLoop();

  Clock& clock_;
  const absl::Duration limit_;
  const std::function<void(const char*)> overrun_;
  std::array<Slot, 256> slots_;
  std::atomic<uint32_t> next_{0};
  Mutex mutex_;
  CondVar changed_;
  bool stop_ HSM_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

// Every call of `inner`, guarded.
std::unique_ptr<Token> WatchToken(Token& inner, Watchdog& watchdog);

}  // namespace hsm
