#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>

#include "cli/documents.h"
#include "common/bytes.h"

namespace hsm::cli {
namespace {

void AddNumber(EVP_PKEY* key, const char* parameter, const char* name, size_t size, Json& jwk) {
  BIGNUM* number = nullptr;
  if (EVP_PKEY_get_bn_param(key, parameter, &number) != 1) return;
  Bytes bytes(std::max(size, static_cast<size_t>(BN_num_bytes(number))));
  if (BN_bn2binpad(number, bytes.data(), static_cast<int>(bytes.size())) > 0) jwk.Add(name, Base64Url(bytes));
  BN_free(number);
}

}  // namespace

void AddPublicNumbers(const v1::PublicKey& part, Json& jwk) {
  if (part.spki().empty()) return;
  const auto* bytes = reinterpret_cast<const unsigned char*>(part.spki().data());
  std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
      d2i_PUBKEY(nullptr, &bytes, static_cast<long>(part.spki().size())), &EVP_PKEY_free);
  if (key == nullptr) return;
  if (part.type() == v1::KEY_TYPE_RSA_HSM) {
    AddNumber(key.get(), OSSL_PKEY_PARAM_RSA_N, "n", 0, jwk);
    AddNumber(key.get(), OSSL_PKEY_PARAM_RSA_E, "e", 0, jwk);
  } else {
    size_t size = (part.size_bits() + 7) / 8;  // RFC 7518: both coordinates padded to the field's size
    AddNumber(key.get(), OSSL_PKEY_PARAM_EC_PUB_X, "x", size, jwk);
    AddNumber(key.get(), OSSL_PKEY_PARAM_EC_PUB_Y, "y", size, jwk);
  }
}

}  // namespace hsm::cli
