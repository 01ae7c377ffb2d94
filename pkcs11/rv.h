#pragma once
// CK_RV -> absl::Status, by what a driver can do about it. Spec: PKCS#11 v2.40 base, section 5.1.
#include <string>

#include "absl/status/status.h"
#include "pkcs11/cryptoki.h"

namespace hsm::pkcs11 {

enum class RvClass {
  kOk,
  kSession,      // this session is lost or holds an operation: open another, retry once
  kHandle,       // the object is gone: find or unwrap it again, retry once
  kLogin,        // the token forgot that we are logged in
  kPin,          // stop at once: real tokens lock after three tries
  kCapacity,     // sessions or memory used up
  kDevice,       // the token or the way to it is broken
  kAmbiguous,    // GENERAL_ERROR and FUNCTION_FAILED: bad input on one module, a dead device on another
  kUnsupported,  // this token cannot do it
  kNotAllowed,   // attributes of the object forbid it
  kBadInput,     // ciphertext, tag, padding or wrapped key does not open
  kRequest,      // everything else: our mistake
};
RvClass ClassOf(CK_RV rv);
std::string RvName(CK_RV rv);  // "CKR_PIN_INCORRECT", else "CKR 0x..."

// What the call does with foreign bytes decides what kBadInput and kAmbiguous mean.
enum class Input { kOwn, kCiphertext, kWrappedKey };
absl::Status FromRv(CK_RV rv, const char* function, Input input = Input::kOwn);

// The CK_RV a status carries; CKR_OK if none.
CK_RV RvOf(const absl::Status& status);

}  // namespace hsm::pkcs11
