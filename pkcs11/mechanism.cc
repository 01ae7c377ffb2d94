#include "pkcs11/mechanism.h"

#include "common/check.h"

namespace hsm::pkcs11 {

CK_RSA_PKCS_MGF_TYPE MgfOf(CK_MECHANISM_TYPE hash) {
  switch (hash) {
    case CKM_SHA_1:
      return CKG_MGF1_SHA1;
    case CKM_SHA256:
      return CKG_MGF1_SHA256;
    case CKM_SHA384:
      return CKG_MGF1_SHA384;
    case CKM_SHA512:
      return CKG_MGF1_SHA512;
    default:
      break;
  }
  HSM_CHECK(false);
  return 0;
}

Mechanism Mechanism::Plain(CK_MECHANISM_TYPE type) { return Mechanism(type); }

Mechanism Mechanism::Iv(CK_MECHANISM_TYPE type, ByteView iv) { return Bytes(type, iv); }

Mechanism Mechanism::Bytes(CK_MECHANISM_TYPE type, ByteView parameter) {
  Mechanism mechanism(type);
  mechanism.iv_.assign(parameter.begin(), parameter.end());
  return mechanism;
}

Mechanism Mechanism::Pss(CK_MECHANISM_TYPE hash, CK_ULONG salt_bytes) {
  Mechanism mechanism(CKM_RSA_PKCS_PSS);
  mechanism.parameters_ = CK_RSA_PKCS_PSS_PARAMS{hash, MgfOf(hash), salt_bytes};
  return mechanism;
}

Mechanism Mechanism::Oaep(CK_MECHANISM_TYPE hash) {
  Mechanism mechanism(CKM_RSA_PKCS_OAEP);
  mechanism.parameters_ = CK_RSA_PKCS_OAEP_PARAMS{hash, MgfOf(hash), CKZ_DATA_SPECIFIED, nullptr, 0};
  return mechanism;
}

Mechanism Mechanism::Gcm(ByteView iv, ByteView aad, CK_ULONG tag_bits) {
  HSM_CHECK(!iv.empty());
  Mechanism mechanism(CKM_AES_GCM);
  mechanism.iv_.assign(iv.begin(), iv.end());
  mechanism.aad_.assign(aad.begin(), aad.end());
  // ulIvBits is 0 on some callers' hands; NSS refuses that.
  mechanism.parameters_ = CK_GCM_PARAMS{nullptr, iv.size(), iv.size() * 8, nullptr, aad.size(), tag_bits};
  return mechanism;
}

CK_MECHANISM* Mechanism::Get() {
  if (auto* gcm = std::get_if<CK_GCM_PARAMS>(&parameters_)) {
    *gcm = CK_GCM_PARAMS{iv_.data(), iv_.size(), iv_.size() * 8, aad_.data(), aad_.size(), gcm->ulTagBits};
    mechanism_.pParameter = gcm;
    mechanism_.ulParameterLen = sizeof *gcm;
  } else if (auto* pss = std::get_if<CK_RSA_PKCS_PSS_PARAMS>(&parameters_)) {
    mechanism_.pParameter = pss;
    mechanism_.ulParameterLen = sizeof *pss;
  } else if (auto* oaep = std::get_if<CK_RSA_PKCS_OAEP_PARAMS>(&parameters_)) {
    mechanism_.pParameter = oaep;
    mechanism_.ulParameterLen = sizeof *oaep;
  } else {
    mechanism_.pParameter = iv_.empty() ? nullptr : iv_.data();
    mechanism_.ulParameterLen = iv_.size();
  }
  return &mechanism_;
}

}  // namespace hsm::pkcs11
