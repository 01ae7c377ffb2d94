// PKCS#11 URIs of node.toml (RFC 7512).
#include "pkcs11/library.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {

void Uri(ByteView input) { (void)pkcs11::ParseTokenUri(ToString(input)); }

}  // namespace hsm::fuzz
