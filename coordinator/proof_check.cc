#include "coordinator/proof_check.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <memory>

#include "common/deleter.h"
#include "common/mutant.h"
#include "common/spki.h"

namespace hsm {
namespace {

using ContextPtr = std::unique_ptr<EVP_PKEY_CTX, Deleter<EVP_PKEY_CTX_free>>;
using SignaturePtr = std::unique_ptr<ECDSA_SIG, Deleter<ECDSA_SIG_free>>;

// r||s as PKCS#11 gives it -> the DER form OpenSSL takes; empty if it cannot be one.
Bytes EcdsaToDer(ByteView raw) {
  if (raw.empty() || raw.size() % 2 != 0) return {};
  size_t half = raw.size() / 2;
  SignaturePtr signature(ECDSA_SIG_new());
  BIGNUM* r = BN_bin2bn(raw.data(), static_cast<int>(half), nullptr);
  BIGNUM* s = BN_bin2bn(raw.data() + half, static_cast<int>(half), nullptr);
  if (signature == nullptr || r == nullptr || s == nullptr || ECDSA_SIG_set0(signature.get(), r, s) != 1) {
    BN_free(r);
    BN_free(s);
    return {};
  }
  uint8_t* der = nullptr;
  int size = i2d_ECDSA_SIG(signature.get(), &der);
  if (size <= 0) return {};
  Bytes out(der, der + size);
  OPENSSL_free(der);
  return out;
}

}  // namespace

bool VerifyDigestSignature(ByteView spki, ByteView digest, ByteView signature) {
  const std::shared_ptr<EVP_PKEY> key = PublicKeyFromSpki(spki);
  if (key == nullptr) return false;
  ContextPtr context(EVP_PKEY_CTX_new(key.get(), nullptr));
  if (context == nullptr || EVP_PKEY_verify_init(context.get()) != 1) return false;
  Bytes der;
  if (EVP_PKEY_base_id(key.get()) == EVP_PKEY_EC) {
    der = EcdsaToDer(signature);
    signature = der;
  } else if (EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING) != 1 ||
             EVP_PKEY_CTX_set_signature_md(context.get(), EVP_sha256()) != 1) {
    return false;
  }
  return !signature.empty() && EVP_PKEY_verify(context.get(), signature.data(), signature.size(),
                                               digest.data(), digest.size()) == 1;
}

v1::ProofResult CheckProof(const Challenge& challenge, const internal::v1::Proof& proof) {
  if (HSM_MUTANT("accept-any-proof")) return v1::PROOF_RESULT_PROVED;
  if (proof.different()) return v1::PROOF_RESULT_DIFFERENT;
  if (proof.version() != challenge.version.Raw() || View(proof.nonce()).size() != challenge.nonce.size() ||
      !EqualConstantTime(View(proof.nonce()), challenge.nonce)) {
    return v1::PROOF_RESULT_DIFFERENT;
  }
  if (challenge.spec.type == v1::KEY_TYPE_OCT_HSM) {
    return proof.comparison().empty() ? v1::PROOF_RESULT_DIFFERENT : v1::PROOF_RESULT_SELF_CHECKED;
  }
  bool may_sign = (challenge.operations & Bit(v1::KEY_OPERATION_SIGN)) != 0;
  if (proof.signature().empty()) {
    bool enough = !may_sign && challenge.spec.type == v1::KEY_TYPE_RSA_HSM && proof.decrypted();
    return enough ? v1::PROOF_RESULT_PROVED : v1::PROOF_RESULT_DIFFERENT;
  }
  Bytes message =
      ProofMessage({challenge.hsm, challenge.uid, challenge.incarnation, challenge.version, challenge.node},
                   challenge.nonce);
  bool holds = VerifyDigestSignature(challenge.spki, message, View(proof.signature()));
  return holds ? v1::PROOF_RESULT_PROVED : v1::PROOF_RESULT_DIFFERENT;
}

}  // namespace hsm
