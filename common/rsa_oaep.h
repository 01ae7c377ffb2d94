#pragma once
// RSA-OAEP with SHA-256 for hash and MGF1 and no label, as the security domain's files use it, and the
// officers' private keys that open it.
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/secret.h"

struct evp_pkey_st;

namespace hsm {

// Of a DER SubjectPublicKeyInfo: the modulus' bits, 0 if it is no RSA key.
int RsaBits(ByteView spki);

// INVALID_ARGUMENT if the key is no RSA key, or too short for the text.
absl::StatusOr<Bytes> RsaOaepEncrypt(ByteView spki, const SecretBytes& plaintext);

class RsaPrivateKey {
 public:
  // Asked for the passphrase of an encrypted key; an error ends the reading.
  using Passphrase = std::function<absl::StatusOr<SecretBytes>()>;
  // PKCS#8 or traditional PEM, encrypted or not. INVALID_ARGUMENT: no RSA private key, or a wrong passphrase.
  static absl::StatusOr<RsaPrivateKey> FromPem(const SecretBytes& pem, const Passphrase& passphrase);

  Bytes Spki() const;
  absl::StatusOr<SecretBytes> Decrypt(ByteView ciphertext) const;  // DECRYPTION_FAILED

 private:
  explicit RsaPrivateKey(std::shared_ptr<evp_pkey_st> handle) : handle_(std::move(handle)) {}
  std::shared_ptr<evp_pkey_st> handle_;
};

}  // namespace hsm
