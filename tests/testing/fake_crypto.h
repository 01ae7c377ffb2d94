#pragma once
// OpenSSL as FakeToken and the contract tests need it; chance comes from the caller's Random only.
#include <openssl/evp.h>

#include <memory>
#include <optional>

#include "common/bytes.h"
#include "common/random.h"
#include "common/secret.h"
#include "node/key_encoding.h"

namespace hsm::fake_crypto {

struct EvpFree {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using EvpKey = std::shared_ptr<EVP_PKEY>;

struct EcKey {
  Bytes scalar;  // as long as the field
  Bytes point;   // 04 || x || y
};
EcKey EcGenerate(v1::Curve curve, Random& random);
std::optional<EcKey> EcFromScalar(v1::Curve curve, ByteView scalar);
Bytes EcSign(v1::Curve curve, const EcKey& key, ByteView digest, Random& random);  // r || s

Bytes RsaGenerate(uint32_t bits);                                   // PKCS#8
EvpKey ParsePrivate(ByteView pkcs8);                                // null if it is none
Bytes PublicOf(EVP_PKEY* key);                                      // SPKI
std::optional<Bytes> RsaRawPrivate(EVP_PKEY* key, ByteView input);  // input as long as the modulus
std::optional<Bytes> RsaDecryptPkcs1(EVP_PKEY* key, ByteView ciphertext);

// RFC 5649 and RFC 3394.
Bytes Kwp(ByteView kek, ByteView plaintext);
std::optional<Bytes> KwpOpen(ByteView kek, ByteView wrapped);
Bytes Kw(ByteView kek, ByteView plaintext);
std::optional<Bytes> KwOpen(ByteView kek, ByteView wrapped);

struct Sealed {
  Bytes ciphertext, tag;
};
Sealed GcmSeal(ByteView key, ByteView iv, ByteView plaintext, ByteView aad);
std::optional<Bytes> GcmOpen(ByteView key, ByteView iv, ByteView ciphertext, ByteView tag, ByteView aad);
Bytes Cbc(ByteView key, ByteView iv, ByteView plaintext, bool pad);
std::optional<Bytes> CbcOpen(ByteView key, ByteView iv, ByteView ciphertext, bool pad);
Bytes HmacOf(Hash hash, ByteView key, ByteView data);
Bytes CmacOf(ByteView key, ByteView data);

// Public side, from the SPKI, for tests.
bool VerifyEc(ByteView spki, ByteView digest, ByteView raw_signature);
bool VerifyRsa(ByteView spki, v1::Algorithm algorithm, ByteView digest, ByteView signature);
Bytes EncryptRsa(ByteView spki, v1::Algorithm algorithm, ByteView plaintext);

}  // namespace hsm::fake_crypto
