// Configuration files: the TOML layer by itself, and each program's loader above it.
#include "common/config.h"

#include "coordinator/config.h"
#include "node/config.h"
#include "node/profile.h"
#include "tests/fuzz/targets.h"
#include "tests/fuzz/temporary_file.h"

namespace hsm::fuzz {

void ConfigFile(ByteView input) {
  auto config = Config::Parse(StringView(input), "fuzz.toml", "/");
  if (!config.ok()) return;  // the loaders begin the same way
  (void)config->Finish();
  const std::string path = PutInFile("config.toml", input);
  (void)LoadCoordinatorConfig(path);
  (void)NodeConfig::Load(path);
  (void)DeviceProfile::Load(path);
}

}  // namespace hsm::fuzz
