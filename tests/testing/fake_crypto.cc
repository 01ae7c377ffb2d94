#include "tests/testing/fake_crypto.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/hmac.h>
#include <openssl/objects.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "common/check.h"

namespace hsm::fake_crypto {
namespace {

using Bn = std::unique_ptr<BIGNUM, decltype(&BN_free)>;
using BnContext = std::unique_ptr<BN_CTX, decltype(&BN_CTX_free)>;
using Point = std::unique_ptr<EC_POINT, decltype(&EC_POINT_free)>;
using Cipher = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;
using KeyContext = std::unique_ptr<EVP_PKEY_CTX, decltype(&EVP_PKEY_CTX_free)>;

Bn NewBn() { return Bn(BN_new(), BN_free); }
Bn ToBn(ByteView bytes) {
  return Bn(BN_bin2bn(bytes.data(), static_cast<int>(bytes.size()), nullptr), BN_free);
}

const EC_GROUP* Group(v1::Curve curve) {
  static const EC_GROUP* const p256 = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
  static const EC_GROUP* const p384 = EC_GROUP_new_by_curve_name(NID_secp384r1);
  static const EC_GROUP* const p521 = EC_GROUP_new_by_curve_name(NID_secp521r1);
  static const EC_GROUP* const p256k = EC_GROUP_new_by_curve_name(NID_secp256k1);
  switch (curve) {
    case v1::CURVE_P384:
      return p384;
    case v1::CURVE_P521:
      return p521;
    case v1::CURVE_P256K:
      return p256k;
    default:
      return p256;
  }
}

// 1 .. order - 1.
Bn RandomScalar(const EC_GROUP* group, Random& random) {
  const BIGNUM* order = EC_GROUP_get0_order(group);
  Bytes bytes(static_cast<size_t>(BN_num_bytes(order)));
  for (;;) {
    random.Fill(bytes);
    if (BN_num_bits(order) % 8 != 0) bytes[0] &= static_cast<uint8_t>((1 << (BN_num_bits(order) % 8)) - 1);
    Bn scalar = ToBn(bytes);
    if (!BN_is_zero(scalar.get()) && BN_cmp(scalar.get(), order) < 0) return scalar;
  }
}

EcKey WithPoint(v1::Curve curve, const BIGNUM* scalar) {
  const EC_GROUP* group = Group(curve);
  BnContext context(BN_CTX_new(), BN_CTX_free);
  Point point(EC_POINT_new(group), EC_POINT_free);
  HSM_CHECK(EC_POINT_mul(group, point.get(), scalar, nullptr, nullptr, context.get()) == 1);
  EcKey key{Bytes(FieldBytes(curve)), Bytes(1 + 2 * FieldBytes(curve))};
  HSM_CHECK(BN_bn2binpad(scalar, key.scalar.data(), static_cast<int>(key.scalar.size())) > 0);
  HSM_CHECK(EC_POINT_point2oct(group, point.get(), POINT_CONVERSION_UNCOMPRESSED, key.point.data(),
                               key.point.size(), context.get()) == key.point.size());
  return key;
}

const EVP_CIPHER* AesOf(size_t key_bytes, char mode) {
  switch (mode) {
    case 'g':
      return key_bytes == 16 ? EVP_aes_128_gcm() : key_bytes == 24 ? EVP_aes_192_gcm() : EVP_aes_256_gcm();
    case 'c':
      return key_bytes == 16 ? EVP_aes_128_cbc() : key_bytes == 24 ? EVP_aes_192_cbc() : EVP_aes_256_cbc();
    case 'p':
      return key_bytes == 16   ? EVP_aes_128_wrap_pad()
             : key_bytes == 24 ? EVP_aes_192_wrap_pad()
                               : EVP_aes_256_wrap_pad();
    default:
      return key_bytes == 16 ? EVP_aes_128_wrap() : key_bytes == 24 ? EVP_aes_192_wrap() : EVP_aes_256_wrap();
  }
}

// One pass of a cipher without tag; nothing if OpenSSL refuses the input.
std::optional<Bytes> Run(const EVP_CIPHER* cipher, ByteView key, const uint8_t* iv, ByteView in, bool encrypt,
                         bool pad) {
  Cipher context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  EVP_CIPHER_CTX_set_flags(context.get(), EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
  if (EVP_CipherInit_ex(context.get(), cipher, nullptr, key.data(), iv, encrypt ? 1 : 0) != 1)
    return std::nullopt;
  EVP_CIPHER_CTX_set_padding(context.get(), pad ? 1 : 0);
  Bytes out(in.size() + 32);
  int first = 0, last = 0;
  if (EVP_CipherUpdate(context.get(), out.data(), &first, in.data(), static_cast<int>(in.size())) != 1)
    return std::nullopt;
  if (EVP_CipherFinal_ex(context.get(), out.data() + first, &last) != 1) return std::nullopt;
  out.resize(static_cast<size_t>(first + last));
  return out;
}

EvpKey ParsePublic(ByteView spki) {
  const uint8_t* at = spki.data();
  return EvpKey(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())), EvpFree());
}

const EVP_MD* MdOf(Hash hash) {
  switch (hash) {
    case Hash::kSha1:
      return EVP_sha1();
    case Hash::kSha384:
      return EVP_sha384();
    case Hash::kSha512:
      return EVP_sha512();
    default:
      return EVP_sha256();
  }
}

}  // namespace

