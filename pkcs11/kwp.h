#pragma once
// Which mechanism id means RFC 5649 on this token: 0x210A on SoftHSM, 0x210B on others, vendor ids elsewhere.
// The same id means PKCS#7 padding under RFC 3394 on NSS, so it is found by trying, never by id or version.
#include "absl/status/statusor.h"
#include "pkcs11/session.h"

namespace hsm::pkcs11 {

// Wraps a known key under a known key, both throw-away session objects, and compares with RFC 5649.
// `configured` != 0 is the only candidate then. UNSUPPORTED if none fits.
absl::StatusOr<CK_MECHANISM_TYPE> FindKwpMechanism(Session& session, CK_MECHANISM_TYPE configured);

}  // namespace hsm::pkcs11
