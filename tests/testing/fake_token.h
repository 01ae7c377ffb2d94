#pragma once
// A Token made of OpenSSL calls, for simulation and for tests of the node. Deterministic: the same Random and
// the same calls give the same bytes, RSA keys excepted unless a pool is given. Held to
// tests/contract/token_contract_test.cc. Yields to the simulated scheduler, if there is one, at the start of
// each call. Thread-safe.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "common/mutex.h"
#include "common/random.h"
#include "node/token.h"

namespace hsm {

// The two KEKs of a domain. Tokens given the same one can open each other's blobs.
struct FakeDomain {
  explicit FakeDomain(Random& random) : replication_kek(random.Draw(32)), backup_kek(random.Draw(32)) {}
  Bytes replication_kek;
  Bytes backup_kek;
};

// RSA keys made once and handed out in turn, since making one takes as long as thousands of simulated steps.
class FakeRsaPool {
 public:
  // `count` keys of each size, made on first use.
  explicit FakeRsaPool(size_t count = 2) : count_(count) {}
  Bytes Next(uint32_t size_bits);  // PKCS#8 DER
 private:
  Mutex mutex_;
  const size_t count_;
  std::map<uint32_t, std::vector<Bytes>> keys_ HSM_GUARDED_BY(mutex_);
  std::map<uint32_t, size_t> next_ HSM_GUARDED_BY(mutex_);
};

class FakeToken final : public Token {
 public:
  // No domain = a token that was provisioned and has no KEKs yet: calls that need one answer NOT_ACTIVE.
  FakeToken(std::shared_ptr<const FakeDomain> domain, Random& random, std::string label = "fake",
            std::shared_ptr<FakeRsaPool> rsa_pool = nullptr);
  ~FakeToken() override;

  // --- faults; each may be set from any thread while calls run ---
  // The `nth` call from now (1 = the next one) of `method` ("" = any) fails with `reason`, `times` times in a
  // row.
  void FailCalls(std::string method, uint64_t nth, v1::Reason reason, uint64_t times = 1);
  void ForgetFaults();                             // of FailCalls, FailAll, PlantWrongKey and FlipSignatures
  void FailAll(std::optional<v1::Reason> reason);  // a device that is gone; nullopt = back
  void Hang();                                     // calls block until Release
  void Release();
  void PlantWrongKey(uint64_t unwraps = 1);           // the next unwraps give another key of the same kind
  void FlipSignatures(bool on);                       // a faulty device: one bit of every signature is wrong
  void SetDelay(Clock* clock, absl::Duration delay);  // each call takes this long; null = none
  void Lack(v1::Curve curve);                         // the token does not have this curve
  void SetDomain(std::shared_ptr<const FakeDomain> domain);
  void WeakenSelfTest(std::string check);  // SelfTest reports this check as failed; "" = sound again
  // What a process end does: all session objects are gone.
  void DropAllKeys();

  // --- what tests look at ---
  size_t live_keys() const;
  uint64_t calls() const;

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
  struct Object;
  struct Fault {
    std::string method;
    uint64_t countdown = 0;
    v1::Reason reason = v1::REASON_UNSPECIFIED;
    uint64_t times = 0;
  };

  // At the start of every call: yields, counts, applies faults.
  absl::Status Enter(const char* method);
  absl::StatusOr<std::shared_ptr<const Object>> Find(TokenKey key) const;
  absl::StatusOr<Bytes> KekBytes(Kek kek) const;
  absl::StatusOr<std::shared_ptr<Object>> NewObject(const KeySpec& spec, const ObjectPolicy& policy);
  TokenKey Add(std::shared_ptr<const Object> object);
  Bytes Faulty(Bytes signature) const;

  Random& random_;
  const std::string label_;
  const std::shared_ptr<FakeRsaPool> rsa_pool_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<const FakeDomain> domain_ HSM_GUARDED_BY(mutex_);
  std::map<TokenKey, std::shared_ptr<const Object>> objects_ HSM_GUARDED_BY(mutex_);
  TokenKey next_key_ HSM_GUARDED_BY(mutex_) = 1;
  uint64_t calls_ HSM_GUARDED_BY(mutex_) = 0;
  std::vector<Fault> faults_ HSM_GUARDED_BY(mutex_);
  std::optional<v1::Reason> fail_all_ HSM_GUARDED_BY(mutex_);
  bool hanging_ HSM_GUARDED_BY(mutex_) = false;
  uint64_t wrong_keys_ HSM_GUARDED_BY(mutex_) = 0;
  bool flip_signatures_ HSM_GUARDED_BY(mutex_) = false;
  Clock* delay_clock_ HSM_GUARDED_BY(mutex_) = nullptr;
  absl::Duration delay_ HSM_GUARDED_BY(mutex_);
  std::vector<v1::Curve> lacking_ HSM_GUARDED_BY(mutex_);
  std::string weak_check_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