EcKey EcGenerate(v1::Curve curve, Random& random) {
  return WithPoint(curve, RandomScalar(Group(curve), random).get());
}

std::optional<EcKey> EcFromScalar(v1::Curve curve, ByteView scalar) {
  Bn number = ToBn(scalar);
  if (scalar.size() != FieldBytes(curve) || BN_is_zero(number.get()) ||
      BN_cmp(number.get(), EC_GROUP_get0_order(Group(curve))) >= 0)
    return std::nullopt;
  return WithPoint(curve, number.get());
}

Bytes EcSign(v1::Curve curve, const EcKey& key, ByteView digest, Random& random) {
  const EC_GROUP* group = Group(curve);
  const BIGNUM* order = EC_GROUP_get0_order(group);
  BnContext context(BN_CTX_new(), BN_CTX_free);
  Bn d = ToBn(key.scalar), r = NewBn(), s = NewBn(), x = NewBn();
  Bn z = ToBn(digest);  // digests here are never longer than the order
  for (;;) {
    Bn k = RandomScalar(group, random);
    Point point(EC_POINT_new(group), EC_POINT_free);
    HSM_CHECK(EC_POINT_mul(group, point.get(), k.get(), nullptr, nullptr, context.get()) == 1);
    HSM_CHECK(EC_POINT_get_affine_coordinates(group, point.get(), x.get(), nullptr, context.get()) == 1);
    HSM_CHECK(BN_nnmod(r.get(), x.get(), order, context.get()) == 1);
    HSM_CHECK(BN_mod_mul(s.get(), r.get(), d.get(), order, context.get()) == 1);
    HSM_CHECK(BN_mod_add(s.get(), s.get(), z.get(), order, context.get()) == 1);
    Bn inverse(BN_mod_inverse(nullptr, k.get(), order, context.get()), BN_free);
    HSM_CHECK(BN_mod_mul(s.get(), s.get(), inverse.get(), order, context.get()) == 1);
    if (!BN_is_zero(r.get()) && !BN_is_zero(s.get())) break;
  }
  const size_t half = FieldBytes(curve);
  Bytes out(2 * half);
  BN_bn2binpad(r.get(), out.data(), static_cast<int>(half));
  BN_bn2binpad(s.get(), out.data() + half, static_cast<int>(half));
  return out;
}

Bytes RsaGenerate(uint32_t bits) {
  EvpKey key(EVP_RSA_gen(bits), EvpFree());
  HSM_CHECK(key != nullptr);
  PKCS8_PRIV_KEY_INFO* info = EVP_PKEY2PKCS8(key.get());
  uint8_t* der = nullptr;
  int size = i2d_PKCS8_PRIV_KEY_INFO(info, &der);
  HSM_CHECK(size > 0);
  Bytes out(der, der + size);
  OPENSSL_free(der);
  PKCS8_PRIV_KEY_INFO_free(info);
  return out;
}

EvpKey ParsePrivate(ByteView pkcs8) {
  const uint8_t* at = pkcs8.data();
  PKCS8_PRIV_KEY_INFO* info = d2i_PKCS8_PRIV_KEY_INFO(nullptr, &at, static_cast<long>(pkcs8.size()));
  if (info == nullptr) return nullptr;
  EvpKey key(EVP_PKCS82PKEY(info), EvpFree());
  PKCS8_PRIV_KEY_INFO_free(info);
  return key;
}

Bytes PublicOf(EVP_PKEY* key) {
  uint8_t* der = nullptr;
  int size = i2d_PUBKEY(key, &der);
  HSM_CHECK(size > 0);
  Bytes out(der, der + size);
  OPENSSL_free(der);
  return out;
}

