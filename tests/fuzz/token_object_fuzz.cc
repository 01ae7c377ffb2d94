// SoftHSM's token.object, which a kill may have cut off anywhere.
#include "pkcs11/softhsm_files.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {

void TokenObject(ByteView input) { (void)pkcs11::IsCompleteTokenObject(ToString(input)); }

}  // namespace hsm::fuzz
