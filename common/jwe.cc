#include "common/jwe.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>

#include "common/check.h"
#include "common/deleter.h"
#include "common/error.h"
#include "common/json.h"
#include "common/rsa_oaep.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr size_t kHalf = kJweKeyBytes / 2, kIvBytes = 16, kBlockBytes = 16, kTagBytes = 32;
constexpr std::string_view kEnc = "A256CBC-HS512", kDirect = "dir", kOaep = "RSA-OAEP-256",
                           kNoKid = "not used";
constexpr size_t kKidBytesMax = 128, kEncryptedKeyBytesMax = 2048;

using Context = std::unique_ptr<EVP_CIPHER_CTX, Deleter<EVP_CIPHER_CTX_free>>;

absl::Status Malformed(std::string_view what) { return Error(v1::REASON_INVALID_ARGUMENT, what); }
absl::Status Failed() { return Error(v1::REASON_DECRYPTION_FAILED, "decryption failed"); }

struct Parts {
  std::string_view protected_header;  // as it stands: it is what the tag covers
  std::string alg, kid;
  Bytes encrypted_key, iv, ciphertext, tag;
};

absl::StatusOr<Parts> Split(std::string_view compact) {
  if (compact.size() > kJweBytesMax) return Malformed("the JWE is too large");
  std::array<std::string_view, 5> texts;
  for (size_t i = 0; i < texts.size(); ++i) {
    const size_t dot = compact.find('.');
    if ((dot == std::string_view::npos) != (i + 1 == texts.size()))
      return Malformed("a compact JWE has five parts");
    texts[i] = compact.substr(0, dot);
    compact.remove_prefix(std::min(compact.size(), dot == std::string_view::npos ? dot : dot + 1));
  }
  std::array<Bytes, 5> parts;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::optional<Bytes> bytes = FromBase64Url(texts[i]);
    if (!bytes || texts[i].ends_with('=')) return Malformed("a part of the JWE is not base64url");
    parts[i] = *std::move(bytes);
  }
  HSM_ASSIGN_OR_RETURN(const Json header, Json::Parse(StringView(parts[0]), 2));
  Parts out{.protected_header = texts[0]};
  for (const auto& [name, value] : header.members()) {
    if (name != "alg" && name != "enc" && name != "kid")
      return Malformed("the JWE's header has more than alg, enc, kid");
  }
  auto text = [&](std::string_view name) {
    const Json* found = header.Find(name);
    return found == nullptr ? std::nullopt : found->AsString();
  };
  if (text("enc") != kEnc) return Malformed("the JWE's enc is not A256CBC-HS512");
  out.alg = text("alg").value_or("");
  out.kid = text("kid").value_or("");
  out.encrypted_key = std::move(parts[1]);
  out.iv = std::move(parts[2]);
  out.ciphertext = std::move(parts[3]);
  out.tag = std::move(parts[4]);
  if (out.iv.size() != kIvBytes || out.tag.size() != kTagBytes || out.ciphertext.empty() ||
      out.ciphertext.size() % kBlockBytes != 0) {
    return Malformed("the JWE's IV, ciphertext or tag has a length that A256CBC-HS512 does not make");
  }
  return out;
}

// RFC 7518, 5.2.2.1: the first half of the MAC over AAD || IV || ciphertext || bits of AAD.
Bytes Tag(const SecretBytes& key, std::string_view aad, ByteView iv, ByteView ciphertext) {
  Bytes input = ToBytes(aad);
  input.insert(input.end(), iv.begin(), iv.end());
  input.insert(input.end(), ciphertext.begin(), ciphertext.end());
  for (int shift = 56; shift >= 0; shift -= 8)
    input.push_back(static_cast<uint8_t>(uint64_t{8} * aad.size() >> shift));
  Bytes mac(EVP_MAX_MD_SIZE);
  unsigned size = 0;
  HSM_CHECK(HMAC(EVP_sha512(), key.Expose().data(), kHalf, input.data(), input.size(), mac.data(), &size) !=
            nullptr);
  mac.resize(kTagBytes);
  return mac;
}

