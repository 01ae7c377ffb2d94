#include "pkcs11/rv.h"

#include <fmt/format.h>

#include "common/error.h"

namespace hsm::pkcs11 {
namespace {

struct Row {
  CK_RV rv;
  RvClass klass;
  const char* name;
};
#define ROW(name, klass) {name, RvClass::klass, #name}

constexpr Row kRows[] = {
    ROW(CKR_SESSION_HANDLE_INVALID, kSession),
    ROW(CKR_SESSION_CLOSED, kSession),
    ROW(CKR_OPERATION_ACTIVE, kSession),
    ROW(CKR_OPERATION_NOT_INITIALIZED, kSession),
    ROW(CKR_OBJECT_HANDLE_INVALID, kHandle),
    ROW(CKR_KEY_HANDLE_INVALID, kHandle),
    ROW(CKR_UNWRAPPING_KEY_HANDLE_INVALID, kHandle),
    ROW(CKR_WRAPPING_KEY_HANDLE_INVALID, kHandle),
    ROW(CKR_USER_NOT_LOGGED_IN, kLogin),
    ROW(CKR_PIN_INCORRECT, kPin),
    ROW(CKR_PIN_LOCKED, kPin),
    ROW(CKR_PIN_EXPIRED, kPin),
    ROW(CKR_PIN_INVALID, kPin),
    ROW(CKR_PIN_LEN_RANGE, kPin),
    ROW(CKR_SESSION_COUNT, kCapacity),
    ROW(CKR_DEVICE_MEMORY, kCapacity),
    ROW(CKR_HOST_MEMORY, kCapacity),
    ROW(CKR_DEVICE_ERROR, kDevice),
    ROW(CKR_DEVICE_REMOVED, kDevice),
    ROW(CKR_TOKEN_NOT_PRESENT, kDevice),
    ROW(CKR_TOKEN_NOT_RECOGNIZED, kDevice),
    ROW(CKR_CRYPTOKI_NOT_INITIALIZED, kDevice),
    ROW(CKR_GENERAL_ERROR, kAmbiguous),
    ROW(CKR_FUNCTION_FAILED, kAmbiguous),
    ROW(CKR_MECHANISM_INVALID, kUnsupported),
    ROW(CKR_MECHANISM_PARAM_INVALID, kUnsupported),
    ROW(CKR_FUNCTION_NOT_SUPPORTED, kUnsupported),
    ROW(CKR_KEY_SIZE_RANGE, kUnsupported),
    ROW(CKR_KEY_NOT_WRAPPABLE, kUnsupported),
    ROW(CKR_DOMAIN_PARAMS_INVALID, kUnsupported),
    ROW(CKR_CURVE_NOT_SUPPORTED, kUnsupported),
    ROW(CKR_KEY_UNEXTRACTABLE, kNotAllowed),
    ROW(CKR_KEY_FUNCTION_NOT_PERMITTED, kNotAllowed),
    ROW(CKR_KEY_TYPE_INCONSISTENT, kNotAllowed),
    ROW(CKR_ACTION_PROHIBITED, kNotAllowed),
    ROW(CKR_ATTRIBUTE_SENSITIVE, kNotAllowed),
    ROW(CKR_ENCRYPTED_DATA_INVALID, kBadInput),
    ROW(CKR_ENCRYPTED_DATA_LEN_RANGE, kBadInput),
    ROW(CKR_AEAD_DECRYPT_FAILED, kBadInput),
    ROW(CKR_WRAPPED_KEY_INVALID, kBadInput),
    ROW(CKR_WRAPPED_KEY_LEN_RANGE, kBadInput),
    ROW(CKR_DATA_INVALID, kBadInput),
    ROW(CKR_DATA_LEN_RANGE, kBadInput),
    ROW(CKR_ARGUMENTS_BAD, kRequest),
    ROW(CKR_ATTRIBUTE_READ_ONLY, kRequest),
    ROW(CKR_ATTRIBUTE_TYPE_INVALID, kRequest),
    ROW(CKR_ATTRIBUTE_VALUE_INVALID, kRequest),
    ROW(CKR_BUFFER_TOO_SMALL, kRequest),
    ROW(CKR_TEMPLATE_INCOMPLETE, kRequest),
    ROW(CKR_TEMPLATE_INCONSISTENT, kRequest),
    ROW(CKR_USER_ALREADY_LOGGED_IN, kRequest),
    ROW(CKR_USER_ANOTHER_ALREADY_LOGGED_IN, kRequest),
    ROW(CKR_SESSION_READ_ONLY_EXISTS, kRequest),
    ROW(CKR_SESSION_READ_ONLY, kRequest),
    ROW(CKR_TOKEN_WRITE_PROTECTED, kRequest),
    ROW(CKR_SLOT_ID_INVALID, kRequest),
    ROW(CKR_USER_PIN_NOT_INITIALIZED, kRequest),
    ROW(CKR_CRYPTOKI_ALREADY_INITIALIZED, kRequest),
    ROW(CKR_SIGNATURE_INVALID, kRequest),
    ROW(CKR_SIGNATURE_LEN_RANGE, kRequest),
};
#undef ROW

const Row* Find(CK_RV rv) {
  for (const Row& row : kRows)
    if (row.rv == rv) return &row;
  return nullptr;
}

v1::Reason ReasonFor(RvClass klass, Input input) {
  const bool foreign = input != Input::kOwn;
  switch (klass) {
    case RvClass::kSession:
    case RvClass::kHandle:
      return v1::REASON_TOKEN_SESSION;
    case RvClass::kPin:
      return v1::REASON_PIN_INCORRECT;
    case RvClass::kCapacity:
      return v1::REASON_TOKEN_CAPACITY;
    case RvClass::kUnsupported:
      return v1::REASON_UNSUPPORTED;
    case RvClass::kNotAllowed:
      return v1::REASON_OPERATION_NOT_ALLOWED;
    case RvClass::kBadInput:
    case RvClass::kAmbiguous:
      if (!foreign) return v1::REASON_TOKEN_FAILED;
      return input == Input::kWrappedKey ? v1::REASON_RECORD_CORRUPT : v1::REASON_DECRYPTION_FAILED;
    default:
      return v1::REASON_TOKEN_FAILED;
  }
}

}  // namespace

RvClass ClassOf(CK_RV rv) {
  if (rv == CKR_OK) return RvClass::kOk;
  const Row* row = Find(rv);
  return row != nullptr ? row->klass : RvClass::kRequest;
}

std::string RvName(CK_RV rv) {
  if (rv == CKR_OK) return "CKR_OK";
  const Row* row = Find(rv);
  return row != nullptr ? row->name : fmt::format("CKR {:#x}", rv);
}

absl::Status FromRv(CK_RV rv, const char* function, Input input) {
  if (rv == CKR_OK) return absl::OkStatus();
  return TokenError(ReasonFor(ClassOf(rv), input), rv, fmt::format("{} ({})", function, RvName(rv)));
}

CK_RV RvOf(const absl::Status& status) { return static_cast<CK_RV>(DetailOf(status).token_rv()); }

}  // namespace hsm::pkcs11
