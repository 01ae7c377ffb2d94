#pragma once
// A sponsoring needs a fresh process and may need an SO PIN that an officer sent. The PIN goes from one to
// the other through an inherited pipe: it is never on a disk, in the environment or on a command line.
#include "absl/status/status.h"
#include "common/secret.h"

namespace hsm {

// Replaces this process by itself with the same arguments; the caller has shut everything down. Returns only
// on failure.
absl::Status RestartWithSoPin(const SecretBytes& so_pin, char** arguments);
// What RestartWithSoPin left for this process; empty if nothing. Once.
SecretBytes TakeInheritedSoPin();

}  // namespace hsm
