#pragma once
// Token over any PKCS#11 module: one process, one module, one token.
//
// One keeper session owns every object and does nothing else; all calls that make, copy or destroy objects go
// through its mutex (SoftHSM answers spurious errors when several threads create). Operations lease a session
// of the pool. A lost session or handle is repaired inside: the key is unwrapped again from the blob it came
// from, once.
#include <memory>
#include <string>

#include "node/token.h"
#include "node/token_config.h"

namespace hsm {

class Pkcs11Token final : public Token {
 public:
  // Loads the module, finds the token, logs in as the user (the PIN is tried once), removes start-up garbage,
  // finds the KWP mechanism and the KEKs. Without KEKs it opens as well: calls that need one answer
  // NOT_ACTIVE. Errors: CONFIG_INVALID, NOT_FOUND (no such token: it must be provisioned), PIN_INCORRECT,
  // LOCKED, TOKEN_FAILED.
  static absl::StatusOr<std::unique_ptr<Pkcs11Token>> Open(const TokenConfig& config);
  ~Pkcs11Token() override;

  bool HasKeks() const;  // both KEKs of one domain are there
  std::string DomainTag()
      const;  // hsm id (hex) and generation as written on the KEKs: "0123...:1"; "" without

  // The join probe (pkcs11/probe.h): what this token can do and whether it enforces the KEK's rules. Takes a
  // moment; keys cannot be made or unwrapped meanwhile. A grade other than "strong" is no partition outside
  // of tests.
  struct ProbeSummary {
    std::string grade;  // "strong", "interop-only", "no-wrap"
    std::string json;
  };
  ProbeSummary JoinProbe();

  // Ends use of the module from main (never from a static destructor: SoftHSM crashes there). No calls after.
  void Shutdown();

  TokenIdentity Identity() const override;
  absl::StatusOr<GeneratedKey> Generate(const KeySpec& spec, const ObjectPolicy& policy) override;
  absl::StatusOr<TokenKey> Unwrap(Kek kek, const KeySpec& spec, const ObjectPolicy& policy,
                                  ByteView wrapped) override;
  absl::StatusOr<Bytes> Wrap(Kek kek, TokenKey key) override;
  void Destroy(TokenKey key) override;
  absl::StatusOr<Bytes> Sign(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                             ByteView data) override;
  absl::StatusOr<SecretBytes> RsaDecrypt(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                                         ByteView ciphertext) override;
  absl::StatusOr<GcmResult> GcmEncrypt(TokenKey key, ByteView plaintext, ByteView aad) override;
  absl::StatusOr<SecretBytes> GcmDecrypt(TokenKey key, ByteView ciphertext, ByteView iv, ByteView tag,
                                         ByteView aad) override;
  absl::StatusOr<Bytes> CbcEncrypt(TokenKey key, ByteView plaintext, ByteView iv, bool pad) override;
  absl::StatusOr<SecretBytes> CbcDecrypt(TokenKey key, ByteView ciphertext, ByteView iv, bool pad) override;
  absl::StatusOr<Bytes> KeyWrap(TokenKey key, ByteView plaintext_key) override;
  absl::StatusOr<SecretBytes> KeyUnwrap(TokenKey key, ByteView wrapped) override;
  absl::StatusOr<Bytes> Hmac(TokenKey key, ByteView data) override;
  absl::StatusOr<Bytes> Cmac(TokenKey key, ByteView data) override;
  absl::StatusOr<Bytes> RandomBytes(size_t size) override;
  absl::StatusOr<Bytes> KekFingerprint(Kek kek) override;
  absl::Status SelfTest() override;
  absl::Status Probe() override;

 private:
  struct Impl;
  explicit Pkcs11Token(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm
