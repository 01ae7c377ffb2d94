#pragma once
#include "absl/time/time.h"
#include "common/ids.h"

namespace hsm {

// The authenticated identity behind a request, and what travels with the request.
struct Caller {
  PrincipalId principal;
  uint64_t correlation = 0;                    // same in the caller's log and in the audit
  absl::Duration timeout = absl::Seconds(30);  // what is left of the caller's deadline
};

}  // namespace hsm
