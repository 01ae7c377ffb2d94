#pragma once

namespace hsm {
// Prints where and what, then aborts. A broken invariant is a bug: a process that stops is safe, one that
// guesses is not.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);
}  // namespace hsm

#define HSM_CHECK(condition) \
  (static_cast<bool>(condition) ? static_cast<void>(0) : ::hsm::CheckFailed(__FILE__, __LINE__, #condition))
