#include "node/token_templates.h"

#include <fmt/format.h>

#include "common/mutant.h"
#include "node/key_encoding.h"

namespace hsm {
namespace {

using pkcs11::Template;

// All usage off, for any class of key.
Template NoUse() {
  return Template()
      .Bool(CKA_ENCRYPT, false)
      .Bool(CKA_DECRYPT, false)
      .Bool(CKA_SIGN, false)
      .Bool(CKA_VERIFY, false)
      .Bool(CKA_DERIVE, false)
      .Bool(CKA_WRAP, false)
      .Bool(CKA_UNWRAP, false);
}

// Private keys have no ENCRYPT, VERIFY or WRAP to speak of.
Template NoPrivateUse() {
  return Template()
      .Bool(CKA_DECRYPT, false)
      .Bool(CKA_SIGN, false)
      .Bool(CKA_SIGN_RECOVER, false)
      .Bool(CKA_DERIVE, false)
      .Bool(CKA_UNWRAP, false);
}

bool Has(OperationSet operations, v1::KeyOperation operation) { return (operations & Bit(operation)) != 0; }

// What every key made or unwrapped here carries; the first five are the KEKs' UNWRAP_TEMPLATE.
Template SealedKey() {
  return Template()
      .Bool(CKA_SENSITIVE, true)
      .Bool(CKA_WRAP_WITH_TRUSTED, true)
      .Bool(CKA_PRIVATE, true)
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_COPYABLE, false)
      .Bool(CKA_EXTRACTABLE, true);
}

Template RsaTemplate(const ObjectPolicy& policy) {
  std::vector<CK_MECHANISM_TYPE> allowed;
  bool sign = policy.use == KeyUse::kPolicy && Has(policy.operations, v1::KEY_OPERATION_SIGN);
  bool decrypt = policy.use == KeyUse::kPolicy && (Has(policy.operations, v1::KEY_OPERATION_DECRYPT) ||
                                                   Has(policy.operations, v1::KEY_OPERATION_UNWRAP_KEY));
  if (sign) allowed.insert(allowed.end(), {CKM_RSA_PKCS, CKM_RSA_PKCS_PSS});
  // CKM_RSA_X_509: OAEP with a hash that the token lacks is decoded outside, after the private operation
  // inside.
  if (decrypt) allowed.insert(allowed.end(), {CKM_RSA_PKCS_OAEP, CKM_RSA_X_509});
  if (decrypt && !sign) allowed.push_back(CKM_RSA_PKCS);
  if (allowed.empty()) allowed.push_back(CKM_RSA_PKCS_KEY_PAIR_GEN);  // none that can be used
  return NoPrivateUse().Bool(CKA_SIGN, sign).Bool(CKA_DECRYPT, decrypt).Mechanisms(allowed);
}

Template EcTemplate(const ObjectPolicy& policy) {
  bool sign = policy.use == KeyUse::kManifest ||
              (policy.use == KeyUse::kPolicy && Has(policy.operations, v1::KEY_OPERATION_SIGN));
  const CK_MECHANISM_TYPE allowed[] = {sign ? CKM_ECDSA : CKM_EC_KEY_PAIR_GEN};
  return NoPrivateUse().Bool(CKA_SIGN, sign).Mechanisms(allowed);
}

Template OctTemplate(const ObjectPolicy& policy) {
  Template use = NoUse();
  std::vector<CK_MECHANISM_TYPE> allowed;
  switch (policy.use) {
    case KeyUse::kRecordMac:
      use.Bool(CKA_SIGN, true);
      allowed = {CKM_SHA256_HMAC};
      break;
    case KeyUse::kKeyWrap:
      use.Bool(CKA_WRAP, true).Bool(CKA_UNWRAP, true);
      allowed = {CKM_AES_KEY_WRAP};
      break;
    case KeyUse::kPolicy: {
      bool encrypt = Has(policy.operations, v1::KEY_OPERATION_ENCRYPT);
      bool decrypt = Has(policy.operations, v1::KEY_OPERATION_DECRYPT);
      use.Bool(CKA_ENCRYPT, encrypt).Bool(CKA_DECRYPT, decrypt).Bool(CKA_SIGN, true);  // SIGN: proofs by CMAC
      allowed = {CKM_AES_CMAC};
      if (encrypt || decrypt) allowed.insert(allowed.end(), {CKM_AES_GCM, CKM_AES_CBC, CKM_AES_CBC_PAD});
      break;
    }
    default:
      allowed = {CKM_AES_KEY_GEN};
      break;
  }
  return use.Mechanisms(allowed);
}

}  // namespace

std::string DomainTagOf(const HsmId& hsm, uint32_t generation) {
  return fmt::format("{}:{}", hsm.ToHex(), generation);
}

std::string KekLabel(Kek kek, const std::string& domain_tag) {
  return fmt::format("{}{}:{}", kKekLabelPrefix, kek == Kek::kReplication ? "replication" : "backup",
                     domain_tag);
}

