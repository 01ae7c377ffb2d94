#pragma once
// Time that purges wait for: seconds since 1970 UTC that never run faster than the uptime of the machines
// that witness it. A wall clock that jumps, forward or back, changes nothing; time nobody witnessed is
// missing, so that what waits for it comes later, never earlier. Not thread-safe.
#include <cstdint>
#include <map>
#include <string>

#include "absl/time/time.h"

namespace hsm {

class WitnessedTime {
 public:
  using Uptimes = std::map<std::string, absl::Duration>;  // by machine

  // `seconds`: what it was when `own`, this machine's uptime, was read.
  WitnessedTime(int64_t seconds, absl::Duration own);

  // Adds what this machine and the median of `others` have both lived through since they were heard before. A
  // machine that is new, or has restarted, counts from now on. Returns the new value.
  int64_t Advance(absl::Duration own, const Uptimes& others);
  // Adds what the median of `now` has lived through since `then`, when nobody counted. A machine that has
  // restarted since has lived for its uptime at least. Machines that are not in both do not count.
  void Resume(const Uptimes& then, const Uptimes& now);
  // What this machine has lived through and the others have not confirmed yet.
  absl::Duration Unconfirmed(absl::Duration own) const { return own - own_; }
  int64_t seconds() const { return absl::ToUnixSeconds(witnessed_); }

 private:
  absl::Time witnessed_;
  absl::Duration own_;  // uptime that has been counted
  Uptimes others_;      // the same of each machine
};

}  // namespace hsm
