#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <memory>

#include "cli/bench_token.h"
#include "common/bytes.h"
#include "common/error.h"
#include "common/random.h"

namespace hsm::cli {
namespace {

absl::Status Done(bool ok) { return ok ? absl::OkStatus() : Error(v1::REASON_INTERNAL, "OpenSSL failed"); }

using KeyPointer = std::shared_ptr<EVP_PKEY>;

Operation Signer(KeyPointer key, bool rsa) {
  std::shared_ptr<EVP_PKEY_CTX> context(EVP_PKEY_CTX_new(key.get(), nullptr), &EVP_PKEY_CTX_free);
  EVP_PKEY_sign_init(context.get());
  if (rsa) {
    EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING);
    EVP_PKEY_CTX_set_signature_md(context.get(), EVP_sha256());
  }
  return [key, context, digest = SystemRandom().Draw(32), signature = Bytes(1024)](uint32_t) mutable {
    size_t size = signature.size();
    return Done(EVP_PKEY_sign(context.get(), signature.data(), &size, digest.data(), digest.size()) == 1);
  };
}

Operation Hmac() {
  std::shared_ptr<EVP_MAC> algorithm(EVP_MAC_fetch(nullptr, "HMAC", nullptr), &EVP_MAC_free);
  std::shared_ptr<EVP_MAC_CTX> context(EVP_MAC_CTX_new(algorithm.get()), &EVP_MAC_CTX_free);
  return [algorithm, context, key = SystemRandom().Draw(32),
          data = SystemRandom().Draw(kBenchDataBytes)](uint32_t) {
    char hash[] = "SHA256";
    OSSL_PARAM parameters[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, hash, 0),
                               OSSL_PARAM_construct_end()};
    unsigned char out[32];
    size_t size = 0;
    return Done(EVP_MAC_init(context.get(), key.data(), key.size(), parameters) == 1 &&
                EVP_MAC_update(context.get(), data.data(), data.size()) == 1 &&
                EVP_MAC_final(context.get(), out, &size, sizeof out) == 1);
  };
}

Operation Gcm() {
  std::shared_ptr<EVP_CIPHER_CTX> context(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
  EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, SystemRandom().Draw(32).data(), nullptr);
  return [context, iv = SystemRandom().Draw(12), data = SystemRandom().Draw(kBenchDataBytes)](uint32_t) {
    unsigned char out[kBenchDataBytes], tag[16];
    int size = 0, rest = 0;
    return Done(EVP_EncryptInit_ex(context.get(), nullptr, nullptr, nullptr, iv.data()) == 1 &&
                EVP_EncryptUpdate(context.get(), out, &size, data.data(), static_cast<int>(data.size())) ==
                    1 &&
                EVP_EncryptFinal_ex(context.get(), out + size, &rest) == 1 &&
                EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, sizeof tag, tag) == 1);
  };
}

}  // namespace

absl::StatusOr<Operation> PrepareOpenSsl(BenchKey key) {
  switch (key) {
    case BenchKey::kP256:
      return Signer(KeyPointer(EVP_EC_gen("P-256"), &EVP_PKEY_free), false);
    case BenchKey::kRsa2048:
      return Signer(KeyPointer(EVP_RSA_gen(2048), &EVP_PKEY_free), true);
    case BenchKey::kRsa4096:
      return Signer(KeyPointer(EVP_RSA_gen(4096), &EVP_PKEY_free), true);
    case BenchKey::kHmac:
      return Hmac();
    case BenchKey::kAes256:
      return Gcm();
  }
  return Error(v1::REASON_UNSUPPORTED, "no such key");
}

}  // namespace hsm::cli
