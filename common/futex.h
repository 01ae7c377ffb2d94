#pragma once
// Waiting on one word, without the spinning of std::atomic::wait: on a busy processor its turns of
// sched_yield cost more than the operation that is waited for. Linux only.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace hsm {

// Returns when `word` may not be `value` any more; also now and then without a reason, so loop on the
// condition.
inline void FutexWait(const std::atomic<int>& word, int value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
// Only uses the address: the word itself may be gone, if whoever waited has seen the new value.
inline void FutexWakeOne(const std::atomic<int>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace hsm
