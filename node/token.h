#pragma once
// The seam to one token. Implementations: Pkcs11Token (any PKCS#11 module), FakeToken (OpenSSL, in
// tests/testing), both held to tests/contract/token_contract_test.cc. Thread-safe; calls block until the
// token answers. A call cannot be cancelled: the watchdog ends the process when one overruns. Device profiles
// wrap a Token (node/profile_token.h).
//
// Handles (TokenKey) name session objects of this process: they die with it, are never stored and never sent.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/record.h"
#include "common/secret.h"
#include "hsm/v1/mechanism.pb.h"

namespace hsm {

enum class Kek { kReplication, kBackup };

using TokenKey = uint64_t;  // 0 = none

// What an unwrapped or generated object may do; everything not named is off.
enum class KeyUse : uint8_t {
  kPolicy,     // as `operations` of the key's head allow
  kRecordMac,  // domain bundle: HMAC-SHA-256 only
  kManifest,   // domain bundle: ECDSA P-256 signing only
  kTransit,    // no use at all but being wrapped: exporter and importer
  kKeyWrap,    // A*KW: wrap and unwrap of callers' keys, only RFC 3394
};
struct ObjectPolicy {
  KeyUse use = KeyUse::kPolicy;
  OperationSet operations = 0;
};

struct GeneratedKey {
  TokenKey key = 0;
  Bytes spki;  // DER; empty for oct
};

struct GcmResult {
  Bytes ciphertext, iv, tag;  // 12-byte IV, 16-byte tag
};

struct TokenIdentity {
  std::string manufacturer, model, serial, label;
};

class Token {
 public:
  virtual ~Token() = default;

  virtual TokenIdentity Identity() const = 0;

  // Session objects. Unwrap takes the KWP blob of a sealed record whose MAC has been checked.
  // Errors: UNSUPPORTED (type or curve the token lacks, or cannot wrap: Ed25519 on SoftHSM 2.6),
  // RECORD_CORRUPT (blob does not open), TOKEN_CAPACITY, TOKEN_FAILED.
  virtual absl::StatusOr<GeneratedKey> Generate(const KeySpec& spec, const ObjectPolicy& policy) = 0;
  virtual absl::StatusOr<TokenKey> Unwrap(Kek kek, const KeySpec& spec, const ObjectPolicy& policy,
                                          ByteView wrapped) = 0;
  virtual absl::StatusOr<Bytes> Wrap(Kek kek, TokenKey key) = 0;
  virtual void Destroy(TokenKey key) = 0;

  // Private-key and secret-key operations. Sizes as in hsm/v1/mechanism.proto.
  virtual absl::StatusOr<Bytes> Sign(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                                     ByteView data) = 0;
  // RSA decrypt (also unwrapKey by OAEP). DECRYPTION_FAILED for bad padding.
  virtual absl::StatusOr<SecretBytes> RsaDecrypt(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                                                 ByteView ciphertext) = 0;
  virtual absl::StatusOr<GcmResult> GcmEncrypt(TokenKey key, ByteView plaintext, ByteView aad) = 0;
  virtual absl::StatusOr<SecretBytes> GcmDecrypt(TokenKey key, ByteView ciphertext, ByteView iv, ByteView tag,
                                                 ByteView aad) = 0;
  virtual absl::StatusOr<Bytes> CbcEncrypt(TokenKey key, ByteView plaintext, ByteView iv, bool pad) = 0;
  virtual absl::StatusOr<SecretBytes> CbcDecrypt(TokenKey key, ByteView ciphertext, ByteView iv,
                                                 bool pad) = 0;
  // RFC 3394 under `key` (an object unwrapped with KeyUse::kKeyWrap): 16..512 bytes, a multiple of 8.
  virtual absl::StatusOr<Bytes> KeyWrap(TokenKey key, ByteView plaintext_key) = 0;
  virtual absl::StatusOr<SecretBytes> KeyUnwrap(TokenKey key, ByteView wrapped) = 0;
  // HMAC-SHA-256 of at most 1 MiB; kRecordMac keys, and kPolicy oct keys of 32 bytes for proofs.
  virtual absl::StatusOr<Bytes> Hmac(TokenKey key, ByteView data) = 0;
  // AES-CMAC of at most 1 KiB; proofs of oct keys shorter than the hash.
  virtual absl::StatusOr<Bytes> Cmac(TokenKey key, ByteView data) = 0;
  virtual absl::StatusOr<Bytes> RandomBytes(size_t size) = 0;  // 1..4096

  // KWP of a public constant under the KEK: equal exactly when the KEKs are equal.
  virtual absl::StatusOr<Bytes> KekFingerprint(Kek kek) = 0;
  // Tries everything DESIGN section 4 says must fail. OK only if all of it was refused.
  virtual absl::Status SelfTest() = 0;
  // A cheap real operation with a key of the token's own; how health is judged.
  virtual absl::Status Probe() = 0;
};

}  // namespace hsm
