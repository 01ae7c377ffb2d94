#pragma once
// Inside of Pkcs11Token; nobody else includes this.
#include <array>
#include <atomic>
#include <unordered_map>

#include "common/error.h"
#include "node/kek_store.h"
#include "node/pkcs11_token.h"
#include "node/session_pool.h"
#include "node/token_rules.h"
#include "pkcs11/kwp.h"
#include "pkcs11/token_login.h"

namespace hsm {

struct Pkcs11Token::Impl {
  // One key of a caller. Destroyed in the token when the last user lets go, so that a purge never pulls a key
  // from under an operation that has begun.
  struct Object {
    Object(Impl& owner, const KeySpec& spec, const ObjectPolicy& policy, CK_OBJECT_HANDLE handle)
        : owner(owner), spec(spec), policy(policy), handle(handle) {}
    ~Object();
    Impl& owner;
    const KeySpec spec;
    const ObjectPolicy policy;
    std::atomic<CK_OBJECT_HANDLE> handle;
    std::atomic<CK_OBJECT_HANDLE> hmac_handle{
        CK_INVALID_HANDLE};  // the same value as a generic secret, made on demand
    Kek kek = Kek::kReplication;
    Bytes blob;  // what it was unwrapped from; empty for generated keys, which cannot be repaired
  };
  using ObjectPtr = std::shared_ptr<Object>;

  Impl(std::unique_ptr<pkcs11::Library> library, pkcs11::TokenInfo info, pkcs11::Session keeper,
       uint32_t sessions_max);

  // --- objects ---
  absl::StatusOr<ObjectPtr> Find(TokenKey key);
  TokenKey Add(ObjectPtr object);
  absl::StatusOr<CK_OBJECT_HANDLE> KekHandle(Kek kek);
  // The keeper's calls; each takes `mutations`.
  absl::StatusOr<CK_OBJECT_HANDLE> UnwrapObject(Kek kek, ByteView wrapped, pkcs11::Template attributes);
  absl::StatusOr<GeneratedKey> GeneratePair(const KeySpec& spec, const ObjectPolicy& policy);
  absl::StatusOr<CK_OBJECT_HANDLE> GenerateSecret(const KeySpec& spec, const ObjectPolicy& policy);
  void DestroyHandle(CK_OBJECT_HANDLE handle);
  // Unwraps the key again if its handle still is the one that failed.
  absl::Status Repair(Object& object, CK_OBJECT_HANDLE failed);
  // SPKI of a new pair, after CheckUnwrapped of its private half.
  absl::StatusOr<Bytes> ReadPublic(const KeySpec& spec, const pkcs11::KeyPair& pair) HSM_REQUIRES(mutations);
  // Only reads; `session` is the keeper while `mutations` is held, or a leased one.
  absl::Status CheckUnwrapped(pkcs11::Session& session, const KeySpec& spec, CK_OBJECT_HANDLE handle);
  // Whether the token can make keys of this curve and wrap them; tried once per curve.
  absl::Status CheckCurve(v1::Curve curve);
  absl::StatusOr<CK_OBJECT_HANDLE> HmacHandle(Object& object);
  // 12 bytes of the token's generator, which is asked for many at a time; each is given out once.
  absl::StatusOr<Bytes> DrawIv(pkcs11::Session& session);

  // GENERAL_ERROR says "bad input" on one token and "device gone" on another: asks the token for a real
  // operation.
  absl::Status Judge(absl::Status status);
  absl::Status ProbeToken();

  // Runs `operation(session, handle)` on a leased session; repairs a lost session or handle and tries once
  // more.
  template <typename Operation>
  auto Run(Object& object, Operation operation)
      -> decltype(operation(std::declval<pkcs11::Session&>(), CK_OBJECT_HANDLE{})) {
    for (int attempt = 0;; ++attempt) {
      auto lease = pool.Take();
      if (!lease.ok()) return lease.status();
      const CK_OBJECT_HANDLE handle = object.handle;
      auto result = operation(**lease, handle);
      if (result.ok()) return result;
      pkcs11::RvClass klass = pkcs11::ClassOf(pkcs11::RvOf(result.status()));
      bool repairable = klass == pkcs11::RvClass::kSession || klass == pkcs11::RvClass::kHandle;
      if (!repairable || attempt > 0) return Judge(result.status());
      if (klass == pkcs11::RvClass::kSession) pool.CloseIdle();
      if (klass == pkcs11::RvClass::kHandle) {
        absl::Status repaired = Repair(object, handle);
        if (!repaired.ok()) return result.status();
      }
    }
  }

  std::unique_ptr<pkcs11::Library> library;
  const pkcs11::TokenInfo info;
  CK_MECHANISM_TYPE kwp = 0;
  CK_OBJECT_HANDLE probe_key = CK_INVALID_HANDLE;
  std::atomic<bool> closed{false};
  enum class Known : int { kUntried, kYes, kNo };
  std::atomic<Known> oaep_sha256{Known::kUntried};
  std::array<std::atomic<Known>, 8> curves{};

  // Held across token calls: serialising what makes and destroys objects is the purpose.
  Mutex mutations;
  pkcs11::Session keeper HSM_GUARDED_BY(mutations);
  std::optional<KekSet> keks;  // fixed after Open, but for handles found again (kek_handles)
  std::array<std::atomic<CK_OBJECT_HANDLE>, 2> kek_handles{};

  Mutex ivs_mutex;
  Bytes ivs HSM_GUARDED_BY(ivs_mutex);  // taken from the end

  SessionPool pool;

  static constexpr size_t kShards = 16;
  struct Shard {
    Mutex mutex;
    std::unordered_map<TokenKey, ObjectPtr> objects HSM_GUARDED_BY(mutex);
  };
  std::array<Shard, kShards> shards;
  std::atomic<TokenKey> next_key{1};
};

}  // namespace hsm
