#include "common/aead.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/sha.h>

#include <memory>
#include <utility>

#include "common/check.h"
#include "common/error.h"
#include "common/mutant.h"

namespace hsm {
namespace {

using Context = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

absl::Status CheckSizes(const SecretBytes& key, ByteView nonce, size_t text_bytes) {
  if (key.size() != kAeadKeyBytes || nonce.size() != kAeadNonceBytes || text_bytes > (1u << 30)) {
    return Error(v1::REASON_INVALID_ARGUMENT, "key, nonce or text of a wrong size for AES-256-GCM");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Bytes> AeadSeal(const SecretBytes& key, ByteView nonce, ByteView plaintext,
                               ByteView associated) {
  if (absl::Status status = CheckSizes(key, nonce, plaintext.size()); !status.ok()) return status;
  Context context(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
  Bytes out(plaintext.size() + kAeadTagBytes);
  int size = 0;
  int last = 0;
  bool done =
      context != nullptr &&
      EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.Expose().data(), nonce.data()) == 1 &&
      EVP_EncryptUpdate(context.get(), nullptr, &size, associated.data(),
                        static_cast<int>(associated.size())) == 1 &&
      EVP_EncryptUpdate(context.get(), out.data(), &size, plaintext.data(),
                        static_cast<int>(plaintext.size())) == 1 &&
      EVP_EncryptFinal_ex(context.get(), out.data() + size, &last) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kAeadTagBytes,
                          out.data() + plaintext.size()) == 1;
  if (!done) return Error(v1::REASON_INTERNAL, "AES-256-GCM failed");
  return out;
}

absl::StatusOr<SecretBytes> AeadOpen(const SecretBytes& key, ByteView nonce, ByteView sealed,
                                     ByteView associated) {
  if (absl::Status status = CheckSizes(key, nonce, sealed.size()); !status.ok()) return status;
  if (sealed.size() < kAeadTagBytes) return Error(v1::REASON_RECORD_CORRUPT, "sealed text is too short");
  ByteView body = sealed.first(sealed.size() - kAeadTagBytes);
  Bytes tag(sealed.end() - kAeadTagBytes, sealed.end());
  Context context(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
  SecretBytes out(body.size());
  int size = 0;
  int last = 0;
  bool done =
      context != nullptr &&
      EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.Expose().data(), nonce.data()) == 1 &&
      EVP_DecryptUpdate(context.get(), nullptr, &size, associated.data(),
                        static_cast<int>(associated.size())) == 1 &&
      EVP_DecryptUpdate(context.get(), out.ExposeForWriting().data(), &size, body.data(),
                        static_cast<int>(body.size())) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, kAeadTagBytes, tag.data()) == 1 &&
      (EVP_DecryptFinal_ex(context.get(), out.ExposeForWriting().data() + size, &last) == 1 ||
       HSM_MUTANT("aead-ignores-tag"));
  if (!done) return Error(v1::REASON_RECORD_CORRUPT, "sealed text does not open");
  return out;
}

Bytes Sha256(ByteView data) {
  static const EVP_MD* const kSha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);  // looking it up costs more
  Bytes out(SHA256_DIGEST_LENGTH);
  HSM_CHECK(EVP_Digest(data.data(), data.size(), out.data(), nullptr, kSha256, nullptr) == 1);
  return out;
}

Bytes HmacSha256(const SecretBytes& key, ByteView data) {
  Bytes out(SHA256_DIGEST_LENGTH);
  unsigned size = 0;
  static constexpr uint8_t kNoKey = 0;  // OpenSSL takes a null key for "the last one"
  const uint8_t* bytes = key.empty() ? &kNoKey : key.Expose().data();
  HSM_CHECK(HMAC(EVP_sha256(), bytes, static_cast<int>(key.size()), data.data(), data.size(), out.data(),
                 &size) != nullptr);
  return out;
}

SecretBytes HkdfSha256(const SecretBytes& secret, ByteView info, size_t size) {
  std::unique_ptr<EVP_PKEY_CTX, decltype(&EVP_PKEY_CTX_free)> context(
      EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nullptr), &EVP_PKEY_CTX_free);
  SecretBytes out(size);
  HSM_CHECK(context != nullptr && EVP_PKEY_derive_init(context.get()) == 1 &&
            EVP_PKEY_CTX_set_hkdf_md(context.get(), EVP_sha256()) == 1 &&
            EVP_PKEY_CTX_set1_hkdf_key(context.get(), secret.Expose().data(),
                                       static_cast<int>(secret.size())) == 1 &&
            EVP_PKEY_CTX_add1_hkdf_info(context.get(), info.data(), static_cast<int>(info.size())) == 1 &&
            EVP_PKEY_derive(context.get(), out.ExposeForWriting().data(), &size) == 1);
  return out;
}

}  // namespace hsm
