#pragma once

namespace hsm {

// No core files and no tracing by others of the same user, for processes that see PINs or what callers send;
// and no death by a closed connection. Never a reason not to start.
void HardenProcess();

}  // namespace hsm
