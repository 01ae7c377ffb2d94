#include "common/mutant.h"

#ifdef HSM_MUTANTS
#include <cstdlib>
#include <string>

namespace hsm {
namespace {
std::string& Selected() {
  static std::string name = std::getenv("QHSM_MUTANT") != nullptr ? std::getenv("QHSM_MUTANT") : "";
  return name;
}
}  // namespace

bool MutantSelected(std::string_view name) { return Selected() == name; }
void SelectMutant(std::string_view name) { Selected() = name; }
}  // namespace hsm
#endif
