#pragma once
// Mechanisms that own their parameters. Move-only: CK_MECHANISM points into the object.
#include <variant>

#include "common/bytes.h"
#include "pkcs11/cryptoki.h"

namespace hsm::pkcs11 {

class Mechanism {
 public:
  static Mechanism Plain(CK_MECHANISM_TYPE type);
  static Mechanism Iv(CK_MECHANISM_TYPE type, ByteView iv);           // CBC
  static Mechanism Pss(CK_MECHANISM_TYPE hash, CK_ULONG salt_bytes);  // CKM_RSA_PKCS_PSS over a digest
  static Mechanism Oaep(CK_MECHANISM_TYPE hash);                      // MGF1 with the same hash, no label
  static Mechanism Gcm(ByteView iv, ByteView aad, CK_ULONG tag_bits);
  static Mechanism Bytes(CK_MECHANISM_TYPE type, ByteView parameter);  // EC parameters etc.

  CK_MECHANISM* Get();
  // GCM: the IV after the call; some HSMs ignore the caller's and write their own.
  ByteView UsedIv() const { return iv_; }

 private:
  explicit Mechanism(CK_MECHANISM_TYPE type) : mechanism_{type, nullptr, 0} {}
  CK_MECHANISM mechanism_;
  hsm::Bytes iv_;
  hsm::Bytes aad_;
  std::variant<std::monostate, CK_RSA_PKCS_PSS_PARAMS, CK_RSA_PKCS_OAEP_PARAMS, CK_GCM_PARAMS> parameters_;
};

// The CKG_MGF1_* that belongs to a CKM_SHA*.
CK_RSA_PKCS_MGF_TYPE MgfOf(CK_MECHANISM_TYPE hash);

}  // namespace hsm::pkcs11
