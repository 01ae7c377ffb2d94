// What every Token promises, on the fake and on SoftHSM. Answers are compared with OpenSSL in both
// directions; keys whose value is needed outside come in as blobs the test cannot make, so values are
// compared between two tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "common/check.h"
#include "common/error.h"
#include "common/random.h"
#include "node/kek_store.h"
#include "node/key_encoding.h"
#include "node/pkcs11_token.h"
#include "node/token_templates.h"
#include "tests/testing/fake_crypto.h"
#include "tests/testing/fake_token.h"
#include "tests/testing/softhsm.h"

namespace hsm {
namespace {

// Two tokens of one domain, made once: SoftHSM takes its time.
struct Backend {
  std::unique_ptr<Token> first, second;
  // The blob of an oct key whose value the test knows.
  std::function<Bytes(const Bytes& value)> seal;
};

Backend MakeFake() {
  static FakeRsaPool pool;
  auto domain = std::make_shared<FakeDomain>(SystemRandom());
  std::shared_ptr<FakeRsaPool> shared(&pool, [](FakeRsaPool*) {});
  auto seal = [domain](const Bytes& value) {
    Bytes plain = {v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED};
    plain.insert(plain.end(), value.begin(), value.end());
    return fake_crypto::Kwp(domain->replication_kek, plain);
  };
  return {std::make_unique<FakeToken>(domain, SystemRandom(), "one", shared),
          std::make_unique<FakeToken>(domain, SystemRandom(), "two", shared), seal};
}

// On SoftHSM a known value is imported past the Token and wrapped under the KEK, as no caller can.
Bytes SealOnSoftHsm(const TokenConfig& config, const Bytes& value) {
  auto library = LoadModule(config);
  HSM_CHECK(library.ok());
  auto info = pkcs11::FindToken(**library, config.label, "");
  HSM_CHECK(info.ok());
  auto session = pkcs11::Session::Open(**library, info->slot);
  HSM_CHECK(session.ok());
  auto keks = FindKeks(*session);
  HSM_CHECK(keks.ok() && keks->has_value());
  KeySpec spec{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, static_cast<uint32_t>(8 * value.size())};
  ObjectPolicy transit{KeyUse::kTransit, 0};
  pkcs11::Template attributes = ObjectTemplate(spec, transit).Merge(KindTemplate(spec, transit));
  auto key = session->CreateObject(attributes.Remove(CKA_COPYABLE).Data(CKA_VALUE, value));
  HSM_CHECK(key.ok());
  auto blob =
      session->Wrap(pkcs11::Mechanism::Plain(CKM_AES_KEY_WRAP_PAD), (**keks)[Kek::kReplication], *key);
  HSM_CHECK(blob.ok());
  return *blob;
}

std::unique_ptr<Token> OpenOrDie(const absl::StatusOr<TokenConfig>& config) {
  EXPECT_TRUE(config.ok()) << config.status();
  auto token = Pkcs11Token::Open(*config);
  EXPECT_TRUE(token.ok()) << token.status();
  return *std::move(token);
}

Backend MakeSoftHsm() {
  auto domain = MakeSoftHsmDomain("contract-1");
  EXPECT_TRUE(domain.ok()) << domain.status();
  auto joined = JoinSoftHsmDomain(*domain, "contract-2");
  TokenConfig config = domain->config;
  return {OpenOrDie(domain->config), OpenOrDie(joined),
          [config](const Bytes& value) { return SealOnSoftHsm(config, value); }};
}

class TokenContract : public ::testing::TestWithParam<std::string> {
 protected:
  TokenContract() {
    static Backend* const fake = new Backend(MakeFake());
    if (GetParam() == "Fake") {
      backend_ = fake;
    } else {
      static Backend* const softhsm = new Backend(MakeSoftHsm());
      backend_ = softhsm;
    }
  }
  Token& first() { return *backend_->first; }
  Token& second() { return *backend_->second; }
  Backend* backend_;
};

KeySpec Rsa(uint32_t bits) { return {v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, bits}; }
KeySpec Oct(uint32_t bits) { return {v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, bits}; }
KeySpec Ec(v1::Curve curve) {
  uint32_t bits = curve == v1::CURVE_P521 ? 521 : static_cast<uint32_t>(8 * FieldBytes(curve));
  return {v1::KEY_TYPE_EC_HSM, curve, bits};
}
ObjectPolicy May(std::initializer_list<v1::KeyOperation> operations) {
  ObjectPolicy policy;
  for (v1::KeyOperation operation : operations) policy.operations |= Bit(operation);
  return policy;
}
const ObjectPolicy kSign = May({v1::KEY_OPERATION_SIGN});
const ObjectPolicy kCrypt = May({v1::KEY_OPERATION_ENCRYPT, v1::KEY_OPERATION_DECRYPT});
const ObjectPolicy kDecrypt = May({v1::KEY_OPERATION_DECRYPT});

Bytes Message(size_t size) {
  Bytes out(size);
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<uint8_t>(i * 7 + 3);
  return out;
}

::testing::Matcher<const absl::Status&> Fails(v1::Reason reason) {
  return ::testing::ResultOf(
      [](const absl::Status& status) { return std::string(ReasonName(ReasonOf(status))); },
      std::string(ReasonName(reason)));
}
#define EXPECT_REASON(expression, reason) EXPECT_THAT((expression).status(), Fails(v1::reason))

template <typename T>
T Ok(absl::StatusOr<T> result) {
  EXPECT_TRUE(result.ok()) << result.status();
  HSM_CHECK(result.ok());
  return *std::move(result);
}

// The key of `made`, opened on another token: what replication does.
TokenKey Replicate(Token& from, Token& to, const KeySpec& spec, TokenKey key, const ObjectPolicy& policy) {
  return Ok(to.Unwrap(Kek::kReplication, spec, policy, Ok(from.Wrap(Kek::kReplication, key))));
}

TEST_P(TokenContract, EcSignaturesVerifyOnBothTokens) {
  struct Case {
    v1::Curve curve;
    v1::Algorithm algorithm;
  };
  for (Case tested :
       {Case{v1::CURVE_P256, v1::ALGORITHM_ES256}, Case{v1::CURVE_P384, v1::ALGORITHM_ES384},
        Case{v1::CURVE_P521, v1::ALGORITHM_ES512}, Case{v1::CURVE_P256K, v1::ALGORITHM_ES256K}}) {
    SCOPED_TRACE(AlgorithmName(tested.algorithm));
    KeySpec spec = Ec(tested.curve);
    GeneratedKey made = Ok(first().Generate(spec, kSign));
    TokenKey copy = Replicate(first(), second(), spec, made.key, kSign);
    Bytes digest = Digest(HashOf(tested.algorithm), Message(100));
    for (auto& [token, key] : {std::pair{&first(), made.key}, std::pair{&second(), copy}}) {
      Bytes signature = Ok(token->Sign(key, spec, tested.algorithm, digest));
      EXPECT_EQ(signature.size(), 2 * FieldBytes(tested.curve));
      EXPECT_TRUE(fake_crypto::VerifyEc(made.spki, digest, signature));
      Bytes other = Digest(HashOf(tested.algorithm), Message(101));
      EXPECT_FALSE(fake_crypto::VerifyEc(made.spki, other, signature));
      EXPECT_REASON(token->Sign(key, spec, tested.algorithm, ByteView(digest).first(20)),
                    REASON_DATA_INVALID);
      EXPECT_REASON(token->Sign(key, spec, v1::ALGORITHM_RS256, digest), REASON_ALGORITHM_MISMATCH);
      token->Destroy(key);
      EXPECT_REASON(token->Sign(key, spec, tested.algorithm, digest), REASON_TOKEN_SESSION);
    }
  }
}

TEST_P(TokenContract, RsaSignaturesVerifyOnBothTokens) {
  for (uint32_t bits : {2048u, 3072u}) {
    KeySpec spec = Rsa(bits);
    GeneratedKey made = Ok(first().Generate(spec, kSign));
    TokenKey copy = Replicate(first(), second(), spec, made.key, kSign);
    for (v1::Algorithm algorithm : {v1::ALGORITHM_RS256, v1::ALGORITHM_RS384, v1::ALGORITHM_RS512,
                                    v1::ALGORITHM_PS256, v1::ALGORITHM_PS384, v1::ALGORITHM_PS512}) {
      SCOPED_TRACE(AlgorithmName(algorithm));
      Bytes digest = Digest(HashOf(algorithm), Message(100));
      for (auto& [token, key] : {std::pair{&first(), made.key}, std::pair{&second(), copy}}) {
        Bytes signature = Ok(token->Sign(key, spec, algorithm, digest));
        EXPECT_EQ(signature.size(), bits / 8);
        EXPECT_TRUE(fake_crypto::VerifyRsa(made.spki, algorithm, digest, signature));
        EXPECT_REASON(token->Sign(key, spec, algorithm, Message(31)), REASON_DATA_INVALID);
        EXPECT_REASON(token->RsaDecrypt(key, spec, v1::ALGORITHM_RSA_OAEP, Bytes(bits / 8)),
                      REASON_OPERATION_NOT_ALLOWED);
      }
    }
    EXPECT_REASON(first().Sign(made.key, spec, v1::ALGORITHM_ES256, Message(32)), REASON_ALGORITHM_MISMATCH);
    first().Destroy(made.key);
    second().Destroy(copy);
  }
}

TEST_P(TokenContract, RsaDecryptsWhatOpenSslEncrypted) {
  KeySpec spec = Rsa(2048);
  GeneratedKey made = Ok(first().Generate(spec, kDecrypt));
  TokenKey copy = Replicate(first(), second(), spec, made.key, kDecrypt);
  struct Case {
    v1::Algorithm algorithm;
    size_t longest;
  };
  for (Case tested : {Case{v1::ALGORITHM_RSA_OAEP, 214}, Case{v1::ALGORITHM_RSA_OAEP_256, 190},
                      Case{v1::ALGORITHM_RSA1_5, 245}}) {
    SCOPED_TRACE(AlgorithmName(tested.algorithm));
    for (size_t size : {size_t{0}, size_t{1}, size_t{32}, tested.longest}) {
      // SoftHSM's PKCS#1 v1.5 gives nothing for an empty message; nobody sends one.
      if (size == 0 && tested.algorithm == v1::ALGORITHM_RSA1_5) continue;
      Bytes plaintext = Message(size);
      Bytes ciphertext = fake_crypto::EncryptRsa(made.spki, tested.algorithm, plaintext);
      EXPECT_TRUE(Ok(first().RsaDecrypt(made.key, spec, tested.algorithm, ciphertext)).Equals(plaintext))
          << size;
      EXPECT_TRUE(Ok(second().RsaDecrypt(copy, spec, tested.algorithm, ciphertext)).Equals(plaintext))
          << size;
    }
    Bytes ciphertext = fake_crypto::EncryptRsa(made.spki, tested.algorithm, Message(32));
    EXPECT_REASON(first().RsaDecrypt(made.key, spec, tested.algorithm, ByteView(ciphertext).first(255)),
                  REASON_DATA_INVALID);
    ciphertext[100] ^= 1;
    absl::Status bad = first().RsaDecrypt(made.key, spec, tested.algorithm, ciphertext).status();
    EXPECT_THAT(bad, Fails(v1::REASON_DECRYPTION_FAILED));
    // Not below the modulus, and all zeros: the same answer, to the letter.
    EXPECT_EQ(first().RsaDecrypt(made.key, spec, tested.algorithm, Bytes(256, 0xff)).status(), bad);
    EXPECT_EQ(first().RsaDecrypt(made.key, spec, tested.algorithm, Bytes(256, 0)).status(), bad);
    // The token works on after each of them.
    ciphertext[100] ^= 1;
    EXPECT_TRUE(first().RsaDecrypt(made.key, spec, tested.algorithm, ciphertext).ok());
  }
  Bytes wrong_padding = fake_crypto::EncryptRsa(made.spki, v1::ALGORITHM_RSA_OAEP, Message(32));
  EXPECT_REASON(first().RsaDecrypt(made.key, spec, v1::ALGORITHM_RSA_OAEP_256, wrong_padding),
                REASON_DECRYPTION_FAILED);
  EXPECT_REASON(first().Sign(made.key, spec, v1::ALGORITHM_RS256, Message(32)), REASON_OPERATION_NOT_ALLOWED);
}

TEST_P(TokenContract, GcmRoundTripsBetweenTokensWithFreshIvs) {
  for (uint32_t bits : {128u, 192u, 256u}) {
    KeySpec spec = Oct(bits);
    TokenKey key = Ok(first().Generate(spec, kCrypt)).key;
    TokenKey copy = Replicate(first(), second(), spec, key, kCrypt);
    std::set<Bytes> ivs;
    for (size_t size : {0u, 1u, 16u, 1000u, 65536u}) {
      for (size_t aad_size : {0u, 20u}) {
        Bytes plaintext = Message(size), aad = Message(aad_size);
        GcmResult sealed = Ok(first().GcmEncrypt(key, plaintext, aad));
        EXPECT_EQ(sealed.ciphertext.size(), size);
        EXPECT_EQ(sealed.iv.size(), 12u);
        EXPECT_EQ(sealed.tag.size(), 16u);
        EXPECT_TRUE(ivs.insert(sealed.iv).second);
        EXPECT_TRUE(
            Ok(second().GcmDecrypt(copy, sealed.ciphertext, sealed.iv, sealed.tag, aad)).Equals(plaintext));
      }
    }
    GcmResult sealed = Ok(first().GcmEncrypt(key, Message(40), Message(5)));
    auto decrypt = [&] {
      return first().GcmDecrypt(key, sealed.ciphertext, sealed.iv, sealed.tag, Message(5)).status();
    };
    for (Bytes* part : {&sealed.ciphertext, &sealed.iv, &sealed.tag}) {
      part->back() ^= 1;
      EXPECT_THAT(decrypt(), Fails(v1::REASON_DECRYPTION_FAILED));
      part->back() ^= 1;
    }
    EXPECT_REASON(first().GcmDecrypt(key, sealed.ciphertext, sealed.iv, sealed.tag, Message(6)),
                  REASON_DECRYPTION_FAILED);
    EXPECT_TRUE(decrypt().ok());
    EXPECT_REASON(first().GcmDecrypt(key, sealed.ciphertext, {}, sealed.tag, {}), REASON_DATA_INVALID);
    EXPECT_REASON(first().GcmDecrypt(key, sealed.ciphertext, sealed.iv, ByteView(sealed.tag).first(12), {}),
                  REASON_DATA_INVALID);
    first().Destroy(key);
    second().Destroy(copy);
  }
}

TEST_P(TokenContract, CbcRoundTripsAndChecksPadding) {
  KeySpec spec = Oct(256);
  TokenKey key = Ok(first().Generate(spec, kCrypt)).key;
  TokenKey copy = Replicate(first(), second(), spec, key, kCrypt);
  Bytes iv = Message(16);
  for (size_t size : {16u, 32u, 1024u}) {
    Bytes sealed = Ok(first().CbcEncrypt(key, Message(size), iv, false));
    EXPECT_EQ(sealed.size(), size);
    EXPECT_TRUE(Ok(second().CbcDecrypt(copy, sealed, iv, false)).Equals(Message(size)));
  }
  for (size_t size : {0u, 1u, 15u, 16u, 17u, 1000u}) {
    Bytes sealed = Ok(first().CbcEncrypt(key, Message(size), iv, true));
    EXPECT_EQ(sealed.size(), (size / 16 + 1) * 16) << size;
    EXPECT_TRUE(Ok(second().CbcDecrypt(copy, sealed, iv, true)).Equals(Message(size))) << size;
  }
  EXPECT_REASON(first().CbcEncrypt(key, Message(15), iv, false), REASON_DATA_INVALID);
  EXPECT_REASON(first().CbcEncrypt(key, {}, iv, false), REASON_DATA_INVALID);
  EXPECT_REASON(first().CbcEncrypt(key, Message(16), Message(12), false), REASON_DATA_INVALID);
  EXPECT_REASON(first().CbcDecrypt(key, Message(15), iv, true), REASON_DATA_INVALID);
  EXPECT_REASON(first().CbcDecrypt(key, {}, iv, true), REASON_DATA_INVALID);
  // A block that ends in 0 once decrypted can be no padding.
  Bytes unpadded = Ok(first().CbcEncrypt(key, Bytes(16, 0), iv, false));
  EXPECT_REASON(first().CbcDecrypt(key, unpadded, iv, true), REASON_DECRYPTION_FAILED);
}

TEST_P(TokenContract, EncryptOnlyKeysDoNotDecrypt) {
  KeySpec spec = Oct(128);
  TokenKey encrypts = Ok(first().Generate(spec, May({v1::KEY_OPERATION_ENCRYPT}))).key;
  TokenKey decrypts = Replicate(first(), first(), spec, encrypts, kDecrypt);
  GcmResult sealed = Ok(first().GcmEncrypt(encrypts, Message(10), {}));
  EXPECT_REASON(first().GcmDecrypt(encrypts, sealed.ciphertext, sealed.iv, sealed.tag, {}),
                REASON_OPERATION_NOT_ALLOWED);
  EXPECT_TRUE(first().GcmDecrypt(decrypts, sealed.ciphertext, sealed.iv, sealed.tag, {}).ok());
  EXPECT_REASON(first().GcmEncrypt(decrypts, Message(10), {}), REASON_OPERATION_NOT_ALLOWED);
  EXPECT_REASON(first().CbcEncrypt(decrypts, Message(16), Message(16), false), REASON_OPERATION_NOT_ALLOWED);
  EXPECT_REASON(first().Sign(encrypts, spec, v1::ALGORITHM_HS256, Message(3)), REASON_OPERATION_NOT_ALLOWED);
  EXPECT_REASON(first().KeyWrap(encrypts, Message(16)), REASON_OPERATION_NOT_ALLOWED);
}

// HMAC and CMAC of two tokens agree; a key shorter than the hash is either served or refused as UNSUPPORTED.
TEST_P(TokenContract, MacsAgreeBetweenTokens) {
  struct Case {
    v1::Algorithm algorithm;
    size_t bytes;
  };
  for (uint32_t bits : {128u, 192u, 256u}) {
    KeySpec spec = Oct(bits);
    TokenKey key = Ok(first().Generate(spec, kSign)).key;
    TokenKey copy = Replicate(first(), second(), spec, key, kSign);
    for (Case tested :
         {Case{v1::ALGORITHM_HS256, 32}, Case{v1::ALGORITHM_HS384, 48}, Case{v1::ALGORITHM_HS512, 64}}) {
      SCOPED_TRACE(AlgorithmName(tested.algorithm) + " " + std::to_string(bits));
      auto mac = first().Sign(key, spec, tested.algorithm, Message(200));
      if (bits / 8 < tested.bytes && !mac.ok()) {
        EXPECT_THAT(mac.status(), Fails(v1::REASON_UNSUPPORTED));
        continue;
      }
      EXPECT_EQ(Ok(std::move(mac)), Ok(second().Sign(copy, spec, tested.algorithm, Message(200))));
      EXPECT_EQ(Ok(first().Sign(key, spec, tested.algorithm, {})).size(), tested.bytes);
      EXPECT_REASON(first().Sign(key, spec, tested.algorithm, Message(16 * 1024 + 1)), REASON_DATA_INVALID);
    }
    EXPECT_EQ(Ok(first().Cmac(key, Message(100))), Ok(second().Cmac(copy, Message(100))));
    EXPECT_NE(Ok(first().Cmac(key, Message(100))), Ok(first().Cmac(key, Message(101))));
    if (bits == 256) {
      EXPECT_EQ(Ok(first().Hmac(key, Message(100))), Ok(second().Hmac(copy, Message(100))));
      EXPECT_EQ(Ok(first().Hmac(key, Message(100))),
                Ok(first().Sign(key, spec, v1::ALGORITHM_HS256, Message(100))));
    } else {
      EXPECT_REASON(first().Hmac(key, Message(100)), REASON_UNSUPPORTED);
    }
    first().Destroy(key);
    second().Destroy(copy);
  }
}

// A key known outside comes in by KW under a token key: then every answer can be compared with OpenSSL.
TEST_P(TokenContract, KeyWrapIsRfc3394) {
  const ObjectPolicy wraps{KeyUse::kKeyWrap, 0};
  for (uint32_t bits : {128u, 192u, 256u}) {
    KeySpec spec = Oct(bits);
    TokenKey transit = Ok(first().Generate(spec, {KeyUse::kTransit, 0})).key;
    TokenKey key = Replicate(first(), first(), spec, transit, wraps);
    TokenKey copy = Replicate(first(), second(), spec, transit, wraps);
    for (size_t size : {16u, 24u, 32u, 64u, 512u}) {
      Bytes wrapped = Ok(first().KeyWrap(key, Message(size)));
      EXPECT_EQ(wrapped.size(), size + 8);
      EXPECT_EQ(wrapped, Ok(second().KeyWrap(copy, Message(size))));
      EXPECT_TRUE(Ok(second().KeyUnwrap(copy, wrapped)).Equals(Message(size))) << size;
      wrapped[9] ^= 1;
      EXPECT_REASON(first().KeyUnwrap(key, wrapped), REASON_DECRYPTION_FAILED);
    }
    for (size_t size : {0u, 8u, 17u, 520u})
      EXPECT_REASON(first().KeyWrap(key, Message(size)), REASON_DATA_INVALID);
    for (size_t size : {0u, 16u, 25u, 528u})
      EXPECT_REASON(first().KeyUnwrap(key, Message(size)), REASON_DATA_INVALID);
    EXPECT_REASON(first().GcmEncrypt(key, Message(1), {}), REASON_OPERATION_NOT_ALLOWED);
    EXPECT_FALSE(first().Wrap(Kek::kReplication, key).ok())
        << "a key that wraps must not leave under the KEK";
    EXPECT_REASON(first().GcmEncrypt(transit, Message(1), {}), REASON_OPERATION_NOT_ALLOWED);
    EXPECT_REASON(first().Cmac(transit, Message(1)), REASON_OPERATION_NOT_ALLOWED);
  }
}

// With a key whose value the test knows, every symmetric answer is OpenSSL's.
TEST_P(TokenContract, SymmetricAnswersAreOpenSsls) {
  for (size_t bytes : {16u, 24u, 32u}) {
    const Bytes value = Digest(Hash::kSha256, Message(bytes)),
                key_bytes(value.begin(), value.begin() + bytes);
    const KeySpec spec = Oct(static_cast<uint32_t>(8 * bytes));
    const Bytes blob = backend_->seal(key_bytes);
    const ObjectPolicy all =
        May({v1::KEY_OPERATION_ENCRYPT, v1::KEY_OPERATION_DECRYPT, v1::KEY_OPERATION_SIGN});
    TokenKey key = Ok(second().Unwrap(Kek::kReplication, spec, all, blob));
    TokenKey wraps = Ok(second().Unwrap(Kek::kReplication, spec, {KeyUse::kKeyWrap, 0}, blob));
    const Bytes text = Message(64), aad = Message(7), iv = Message(16);

    GcmResult sealed = Ok(second().GcmEncrypt(key, text, aad));
    EXPECT_EQ(fake_crypto::GcmOpen(key_bytes, sealed.iv, sealed.ciphertext, sealed.tag, aad), text);
    fake_crypto::Sealed ours = fake_crypto::GcmSeal(key_bytes, ByteView(iv).first(12), text, aad);
    EXPECT_TRUE(
        Ok(second().GcmDecrypt(key, ours.ciphertext, ByteView(iv).first(12), ours.tag, aad)).Equals(text));
    for (bool pad : {false, true}) {
      EXPECT_EQ(Ok(second().CbcEncrypt(key, text, iv, pad)), fake_crypto::Cbc(key_bytes, iv, text, pad));
      Bytes cbc = fake_crypto::Cbc(key_bytes, iv, text, pad);
      EXPECT_TRUE(Ok(second().CbcDecrypt(key, cbc, iv, pad)).Equals(text));
    }
    EXPECT_EQ(Ok(second().Cmac(key, text)), fake_crypto::CmacOf(key_bytes, text));
    EXPECT_EQ(Ok(second().KeyWrap(wraps, text)), fake_crypto::Kw(key_bytes, text));
    EXPECT_TRUE(Ok(second().KeyUnwrap(wraps, fake_crypto::Kw(key_bytes, text))).Equals(text));
    for (v1::Algorithm algorithm : {v1::ALGORITHM_HS256, v1::ALGORITHM_HS384, v1::ALGORITHM_HS512}) {
      auto mac = second().Sign(key, spec, algorithm, text);
      if (mac.ok()) {
        EXPECT_EQ(*mac, fake_crypto::HmacOf(HashOf(algorithm), key_bytes, text));
      }
    }
    if (bytes == 32) {
      EXPECT_EQ(Ok(second().Hmac(key, text)), fake_crypto::HmacOf(Hash::kSha256, key_bytes, text));
    }
  }
}

TEST_P(TokenContract, DomainKeysDoOneThingOnly) {
  TokenKey mac = Ok(first().Generate(Oct(256), {KeyUse::kRecordMac, 0})).key;
  TokenKey mac_copy = Replicate(first(), second(), Oct(256), mac, {KeyUse::kRecordMac, 0});
  EXPECT_EQ(Ok(first().Hmac(mac, Message(1 << 20))), Ok(second().Hmac(mac_copy, Message(1 << 20))));
  EXPECT_EQ(Ok(first().Hmac(mac, {})).size(), 32u);
  EXPECT_REASON(first().Hmac(mac, Message((1 << 20) + 1)), REASON_DATA_INVALID);
  EXPECT_REASON(first().Sign(mac, Oct(256), v1::ALGORITHM_HS256, Message(1)), REASON_OPERATION_NOT_ALLOWED);
  EXPECT_REASON(first().Cmac(mac, Message(1)), REASON_OPERATION_NOT_ALLOWED);
  GeneratedKey manifest = Ok(first().Generate(Ec(v1::CURVE_P256), {KeyUse::kManifest, 0}));
  Bytes digest = Digest(Hash::kSha256, Message(9));
  Bytes signature = Ok(first().Sign(manifest.key, Ec(v1::CURVE_P256), v1::ALGORITHM_ES256, digest));
  EXPECT_TRUE(fake_crypto::VerifyEc(manifest.spki, digest, signature));
  EXPECT_REASON(first().Generate(Oct(128), {KeyUse::kRecordMac, 0}), REASON_ALGORITHM_MISMATCH);
  EXPECT_REASON(first().Generate(Rsa(2048), {KeyUse::kManifest, 0}), REASON_ALGORITHM_MISMATCH);
}

TEST_P(TokenContract, BlobsOpenOnlyUnderTheirKekAndAsTheirKind) {
  struct Case {
    KeySpec spec;
    const char* name;
  };
  const Case kinds[] = {{Oct(128), "oct-128"},           {Oct(192), "oct-192"},
                        {Oct(256), "oct-256"},           {Ec(v1::CURVE_P256), "P-256"},
                        {Ec(v1::CURVE_P384), "P-384"},   {Ec(v1::CURVE_P521), "P-521"},
                        {Ec(v1::CURVE_P256K), "P-256K"}, {Rsa(2048), "RSA-2048"}};
  for (const Case& made_kind : kinds) {
    TokenKey key = Ok(first().Generate(made_kind.spec, {KeyUse::kTransit, 0})).key;
    for (Kek kek : {Kek::kReplication, Kek::kBackup}) {
      Bytes blob = Ok(first().Wrap(kek, key));
      EXPECT_EQ(blob, Ok(first().Wrap(kek, key))) << "KWP has no chance in it";
      TokenKey again = Ok(second().Unwrap(kek, made_kind.spec, {KeyUse::kTransit, 0}, blob));
      EXPECT_EQ(Ok(second().Wrap(kek, again)), blob) << made_kind.name;
      second().Destroy(again);
      for (const Case& other : kinds) {
        if (other.spec == made_kind.spec) continue;
        EXPECT_REASON(second().Unwrap(kek, other.spec, {KeyUse::kTransit, 0}, blob), REASON_RECORD_CORRUPT)
            << made_kind.name << " as " << other.name;
      }
      Kek wrong = kek == Kek::kReplication ? Kek::kBackup : Kek::kReplication;
      EXPECT_REASON(first().Unwrap(wrong, made_kind.spec, {KeyUse::kTransit, 0}, blob),
                    REASON_RECORD_CORRUPT);
      for (size_t at : {size_t{0}, blob.size() / 2, blob.size() - 1}) {
        blob[at] ^= 0x80;
        EXPECT_REASON(first().Unwrap(kek, made_kind.spec, {KeyUse::kTransit, 0}, blob),
                      REASON_RECORD_CORRUPT);
        blob[at] ^= 0x80;
      }
      for (size_t size : {size_t{0}, size_t{8}, blob.size() - 8, blob.size() - 1})
        EXPECT_REASON(first().Unwrap(kek, made_kind.spec, {KeyUse::kTransit, 0}, ByteView(blob).first(size)),
                      REASON_RECORD_CORRUPT);
    }
    first().Destroy(key);
  }
}

TEST_P(TokenContract, Ed25519IsRefusedBeforeAnythingIsMade) {
  EXPECT_REASON(first().Generate(Ec(v1::CURVE_ED25519), kSign), REASON_UNSUPPORTED);
  EXPECT_REASON(first().Generate(Ec(v1::CURVE_ED25519), kSign), REASON_UNSUPPORTED);
}

TEST_P(TokenContract, FingerprintsTellKeksApart) {
  EXPECT_EQ(Ok(first().KekFingerprint(Kek::kReplication)), Ok(second().KekFingerprint(Kek::kReplication)));
  EXPECT_EQ(Ok(first().KekFingerprint(Kek::kBackup)), Ok(second().KekFingerprint(Kek::kBackup)));
  EXPECT_NE(Ok(first().KekFingerprint(Kek::kReplication)), Ok(first().KekFingerprint(Kek::kBackup)));
  EXPECT_GE(Ok(first().KekFingerprint(Kek::kBackup)).size(), 8u);
  EXPECT_LE(Ok(first().KekFingerprint(Kek::kBackup)).size(), 32u);
}

TEST_P(TokenContract, SelfTestAndProbePass) {
  EXPECT_TRUE(first().SelfTest().ok()) << first().SelfTest();
  EXPECT_TRUE(second().SelfTest().ok());
  EXPECT_TRUE(first().Probe().ok());
}

TEST_P(TokenContract, RandomBytesDiffer) {
  for (size_t size : {size_t{1}, size_t{32}, size_t{4096}})
    EXPECT_EQ(Ok(first().RandomBytes(size)).size(), size);
  EXPECT_NE(Ok(first().RandomBytes(32)), Ok(first().RandomBytes(32)));
  EXPECT_REASON(first().RandomBytes(0), REASON_DATA_INVALID);
  EXPECT_REASON(first().RandomBytes(4097), REASON_DATA_INVALID);
}

INSTANTIATE_TEST_SUITE_P(Tokens, TokenContract, ::testing::Values("Fake", "SoftHsm"),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace hsm
