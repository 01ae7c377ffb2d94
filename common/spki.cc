#include "common/spki.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/x509.h>

#include <algorithm>
#include <initializer_list>

#include "common/deleter.h"

namespace hsm {
namespace {

using ContextPtr = std::unique_ptr<EVP_PKEY_CTX, Deleter<EVP_PKEY_CTX_free>>;
using NumberPtr = std::unique_ptr<BIGNUM, Deleter<BN_free>>;
using BuilderPtr = std::unique_ptr<OSSL_PARAM_BLD, Deleter<OSSL_PARAM_BLD_free>>;
using ParametersPtr = std::unique_ptr<OSSL_PARAM, Deleter<OSSL_PARAM_free>>;
using KeyPtr = std::shared_ptr<EVP_PKEY>;

// All of the DER in front of an uncompressed point (RFC 5480): it is the same for every key of a curve.
struct CurvePrefix {
  const char* group;
  size_t point_bytes;
  std::initializer_list<uint8_t> der;
};
const CurvePrefix kCurves[] = {
    {"prime256v1", 65, {0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
                        0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00}},
    {"secp384r1", 97, {0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
                       0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00}},
    {"secp521r1", 133, {0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
                        0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00}},
    {"secp256k1", 65, {0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
                       0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a, 0x03, 0x42, 0x00}},
};
constexpr uint8_t kRsaAlgorithm[] = {0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7,
                                     0x0d, 0x01, 0x01, 0x01, 0x05, 0x00};

KeyPtr Make(const char* type, OSSL_PARAM* parameters) {
  ContextPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* key = nullptr;
  if (context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, parameters) != 1) {
    return nullptr;
  }
  return KeyPtr(key, EVP_PKEY_free);
}

KeyPtr FromPoint(ByteView spki) {
  for (const CurvePrefix& curve : kCurves) {
    if (spki.size() != curve.der.size() + curve.point_bytes || spki[curve.der.size()] != 0x04 ||
        !std::equal(curve.der.begin(), curve.der.end(), spki.begin())) {
      continue;
    }
    ByteView point = spki.last(curve.point_bytes);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, const_cast<char*>(curve.group), 0),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, const_cast<uint8_t*>(point.data()),
                                          point.size()),
        OSSL_PARAM_construct_end()};
    return Make("EC", parameters);
  }
  return nullptr;
}

// Takes one element of `tag` from the front of `in`; false if there is none, or its length is not in DER.
bool Take(ByteView& in, uint8_t tag, ByteView& content) {
  if (in.size() < 2 || in[0] != tag) return false;
  size_t length = in[1], header = 2;
  if (length >= 0x80) {
    const size_t bytes = length & 0x7f;
    if (bytes < 1 || bytes > 2 || in.size() < 2 + bytes) return false;
    length = 0;
    for (size_t i = 0; i < bytes; ++i) length = length << 8 | in[2 + i];
    if (length < (bytes == 1 ? 0x80u : 0x100u)) return false;
    header += bytes;
  }
  if (in.size() - header < length) return false;
  content = in.subspan(header, length);
  in = in.subspan(header + length);
  return true;
}

// A positive INTEGER in its shortest form.
NumberPtr TakeNumber(ByteView& in) {
  ByteView content;
  if (!Take(in, 0x02, content) || content.empty() || content[0] >= 0x80) return nullptr;
  if (content.size() > 1 && content[0] == 0 && content[1] < 0x80) return nullptr;
  return NumberPtr(BN_bin2bn(content.data(), static_cast<int>(content.size()), nullptr));
}

KeyPtr FromModulus(ByteView spki) {
  ByteView outer, algorithm, bits, key;
  if (!Take(spki, 0x30, outer) || !spki.empty() || !Take(outer, 0x30, algorithm) ||
      !std::ranges::equal(algorithm, kRsaAlgorithm) || !Take(outer, 0x03, bits) || !outer.empty() ||
      bits.empty() || bits[0] != 0) {
    return nullptr;
  }
  bits = bits.subspan(1);
  if (!Take(bits, 0x30, key) || !bits.empty()) return nullptr;
  const NumberPtr modulus = TakeNumber(key), exponent = TakeNumber(key);
  if (modulus == nullptr || exponent == nullptr || !key.empty()) return nullptr;
  BuilderPtr builder(OSSL_PARAM_BLD_new());
  if (builder == nullptr ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, modulus.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, exponent.get()) != 1) {
    return nullptr;
  }
  ParametersPtr parameters(OSSL_PARAM_BLD_to_param(builder.get()));
  return parameters == nullptr ? nullptr : Make("RSA", parameters.get());
}

}  // namespace

KeyPtr PublicKeyFromSpki(ByteView spki) {
  KeyPtr key = FromPoint(spki);
  if (key == nullptr) key = FromModulus(spki);
  if (key == nullptr) {
    const uint8_t* at = spki.data();
    key.reset(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())), EVP_PKEY_free);
    const int kind = key == nullptr ? 0 : EVP_PKEY_get_base_id(key.get());
    if (at != spki.data() + spki.size() || (kind != EVP_PKEY_RSA && kind != EVP_PKEY_EC)) key = nullptr;
  }
  ERR_clear_error();
  return key;
}

}  // namespace hsm
