#include "coordinator/barrier.h"

#include <algorithm>

#include "common/mutant.h"

namespace hsm {

BarrierVerdict JudgeBarrier(std::span<const BarrierPart> parts, absl::Duration now) {
  BarrierVerdict verdict;
  verdict.holds = true;
  bool only_leases = true;
  absl::Duration latest = now;
  for (const BarrierPart& part : parts) {
    if (part.taken) {
      ++verdict.taken;
    } else if (!part.missed || !part.lease_until.has_value()) {
      verdict.holds = false;
      only_leases = false;
    } else if (*part.lease_until > now) {
      verdict.holds = false;
      latest = std::max(latest, *part.lease_until);
    }
  }
  if (!verdict.holds && only_leases) verdict.wait_until = latest;
  if (HSM_MUTANT("barrier-by-majority") && verdict.taken * 2 > parts.size()) verdict.holds = true;
  return verdict;
}

}  // namespace hsm
