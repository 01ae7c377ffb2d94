#pragma once
// Tokens are found by label or serial. Slot numbers change (SoftHSM derives them from the serial at
// initialisation).
#include <string>

#include "absl/status/statusor.h"
#include "pkcs11/library.h"

namespace hsm::pkcs11 {

struct TokenInfo {
  CK_SLOT_ID slot = 0;
  std::string label, manufacturer, model, serial;
  CK_FLAGS flags = 0;
  bool IsSoftHsm() const { return manufacturer == "SoftHSM project"; }
};

absl::StatusOr<TokenInfo> ReadTokenInfo(const Library& library, CK_SLOT_ID slot);

// The one initialised token with this label and serial (empty = any). NOT_FOUND; CONFIG_INVALID if several
// match.
absl::StatusOr<TokenInfo> FindToken(const Library& library, const std::string& label,
                                    const std::string& serial);

// A slot whose token is not initialised. NOT_FOUND.
absl::StatusOr<CK_SLOT_ID> FindUninitializedSlot(const Library& library);

}  // namespace hsm::pkcs11
