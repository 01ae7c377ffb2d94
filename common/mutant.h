#pragma once
// Seeded bugs. A build with HSM_MUTANTS has all of them, each off until QHSM_MUTANT names it (or a test calls
// SelectMutant); any other build has none: the macro is the constant false. tests/sim shows that each is
// found. Write `if (!HSM_MUTANT("skip-proof")) { ...check... }`; the name goes into tests/sim/mutants.txt
// with what finds it.
#include <string_view>

namespace hsm {
#ifdef HSM_MUTANTS
bool MutantSelected(std::string_view name);
void SelectMutant(std::string_view name);  // "" = none
#define HSM_MUTANT(name) ::hsm::MutantSelected(name)
#else
#define HSM_MUTANT(name) false
#endif
}  // namespace hsm
