#pragma once
// How many times as long everything may take in this build; what a test promises about time is multiplied by
// it.

namespace hsm::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kSlowdown = 6;
#else
inline constexpr int kSlowdown = 1;
#endif

}  // namespace hsm::testing
