#include "cli/commands.h"

namespace hsm::cli {

void AddBenchCommand(Command&) {}

}  // namespace hsm::cli
