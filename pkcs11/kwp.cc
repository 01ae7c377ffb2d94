#include "pkcs11/kwp.h"

#include "common/error.h"
#include "common/status_macros.h"

namespace hsm::pkcs11 {
namespace {

// A 256-bit key under a 256-bit KEK and what RFC 5649 makes of them (tests/contract compares it with
// OpenSSL).
constexpr uint8_t kKek[32] = {0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a,
                              0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25,
                              0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f};
constexpr uint8_t kKey[32] = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
                              0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5,
                              0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff};
constexpr uint8_t kWrapped[40] = {0x3c, 0x76, 0x13, 0x69, 0x4d, 0x46, 0xc3, 0x03, 0xc7, 0xd7,
                                  0x8d, 0x2b, 0x72, 0x14, 0xd8, 0x83, 0x8d, 0xd8, 0xac, 0x40,
                                  0x0e, 0x6b, 0x4c, 0x55, 0x4e, 0x84, 0xf8, 0x5c, 0x9d, 0xfd,
                                  0x13, 0xb8, 0x46, 0x62, 0x58, 0xd8, 0x08, 0x78, 0x9b, 0xf0};

Template SecretKey(ByteView value, bool wraps) {
  return Template()
      .Ulong(CKA_CLASS, CKO_SECRET_KEY)
      .Ulong(CKA_KEY_TYPE, CKK_AES)
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_PRIVATE, false)
      .Bool(CKA_SENSITIVE, true)
      .Bool(CKA_EXTRACTABLE, true)
      .Bool(CKA_WRAP, wraps)
      .Bool(CKA_UNWRAP, false)
      .Bool(CKA_ENCRYPT, false)
      .Bool(CKA_DECRYPT, false)
      .Text(CKA_LABEL, "qhsm:probe:kwp")
      .Data(CKA_VALUE, value);
}

}  // namespace

absl::StatusOr<CK_MECHANISM_TYPE> FindKwpMechanism(Session& session, CK_MECHANISM_TYPE configured) {
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE kek, session.CreateObject(SecretKey(kKek, true)));
  auto key = session.CreateObject(SecretKey(kKey, false));
  std::vector<CK_MECHANISM_TYPE> candidates = {CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD};
  if (configured != 0) candidates = {configured};
  absl::StatusOr<CK_MECHANISM_TYPE> found =
      Error(v1::REASON_UNSUPPORTED, "the token has no mechanism that wraps as RFC 5649 says");
  if (key.ok()) {
    for (CK_MECHANISM_TYPE candidate : candidates) {
      auto wrapped = session.Wrap(Mechanism::Plain(candidate), kek, *key);
      if (wrapped.ok() && EqualConstantTime(*wrapped, kWrapped)) {
        found = candidate;
        break;
      }
    }
    (void)session.DestroyObject(*key);
  }
  (void)session.DestroyObject(kek);
  HSM_RETURN_IF_ERROR(key.status());
  return found;
}

}  // namespace hsm::pkcs11
