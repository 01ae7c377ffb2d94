#include "node/public_part.h"

#include <openssl/bn.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <cstring>

#include "common/error.h"
#include "common/spki.h"

namespace hsm {
namespace {

struct FreeContext {
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_PKEY_CTX, FreeContext>;

const EVP_MD* HashOfAlgorithm(v1::Algorithm algorithm) {
  switch (algorithm) {
    case v1::ALGORITHM_RS384:
    case v1::ALGORITHM_PS384:
      return EVP_sha384();
    case v1::ALGORITHM_RS512:
    case v1::ALGORITHM_PS512:
      return EVP_sha512();
    default:
      return EVP_sha256();
  }
}

bool IsPss(v1::Algorithm algorithm) {
  return algorithm == v1::ALGORITHM_PS256 || algorithm == v1::ALGORITHM_PS384 ||
         algorithm == v1::ALGORITHM_PS512;
}

// r||s, each half as long as the field, to DER.
Bytes ToDer(ByteView raw, size_t half) {
  if (raw.size() != 2 * half) return {};
  std::unique_ptr<ECDSA_SIG, decltype(&ECDSA_SIG_free)> signature(ECDSA_SIG_new(), ECDSA_SIG_free);
  BIGNUM* r = BN_bin2bn(raw.data(), static_cast<int>(half), nullptr);
  BIGNUM* s = BN_bin2bn(raw.data() + half, static_cast<int>(half), nullptr);
  if (signature == nullptr || ECDSA_SIG_set0(signature.get(), r, s) != 1) {
    BN_free(r);
    BN_free(s);
    return {};
  }
  Bytes der(static_cast<size_t>(i2d_ECDSA_SIG(signature.get(), nullptr)));
  uint8_t* end = der.data();
  i2d_ECDSA_SIG(signature.get(), &end);
  return der;
}

bool Fits(const KeySpec& spec, const EVP_PKEY* key) {
  if (spec.type == v1::KEY_TYPE_RSA_HSM) {
    return EVP_PKEY_base_id(key) == EVP_PKEY_RSA && EVP_PKEY_bits(key) == static_cast<int>(spec.size_bits);
  }
  if (spec.type != v1::KEY_TYPE_EC_HSM || EVP_PKEY_base_id(key) != EVP_PKEY_EC) return false;
  char name[64];
  size_t length = 0;
  if (EVP_PKEY_get_group_name(key, name, sizeof name, &length) != 1) return false;
  std::string_view group(name, length);
  switch (spec.curve) {
    case v1::CURVE_P256:
      return group == "prime256v1" || group == "P-256";
    case v1::CURVE_P384:
      return group == "secp384r1" || group == "P-384";
    case v1::CURVE_P521:
      return group == "secp521r1" || group == "P-521";
    case v1::CURVE_P256K:
      return group == "secp256k1";
    default:
      return false;
  }
}

}  // namespace

absl::StatusOr<PublicPart> PublicPart::Parse(const KeySpec& spec, ByteView spki) {
  std::shared_ptr<EVP_PKEY> key = PublicKeyFromSpki(spki);
  if (key == nullptr || !Fits(spec, key.get())) {
    return Error(v1::REASON_RECORD_CORRUPT, "the public part of a record is not a key of its type");
  }
  return PublicPart(spec, std::move(key));
}

bool PublicPart::Verify(v1::Algorithm algorithm, ByteView digest, ByteView signature) const {
  Context context(EVP_PKEY_CTX_new(key_.get(), nullptr));
  bool good = context != nullptr && EVP_PKEY_verify_init(context.get()) == 1;
  Bytes der;
  if (spec_.type == v1::KEY_TYPE_RSA_HSM) {
    good = good && EVP_PKEY_CTX_set_rsa_padding(
                       context.get(), IsPss(algorithm) ? RSA_PKCS1_PSS_PADDING : RSA_PKCS1_PADDING) == 1;
    good = good && EVP_PKEY_CTX_set_signature_md(context.get(), HashOfAlgorithm(algorithm)) == 1;
    if (IsPss(algorithm)) {
      good = good && EVP_PKEY_CTX_set_rsa_pss_saltlen(context.get(), RSA_PSS_SALTLEN_DIGEST) == 1;
    }
  } else {
    der = ToDer(signature, (spec_.size_bits + 7) / 8);
    good = good && !der.empty();
    signature = der;
  }
  good = good && EVP_PKEY_verify(context.get(), signature.data(), signature.size(), digest.data(),
                                 digest.size()) == 1;
  ERR_clear_error();
  return good;
}

absl::StatusOr<Bytes> PublicPart::Encrypt(v1::Algorithm algorithm, ByteView plaintext) const {
  if (spec_.type != v1::KEY_TYPE_RSA_HSM) {
    return Error(v1::REASON_ALGORITHM_MISMATCH, "only RSA keys encrypt with their public part");
  }
  bool oaep = algorithm != v1::ALGORITHM_RSA1_5;
  const EVP_MD* hash = algorithm == v1::ALGORITHM_RSA_OAEP_256 ? EVP_sha256() : EVP_sha1();
  size_t modulus = spec_.size_bits / 8;
  size_t overhead = oaep ? 2 * static_cast<size_t>(EVP_MD_get_size(hash)) + 2 : 11;
  if (plaintext.size() > modulus - overhead) {
    return Error(v1::REASON_DATA_INVALID, "with this key and algorithm at most " +
                                              std::to_string(modulus - overhead) + " bytes can be encrypted");
  }
  Context context(EVP_PKEY_CTX_new(key_.get(), nullptr));
  bool good =
      context != nullptr && EVP_PKEY_encrypt_init(context.get()) == 1 &&
      EVP_PKEY_CTX_set_rsa_padding(context.get(), oaep ? RSA_PKCS1_OAEP_PADDING : RSA_PKCS1_PADDING) == 1;
  if (oaep) {
    good = good && EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), hash) == 1 &&
           EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), hash) == 1;
  }
  Bytes out(modulus);
  size_t length = out.size();
  good =
      good && EVP_PKEY_encrypt(context.get(), out.data(), &length, plaintext.data(), plaintext.size()) == 1;
  ERR_clear_error();
  if (!good || length != modulus) return Error(v1::REASON_INTERNAL, "RSA encryption failed");
  return out;
}

}  // namespace hsm
