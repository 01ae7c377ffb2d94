#include "common/rsa_oaep.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

#include "common/deleter.h"
#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr size_t kPemBytesMax = 64 * 1024;

using Key = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using KeyContext = std::unique_ptr<EVP_PKEY_CTX, Deleter<EVP_PKEY_CTX_free>>;
using Bio = std::unique_ptr<BIO, Deleter<BIO_free>>;

Key RsaPublicKey(ByteView spki) {
  const unsigned char* at = spki.data();
  Key key(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
  if (key != nullptr && (at != spki.data() + spki.size() || EVP_PKEY_is_a(key.get(), "RSA") != 1))
    key.reset();
  ERR_clear_error();
  return key;
}

bool UseOaep(EVP_PKEY_CTX* context) {
  return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) == 1 &&
         EVP_PKEY_CTX_set_rsa_oaep_md(context, EVP_sha256()) == 1 &&
         EVP_PKEY_CTX_set_rsa_mgf1_md(context, EVP_sha256()) == 1;
}

struct Asked {
  const RsaPrivateKey::Passphrase& passphrase;
  absl::Status status;
  bool any = false;
};
int AskPassphrase(char* buffer, int size, int, void* data) {
  auto& asked = *static_cast<Asked*>(data);
  asked.any = true;
  absl::StatusOr<SecretBytes> said = asked.passphrase();
  if (!said.ok()) {
    asked.status = said.status();
    return -1;
  }
  if (said->size() > static_cast<size_t>(size)) return -1;
  memcpy(buffer, said->Expose().data(), said->size());
  return static_cast<int>(said->size());
}

}  // namespace

int RsaBits(ByteView spki) {
  const Key key = RsaPublicKey(spki);
  return key == nullptr ? 0 : EVP_PKEY_get_bits(key.get());
}

absl::StatusOr<Bytes> RsaOaepEncrypt(ByteView spki, const SecretBytes& plaintext) {
  const Key key = RsaPublicKey(spki);
  if (key == nullptr) return Error(v1::REASON_INVALID_ARGUMENT, "not an RSA public key");
  const KeyContext context(EVP_PKEY_CTX_new(key.get(), nullptr));
  Bytes out(static_cast<size_t>(EVP_PKEY_get_size(key.get())));
  size_t size = out.size();
  if (context == nullptr || EVP_PKEY_encrypt_init(context.get()) != 1 || !UseOaep(context.get()) ||
      EVP_PKEY_encrypt(context.get(), out.data(), &size, plaintext.Expose().data(), plaintext.size()) != 1) {
    ERR_clear_error();
    return Error(v1::REASON_INVALID_ARGUMENT, "the RSA key is too short for what is to be encrypted");
  }
  out.resize(size);
  return out;
}

absl::StatusOr<RsaPrivateKey> RsaPrivateKey::FromPem(const SecretBytes& pem, const Passphrase& passphrase) {
  if (pem.empty() || pem.size() > kPemBytesMax)
    return Error(v1::REASON_INVALID_ARGUMENT, "not a PEM private key");
  const Bio bio(BIO_new_mem_buf(pem.Expose().data(), static_cast<int>(pem.size())));
  Asked asked{passphrase, absl::OkStatus()};
  std::shared_ptr<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, AskPassphrase, &asked),
                                &EVP_PKEY_free);
  ERR_clear_error();
  HSM_RETURN_IF_ERROR(asked.status);
  if (key == nullptr) {
    return Error(v1::REASON_INVALID_ARGUMENT,
                 asked.any ? "the private key does not open: wrong passphrase?" : "not a PEM private key");
  }
  if (EVP_PKEY_is_a(key.get(), "RSA") != 1)
    return Error(v1::REASON_INVALID_ARGUMENT, "not an RSA private key");
  return RsaPrivateKey(std::move(key));
}

Bytes RsaPrivateKey::Spki() const {
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(handle_.get(), &der);
  if (size <= 0) return {};
  Bytes out(der, der + size);
  OPENSSL_free(der);
  return out;
}

absl::StatusOr<SecretBytes> RsaPrivateKey::Decrypt(ByteView ciphertext) const {
  const KeyContext context(EVP_PKEY_CTX_new(handle_.get(), nullptr));
  SecretBytes out(static_cast<size_t>(EVP_PKEY_get_size(handle_.get())));
  size_t size = out.size();
  if (context == nullptr || EVP_PKEY_decrypt_init(context.get()) != 1 || !UseOaep(context.get()) ||
      EVP_PKEY_decrypt(context.get(), out.ExposeForWriting().data(), &size, ciphertext.data(),
                       ciphertext.size()) != 1) {
    ERR_clear_error();
    return Error(v1::REASON_DECRYPTION_FAILED, "decryption failed");
  }
  return SecretBytes(Bytes(out.Expose().begin(), out.Expose().begin() + static_cast<std::ptrdiff_t>(size)));
}

}  // namespace hsm
