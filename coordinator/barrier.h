#pragma once
// When a revocation may be acknowledged. Pure.
#include <optional>
#include <span>

#include "absl/time/time.h"

namespace hsm {

struct BarrierPart {    // one partition
  bool taken = false;   // has the message durably
  bool missed = false;  // will not take it any more; gets no new lease before it is synced
  std::optional<absl::Duration>
      lease_until;  // of a partition that missed it: end of the last lease it was granted
};
struct BarrierVerdict {
  bool holds = false;
  uint32_t taken = 0;
  std::optional<absl::Duration> wait_until;  // when it will hold, if only leases stand in the way
};
BarrierVerdict JudgeBarrier(std::span<const BarrierPart> parts, absl::Duration now);

}  // namespace hsm