Template KekTemplate(Kek kek, const std::string& domain_tag, CK_MECHANISM_TYPE kwp) {
  Template wrap = Template().Bool(CKA_SENSITIVE, true).Bool(CKA_WRAP_WITH_TRUSTED, true);
  // Without UNWRAP=0 a user could wrap the KEK under itself and unwrap it as a key that decrypts.
  if (!HSM_MUTANT("kek-wraps-kek")) wrap.Bool(CKA_UNWRAP, false);
  Template unwrap =
      Template().Bool(CKA_SENSITIVE, true).Bool(CKA_WRAP_WITH_TRUSTED, true).Bool(CKA_PRIVATE, true);
  // Without TOKEN=0 and COPYABLE=0 keys could be left on disk.
  unwrap.Bool(CKA_TOKEN, false);
  if (!HSM_MUTANT("kek-unwraps-copyable")) unwrap.Bool(CKA_COPYABLE, false);
  const CK_MECHANISM_TYPE allowed[] = {kwp};
  return NoUse()
      .Ulong(CKA_CLASS, CKO_SECRET_KEY)
      .Ulong(CKA_KEY_TYPE, CKK_AES)
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_PRIVATE, false)
      .Bool(CKA_SENSITIVE, true)
      .Bool(CKA_EXTRACTABLE, true)  // for a sponsor, who can wrap it under a TRUSTED key only
      .Bool(CKA_WRAP_WITH_TRUSTED, true)
      .Bool(CKA_TRUSTED, true)
      .Bool(CKA_WRAP, true)
      .Bool(CKA_UNWRAP, true)
      .Mechanisms(allowed)
      .Nested(CKA_WRAP_TEMPLATE, wrap)
      .Nested(CKA_UNWRAP_TEMPLATE, unwrap)
      .Text(CKA_LABEL, KekLabel(kek, domain_tag))
      .Text(CKA_ID, domain_tag);
}

Template KekPromotion() {
  return Template().Bool(CKA_TOKEN, true).Bool(CKA_PRIVATE, true).Bool(CKA_MODIFIABLE, false);
}

Template ObjectTemplate(const KeySpec& spec, const ObjectPolicy& policy) {
  Template out = SealedKey();
  switch (spec.type) {
    case v1::KEY_TYPE_RSA_HSM:
      return out.Merge(RsaTemplate(policy));
    case v1::KEY_TYPE_EC_HSM:
      return out.Merge(EcTemplate(policy));
    default:
      return out.Merge(OctTemplate(policy));
  }
}

Template HmacTemplate() {
  const CK_MECHANISM_TYPE allowed[] = {CKM_SHA256_HMAC, CKM_SHA384_HMAC, CKM_SHA512_HMAC};
  return SealedKey()
      .Merge(NoUse())
      .Bool(CKA_SIGN, true)
      .Mechanisms(allowed)
      .Ulong(CKA_CLASS, CKO_SECRET_KEY)
      .Ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
}

Template KindTemplate(const KeySpec& spec, const ObjectPolicy& policy) {
  switch (spec.type) {
    case v1::KEY_TYPE_RSA_HSM:
      return Template().Ulong(CKA_CLASS, CKO_PRIVATE_KEY).Ulong(CKA_KEY_TYPE, CKK_RSA);
    case v1::KEY_TYPE_EC_HSM: {
      CK_KEY_TYPE type = spec.curve == v1::CURVE_ED25519 ? CKK_EC_EDWARDS : CKK_EC;
      return Template().Ulong(CKA_CLASS, CKO_PRIVATE_KEY).Ulong(CKA_KEY_TYPE, type);
    }
    default: {
      CK_KEY_TYPE type = policy.use == KeyUse::kRecordMac ? CKK_GENERIC_SECRET : CKK_AES;
      return Template().Ulong(CKA_CLASS, CKO_SECRET_KEY).Ulong(CKA_KEY_TYPE, type);
    }
  }
}

Template IdlePublicTemplate() {
  return Template()
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_PRIVATE, false)
      .Bool(CKA_ENCRYPT, false)
      .Bool(CKA_VERIFY, false)
      .Bool(CKA_WRAP, false);
}

Template JoinPublicTemplate(CK_ULONG modulus_bits) {
  constexpr uint8_t kExponent[] = {0x01, 0x00, 0x01};
  return IdlePublicTemplate().Ulong(CKA_MODULUS_BITS, modulus_bits).Data(CKA_PUBLIC_EXPONENT, kExponent);
}

Template JoinPrivateTemplate() {
  const CK_MECHANISM_TYPE allowed[] = {CKM_RSA_PKCS_OAEP};
  return NoPrivateUse()
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_PRIVATE, false)  // the SO can make no others; it lives for one hand-over, in memory only
      .Bool(CKA_SENSITIVE, true)
      .Bool(CKA_EXTRACTABLE, false)
      .Bool(CKA_UNWRAP, true)
      .Mechanisms(allowed);
}

Template SponsorPublicTemplate(ByteView modulus, ByteView exponent) {
  return IdlePublicTemplate()
      .Ulong(CKA_CLASS, CKO_PUBLIC_KEY)
      .Ulong(CKA_KEY_TYPE, CKK_RSA)
      .Bool(CKA_WRAP, true)
      .Bool(CKA_TRUSTED, true)
      .Data(CKA_MODULUS, modulus)
      .Data(CKA_PUBLIC_EXPONENT, exponent);
}

}  // namespace hsm