static std::optional<Bytes> RsaPrivateOp(EVP_PKEY* key, ByteView input, int padding) {
  KeyContext context(EVP_PKEY_CTX_new(key, nullptr), EVP_PKEY_CTX_free);
  Bytes out(static_cast<size_t>(EVP_PKEY_get_size(key)));
  size_t size = out.size();
  if (EVP_PKEY_decrypt_init(context.get()) != 1 ||
      EVP_PKEY_CTX_set_rsa_padding(context.get(), padding) != 1 ||
      EVP_PKEY_decrypt(context.get(), out.data(), &size, input.data(), input.size()) != 1)
    return std::nullopt;
  out.resize(size);
  return out;
}

std::optional<Bytes> RsaRawPrivate(EVP_PKEY* key, ByteView input) {
  return RsaPrivateOp(key, input, RSA_NO_PADDING);
}
std::optional<Bytes> RsaDecryptPkcs1(EVP_PKEY* key, ByteView ciphertext) {
  return RsaPrivateOp(key, ciphertext, RSA_PKCS1_PADDING);
}

Bytes Kwp(ByteView kek, ByteView plaintext) {
  auto out = Run(AesOf(kek.size(), 'p'), kek, nullptr, plaintext, true, true);
  HSM_CHECK(out.has_value());
  return *out;
}
std::optional<Bytes> KwpOpen(ByteView kek, ByteView wrapped) {
  if (wrapped.size() < 16 || wrapped.size() % 8 != 0) return std::nullopt;
  return Run(AesOf(kek.size(), 'p'), kek, nullptr, wrapped, false, true);
}
Bytes Kw(ByteView kek, ByteView plaintext) {
  auto out = Run(AesOf(kek.size(), 'w'), kek, nullptr, plaintext, true, true);
  HSM_CHECK(out.has_value());
  return *out;
}
std::optional<Bytes> KwOpen(ByteView kek, ByteView wrapped) {
  if (wrapped.size() < 24 || wrapped.size() % 8 != 0) return std::nullopt;
  return Run(AesOf(kek.size(), 'w'), kek, nullptr, wrapped, false, true);
}

Sealed GcmSeal(ByteView key, ByteView iv, ByteView plaintext, ByteView aad) {
  Cipher context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  Sealed sealed{Bytes(plaintext.size() + 16), Bytes(16)};
  int size = 0, total = 0;
  HSM_CHECK(EVP_EncryptInit_ex(context.get(), AesOf(key.size(), 'g'), nullptr, key.data(), iv.data()) == 1);
  if (!aad.empty())
    HSM_CHECK(EVP_EncryptUpdate(context.get(), nullptr, &size, aad.data(), static_cast<int>(aad.size())) ==
              1);
  if (!plaintext.empty()) {
    HSM_CHECK(EVP_EncryptUpdate(context.get(), sealed.ciphertext.data(), &size, plaintext.data(),
                                static_cast<int>(plaintext.size())) == 1);
    total = size;
  }
  HSM_CHECK(EVP_EncryptFinal_ex(context.get(), sealed.ciphertext.data() + total, &size) == 1);
  sealed.ciphertext.resize(static_cast<size_t>(total + size));
  HSM_CHECK(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, 16, sealed.tag.data()) == 1);
  return sealed;
}

std::optional<Bytes> GcmOpen(ByteView key, ByteView iv, ByteView ciphertext, ByteView tag, ByteView aad) {
  Cipher context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  Bytes out(ciphertext.size() + 16);
  Bytes tag_copy(tag.begin(), tag.end());
  int size = 0, total = 0;
  if (EVP_DecryptInit_ex(context.get(), AesOf(key.size(), 'g'), nullptr, key.data(), iv.data()) != 1)
    return std::nullopt;
  if (!aad.empty() &&
      EVP_DecryptUpdate(context.get(), nullptr, &size, aad.data(), static_cast<int>(aad.size())) != 1)
    return std::nullopt;
  if (!ciphertext.empty()) {
    if (EVP_DecryptUpdate(context.get(), out.data(), &size, ciphertext.data(),
                          static_cast<int>(ciphertext.size())) != 1)
      return std::nullopt;
    total = size;
  }
  EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, 16, tag_copy.data());
  if (EVP_DecryptFinal_ex(context.get(), out.data() + total, &size) != 1) return std::nullopt;
  out.resize(static_cast<size_t>(total + size));
  return out;
}