absl::StatusOr<std::string> Seal(const std::string& header, ByteView encrypted_key, const SecretBytes& key,
                                 const SecretBytes& plaintext, Random& random) {
  if (plaintext.size() > kJwePlainBytesMax) return Malformed("the text is too large for a JWE");
  const std::string aad = Base64Url(View(header));
  const Bytes iv = random.Draw(kIvBytes);
  Bytes ciphertext(plaintext.size() + kBlockBytes);
  int body = 0, end = 0;
  const Context context(EVP_CIPHER_CTX_new());
  HSM_CHECK(EVP_EncryptInit_ex2(context.get(), EVP_aes_256_cbc(), key.Expose().data() + kHalf, iv.data(),
                                nullptr) == 1);
  HSM_CHECK(EVP_EncryptUpdate(context.get(), ciphertext.data(), &body, plaintext.Expose().data(),
                              static_cast<int>(plaintext.size())) == 1);
  HSM_CHECK(EVP_EncryptFinal_ex(context.get(), ciphertext.data() + body, &end) == 1);
  ciphertext.resize(static_cast<size_t>(body + end));
  return aad + '.' + Base64Url(encrypted_key) + '.' + Base64Url(iv) + '.' + Base64Url(ciphertext) + '.' +
         Base64Url(Tag(key, aad, iv, ciphertext));
}

absl::StatusOr<SecretBytes> Open(const Parts& parts, const SecretBytes& key) {
  if (key.size() != kJweKeyBytes) return Failed();
  if (!EqualConstantTime(Tag(key, parts.protected_header, parts.iv, parts.ciphertext), parts.tag))
    return Failed();
  SecretBytes plain(parts.ciphertext.size());
  int body = 0, end = 0;
  const Context context(EVP_CIPHER_CTX_new());
  HSM_CHECK(EVP_DecryptInit_ex2(context.get(), EVP_aes_256_cbc(), key.Expose().data() + kHalf,
                                parts.iv.data(), nullptr) == 1);
  uint8_t* out = plain.ExposeForWriting().data();
  const bool opened = EVP_DecryptUpdate(context.get(), out, &body, parts.ciphertext.data(),
                                        static_cast<int>(parts.ciphertext.size())) == 1 &&
                      EVP_DecryptFinal_ex(context.get(), out + body, &end) == 1;
  ERR_clear_error();
  if (!opened) return Failed();
  return SecretBytes(Bytes(plain.Expose().begin(), plain.Expose().begin() + body + end));
}

std::string Header(std::string_view alg, std::string_view kid) {
  return Json::Object({{"alg", alg}, {"enc", kEnc}, {"kid", kid}}).Dump();
}

bool GoodKid(std::string_view kid) {
  return !kid.empty() && kid.size() <= kKidBytesMax &&
         std::all_of(kid.begin(), kid.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

absl::StatusOr<std::string> JweSeal(const SecretBytes& key, std::string_view kid,
                                    const SecretBytes& plaintext, Random& random) {
  if (key.size() != kJweKeyBytes) return Malformed("A256CBC-HS512 takes a key of 64 bytes");
  if (!GoodKid(kid)) return Malformed("a kid has 1 to 128 printable characters");
  return Seal(Header(kDirect, kid), {}, key, plaintext, random);
}

absl::StatusOr<SecretBytes> JweOpen(std::string_view compact, const SecretBytes& key, std::string_view kid) {
  HSM_ASSIGN_OR_RETURN(const Parts parts, Split(compact));
  if (parts.alg != kDirect || !parts.encrypted_key.empty()) return Malformed("the JWE's alg is not dir");
  if (parts.kid != kid) return Malformed("the JWE carries another kid");
  return Open(parts, key);
}

absl::StatusOr<std::string> JweSealTo(ByteView spki, const SecretBytes& plaintext, Random& random) {
  const SecretBytes key(random.Draw(kJweKeyBytes));
  HSM_ASSIGN_OR_RETURN(const Bytes encrypted, RsaOaepEncrypt(spki, key));
  return Seal(Header(kOaep, kNoKid), encrypted, key, plaintext, random);
}

absl::StatusOr<SecretBytes> JweOpenWith(std::string_view compact, const JweUnwrap& unwrap) {
  HSM_ASSIGN_OR_RETURN(const Parts parts, Split(compact));
  if (parts.alg != kOaep) return Malformed("the JWE's alg is not RSA-OAEP-256");
  if (parts.encrypted_key.empty() || parts.encrypted_key.size() > kEncryptedKeyBytesMax) {
    return Malformed("the JWE's encrypted key is not of an RSA key");
  }
  HSM_ASSIGN_OR_RETURN(const SecretBytes key, unwrap(parts.encrypted_key));
  return Open(parts, key);
}

}  // namespace hsm