Bytes Cbc(ByteView key, ByteView iv, ByteView plaintext, bool pad) {
  auto out = Run(AesOf(key.size(), 'c'), key, iv.data(), plaintext, true, pad);
  HSM_CHECK(out.has_value());
  return *out;
}
std::optional<Bytes> CbcOpen(ByteView key, ByteView iv, ByteView ciphertext, bool pad) {
  return Run(AesOf(key.size(), 'c'), key, iv.data(), ciphertext, false, pad);
}

Bytes HmacOf(Hash hash, ByteView key, ByteView data) {
  Bytes out(HashBytes(hash));
  unsigned size = 0;
  HSM_CHECK(HMAC(MdOf(hash), key.data(), static_cast<int>(key.size()), data.data(), data.size(), out.data(),
                 &size) != nullptr);
  return out;
}

Bytes CmacOf(ByteView key, ByteView data) {
  const char* cipher = key.size() == 16 ? "AES-128-CBC" : key.size() == 24 ? "AES-192-CBC" : "AES-256-CBC";
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, const_cast<char*>(cipher), 0), OSSL_PARAM_END};
  Bytes out(16);
  size_t size = 0;
  HSM_CHECK(EVP_Q_mac(nullptr, "CMAC", nullptr, nullptr, parameters, key.data(), key.size(), data.data(),
                      data.size(), out.data(), out.size(), &size) != nullptr);
  return out;
}

bool VerifyEc(ByteView spki, ByteView digest, ByteView raw_signature) {
  EvpKey key = ParsePublic(spki);
  if (key == nullptr || raw_signature.size() % 2 != 0) return false;
  const size_t half = raw_signature.size() / 2;
  ECDSA_SIG* pair = ECDSA_SIG_new();
  ECDSA_SIG_set0(pair, ToBn(raw_signature.first(half)).release(),
                 ToBn(raw_signature.subspan(half)).release());
  uint8_t* der = nullptr;
  int size = i2d_ECDSA_SIG(pair, &der);
  ECDSA_SIG_free(pair);
  KeyContext context(EVP_PKEY_CTX_new(key.get(), nullptr), EVP_PKEY_CTX_free);
  bool good =
      EVP_PKEY_verify_init(context.get()) == 1 &&
      EVP_PKEY_verify(context.get(), der, static_cast<size_t>(size), digest.data(), digest.size()) == 1;
  OPENSSL_free(der);
  return good;
}

bool VerifyRsa(ByteView spki, v1::Algorithm algorithm, ByteView digest, ByteView signature) {
  EvpKey key = ParsePublic(spki);
  if (key == nullptr) return false;
  bool pss = algorithm == v1::ALGORITHM_PS256 || algorithm == v1::ALGORITHM_PS384 ||
             algorithm == v1::ALGORITHM_PS512;
  KeyContext context(EVP_PKEY_CTX_new(key.get(), nullptr), EVP_PKEY_CTX_free);
  return EVP_PKEY_verify_init(context.get()) == 1 &&
         EVP_PKEY_CTX_set_rsa_padding(context.get(), pss ? RSA_PKCS1_PSS_PADDING : RSA_PKCS1_PADDING) == 1 &&
         EVP_PKEY_CTX_set_signature_md(context.get(), MdOf(HashOf(algorithm))) == 1 &&
         (!pss || EVP_PKEY_CTX_set_rsa_pss_saltlen(context.get(), RSA_PSS_SALTLEN_DIGEST) == 1) &&
         EVP_PKEY_verify(context.get(), signature.data(), signature.size(), digest.data(), digest.size()) ==
             1;
}

Bytes EncryptRsa(ByteView spki, v1::Algorithm algorithm, ByteView plaintext) {
  EvpKey key = ParsePublic(spki);
  HSM_CHECK(key != nullptr);
  KeyContext context(EVP_PKEY_CTX_new(key.get(), nullptr), EVP_PKEY_CTX_free);
  Bytes out(static_cast<size_t>(EVP_PKEY_get_size(key.get())));
  size_t size = out.size();
  HSM_CHECK(EVP_PKEY_encrypt_init(context.get()) == 1);
  if (algorithm == v1::ALGORITHM_RSA1_5) {
    HSM_CHECK(EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING) == 1);
  } else {
    HSM_CHECK(EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) == 1);
    HSM_CHECK(EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), MdOf(HashOf(algorithm))) == 1);
    HSM_CHECK(EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), MdOf(HashOf(algorithm))) == 1);
  }
  HSM_CHECK(EVP_PKEY_encrypt(context.get(), out.data(), &size, plaintext.data(), plaintext.size()) == 1);
  out.resize(size);
  return out;
}

}  // namespace hsm::fake_crypto
