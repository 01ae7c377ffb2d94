#include "node/executor.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/replica.h"
#include "common/status_macros.h"

namespace hsm {

absl::Status CheckKeyUse(const IndexEntry& entry, v1::CryptoOperation operation, int64_t now_seconds) {
  if (entry.state == KeyState::kTombstone) return Error(v1::REASON_TOMBSTONED, "the key was purged");
  if (entry.state != KeyState::kActive) return Error(v1::REASON_KEY_NOT_FOUND, "the key is deleted");
  if (!entry.enabled) return Error(v1::REASON_KEY_DISABLED, "the key is disabled");
  v1::KeyOperation needed = NeededOperation(operation);
  if (needed == v1::KEY_OPERATION_UNSPECIFIED) return Error(v1::REASON_INVALID_ARGUMENT, "no such operation");
  if ((entry.operations & Bit(needed)) == 0) {
    return Error(v1::REASON_OPERATION_NOT_ALLOWED,
                 "the key's operations do not list " + OperationName(needed));
  }
  bool creates = operation == v1::CRYPTO_OPERATION_SIGN || operation == v1::CRYPTO_OPERATION_ENCRYPT ||
                 operation == v1::CRYPTO_OPERATION_WRAP_KEY;
  bool outside = (entry.not_before && now_seconds < *entry.not_before) ||
                 (entry.expires && now_seconds >= *entry.expires);
  if (creates && outside) {
    return Error(v1::REASON_KEY_OUTSIDE_VALIDITY,
                 "the key is not valid yet or not any more; it still decrypts, unwraps "
                 "and verifies");
  }
  return absl::OkStatus();
}

namespace {

constexpr int64_t kQuickNsMax = 250'000;         // an operation that usually takes longer goes to a worker
constexpr int64_t kQuickBatchNsMax = 4'000'000;  // as does a batch
constexpr int64_t kUsualNsMax = 4'000'000'000;

enum class Family { kNone, kSignature, kMac, kRsaEncryption, kGcm, kCbc, kKeyWrap };
Family FamilyOf(v1::Algorithm algorithm) {
  if (algorithm >= v1::ALGORITHM_RS256 && algorithm <= v1::ALGORITHM_ES256K) return Family::kSignature;
  if (algorithm >= v1::ALGORITHM_HS256 && algorithm <= v1::ALGORITHM_HS512) return Family::kMac;
  if (algorithm >= v1::ALGORITHM_RSA_OAEP && algorithm <= v1::ALGORITHM_RSA1_5) return Family::kRsaEncryption;
  if (algorithm >= v1::ALGORITHM_A128GCM && algorithm <= v1::ALGORITHM_A256GCM) return Family::kGcm;
  if (algorithm >= v1::ALGORITHM_A128CBC && algorithm <= v1::ALGORITHM_A256CBCPAD) return Family::kCbc;
  if (algorithm >= v1::ALGORITHM_A128KW && algorithm <= v1::ALGORITHM_A256KW) return Family::kKeyWrap;
  return Family::kNone;
}

bool Pads(v1::Algorithm algorithm) { return algorithm >= v1::ALGORITHM_A128CBCPAD; }

size_t DigestBytes(v1::Algorithm algorithm) {
  switch (algorithm) {
    case v1::ALGORITHM_RS384:
    case v1::ALGORITHM_PS384:
    case v1::ALGORITHM_ES384:
      return 48;
    case v1::ALGORITHM_RS512:
    case v1::ALGORITHM_PS512:
    case v1::ALGORITHM_ES512:
      return 64;
    default:
      return 32;
  }
}

absl::Status Invalid(std::string_view what) { return Error(v1::REASON_DATA_INVALID, what); }

// Does the algorithm do this operation at all?
bool Serves(Family family, v1::CryptoOperation operation) {
  switch (operation) {
    case v1::CRYPTO_OPERATION_SIGN:
    case v1::CRYPTO_OPERATION_VERIFY:
      return family == Family::kSignature || family == Family::kMac;
    case v1::CRYPTO_OPERATION_ENCRYPT:
    case v1::CRYPTO_OPERATION_DECRYPT:
      return family == Family::kRsaEncryption || family == Family::kGcm || family == Family::kCbc;
    case v1::CRYPTO_OPERATION_WRAP_KEY:
    case v1::CRYPTO_OPERATION_UNWRAP_KEY:
      return family == Family::kRsaEncryption || family == Family::kKeyWrap;
    default:
      return false;
  }
}

absl::Status CheckInput(const v1::CryptoOp& op, Family family, const KeySpec& spec) {
  v1::CryptoOperation operation = op.operation();
  if (op.data().size() > limits::kCryptoDataBytesMax)
    return Error(v1::REASON_LIMIT_EXCEEDED, "at most 64 KiB of data");
  if (op.aad().size() > limits::kAadBytesMax)
    return Error(v1::REASON_LIMIT_EXCEEDED, "at most 16 KiB of aad");
  bool opens = operation == v1::CRYPTO_OPERATION_DECRYPT || operation == v1::CRYPTO_OPERATION_UNWRAP_KEY;
  switch (family) {
    case Family::kSignature:
      if (op.data().size() != DigestBytes(op.algorithm())) return Invalid("the digest has the wrong length");
      return absl::OkStatus();
    case Family::kMac:
      if (op.data().size() > limits::kHmacDataBytesMax)
        return Error(v1::REASON_LIMIT_EXCEEDED, "at most 16 KiB");
      return absl::OkStatus();
    case Family::kRsaEncryption:
      if (opens && op.data().size() != spec.size_bits / 8)
        return Invalid("a ciphertext is as long as the modulus");
      return absl::OkStatus();
    case Family::kGcm:
      if (opens && (op.iv().size() != 12 || op.tag().size() != 16)) {
        return Invalid("decrypting needs a 12-byte IV and a 16-byte tag");
      }
      if (!opens && !op.iv().empty()) return Error(v1::REASON_INVALID_ARGUMENT, "the HSM makes the IV");
      return absl::OkStatus();
    case Family::kCbc:
      if (op.iv().size() != 16) return Invalid("CBC needs a 16-byte IV");
      if ((opens || !Pads(op.algorithm())) && (op.data().empty() || op.data().size() % 16 != 0)) {
        return Invalid("the data is not a positive multiple of 16 bytes");
      }
      return absl::OkStatus();
    case Family::kKeyWrap:
      if (op.data().size() % 8 != 0 || op.data().size() < (opens ? 24u : 16u) ||
          op.data().size() > (opens ? 520u : 512u)) {
        return Invalid("key wrap takes 16 to 512 bytes of key, a multiple of 8");
      }
      return absl::OkStatus();
    case Family::kNone:
      break;
  }
  return Error(v1::REASON_INVALID_ARGUMENT, "no algorithm given");
}

ProfileOperation ProfileFor(v1::CryptoOperation operation) {
  switch (operation) {
    case v1::CRYPTO_OPERATION_VERIFY:
      return ProfileOperation::kVerify;
    case v1::CRYPTO_OPERATION_ENCRYPT:
      return ProfileOperation::kEncrypt;
    case v1::CRYPTO_OPERATION_DECRYPT:
      return ProfileOperation::kDecrypt;
    case v1::CRYPTO_OPERATION_WRAP_KEY:
      return ProfileOperation::kWrap;
    case v1::CRYPTO_OPERATION_UNWRAP_KEY:
      return ProfileOperation::kUnwrap;
    default:
      return ProfileOperation::kSign;
  }
}

template <typename Value>
void SetValue(v1::CryptoResult* result, const Value& value) {
  result->set_value(reinterpret_cast<const char*>(value.data()), value.size());
}
void SetValue(v1::CryptoResult* result, const SecretBytes& value) {
  ByteView shown = value.Expose();
  result->set_value(reinterpret_cast<const char*>(shown.data()), shown.size());
}

}  // namespace

struct Executor::Call {
  const v1::CryptoOp& op;
  v1::CryptoResult* result;
  std::shared_ptr<KeyIndex> index;
  ServingFence::Permit permit;
  absl::Time now;
  absl::Duration end;  // on Clock::Uptime()
  Family family = Family::kNone;
  KeyUid uid;
  IndexEntryPtr entry;
  std::optional<VersionEntry> version;
};

void Executor::Execute(const v1::CryptoBatch& batch, v1::CryptoBatchResult* results) {
  auto fail_all = [&](const absl::Status& status) {
    v1::ErrorDetail detail = DetailOf(status);
    for (const v1::CryptoOp& op : batch.ops()) {
      v1::CryptoResult* result = results->add_results();
      result->set_id(op.id());
      result->set_reason(detail.reason());
      result->set_message(detail.message());
    }
  };
  if (absl::Status status = core_.CheckReady(); !status.ok()) return fail_all(status);
  if (static_cast<size_t>(batch.ops_size()) > limits::kBatchOpsMax) {
    return fail_all(Error(v1::REASON_LIMIT_EXCEEDED, "too many ops in one batch"));
  }
  absl::StatusOr<ServingFence::Permit> permit = core_.fence.Enter(batch.epoch(), batch.data_set());
  if (!permit.ok()) return fail_all(permit.status());
  std::shared_ptr<KeyIndex> index = core_.Serving();
  if (index == nullptr || index->data_set() != batch.data_set()) {
    return fail_all(Error(v1::REASON_FENCED, "another data set serves here"));
  }
  in_flight_.fetch_add(static_cast<uint32_t>(batch.ops_size()), std::memory_order_relaxed);
  absl::Time now = core_.clock.Now();
  absl::Duration started = core_.clock.Uptime();
  absl::Duration begun = started;
  for (const v1::CryptoOp& op : batch.ops()) {
    v1::CryptoResult* result = results->add_results();
    result->set_id(op.id());
    uint32_t timeout_ms = op.timeout_ms() == 0 ? limits::kCryptoTimeoutMsDefault : op.timeout_ms();
    timeout_ms = std::min(timeout_ms, limits::kCryptoTimeoutMsMax);
    Call call{op, result, index, *permit, now, started + absl::Milliseconds(timeout_ms)};
    absl::Status status = Run(call);
    if (!status.ok()) {
      v1::ErrorDetail detail = DetailOf(status);
      result->Clear();
      result->set_id(op.id());
      result->set_reason(detail.reason());
      result->set_message(detail.message());
      result->set_retry_after_ms(detail.retry_after_ms());
    }
    in_flight_.fetch_sub(1, std::memory_order_relaxed);
    absl::Duration ended = core_.clock.Uptime();
    Observe(op, ended - begun);
    begun = ended;
  }
  total_ops_.fetch_add(static_cast<uint64_t>(batch.ops_size()), std::memory_order_relaxed);
}

std::atomic<uint32_t>& Executor::UsualNs(const v1::CryptoOp& op) const {
  size_t place = static_cast<size_t>(op.operation()) * 64 + static_cast<size_t>(op.algorithm());
  return usual_ns_[place % usual_ns_.size()];
}

// Follows the median: an operation during which the thread did not run says nothing, however long it took.
void Executor::Observe(const v1::CryptoOp& op, absl::Duration took) {
  std::atomic<uint32_t>& usual = UsualNs(op);
  int64_t before = usual.load(std::memory_order_relaxed);
  int64_t now = std::clamp<int64_t>(absl::ToInt64Nanoseconds(took), 1, kUsualNsMax);
  if (before != 0) {
    int64_t step = before / 16 + 1;
    now = now > before ? std::min(before + step, kUsualNsMax) : std::max<int64_t>(before - step, 1);
  }
  usual.store(static_cast<uint32_t>(now), std::memory_order_relaxed);
}

bool Executor::IsQuick(const v1::CryptoBatch& batch) const {
  if (core_.options.profile != nullptr) return false;
  int64_t total_ns = 0;
  for (const v1::CryptoOp& op : batch.ops()) {
    int64_t usual_ns = UsualNs(op).load(std::memory_order_relaxed);
    total_ns += usual_ns;
    if (usual_ns > kQuickNsMax || total_ns > kQuickBatchNsMax) return false;
    if (op.operation() == v1::CRYPTO_OPERATION_RANDOM) continue;
    auto uid = KeyUid::From(op.route().uid());
    auto version = KeyVersion::From(op.version());
    if (!uid || !version) return false;
    KeyUse use = FamilyOf(op.algorithm()) == Family::kKeyWrap ? KeyUse::kKeyWrap : KeyUse::kPolicy;
    if (!core_.cache.Contains(*uid, *version, use)) return false;
  }
  return true;
}

absl::Status Executor::Run(Call& call) {
  std::optional<KeyIndex::Use> use;  // ends after the result is filled in: a revocation waits for it
  absl::Status status;
  if (call.op.operation() == v1::CRYPTO_OPERATION_RANDOM) {
    if (call.op.count() == 0 || call.op.count() > limits::kRandomBytesMax) {
      status = Invalid("1 to 128 random bytes at a time");
    } else if (absl::StatusOr<Bytes> drawn = core_.token.RandomBytes(call.op.count()); drawn.ok()) {
      SetValue(call.result, *drawn);
    } else {
      status = drawn.status();
    }
  } else {
    const v1::Route& route = call.op.route();
    auto uid = KeyUid::From(route.uid());
    if (!uid) return Error(v1::REASON_INVALID_ARGUMENT, "a routed op names a key");
    call.uid = *uid;
    call.entry = call.index->Begin(*uid, route.revision(), use);
    status = RunOnKey(call);
  }
  // Nothing is released under a lease that has ended meanwhile, or after the node was told to stop.
  if (status.ok() && !core_.fence.StillValid(call.permit, core_.clock.Uptime()) &&
      !HSM_MUTANT("skip-lease-check-after")) {
    status = Error(v1::REASON_NOT_ACTIVE, "the serving lease ended during the call");
  }
  Audit(call, status);
  return status;
}

absl::Status Executor::RunOnKey(Call& call) {
  const v1::Route& route = call.op.route();
  if (call.entry == nullptr) {
    if (core_.TombstonedIncarnation(call.uid) >= route.incarnation()) {
      return Error(v1::REASON_TOMBSTONED, "the key was purged");
    }
    return Error(v1::REASON_FENCED, "this partition does not hold the key yet");
  }
  const IndexEntry& entry = *call.entry;
  if (entry.revision < route.revision() || entry.incarnation != route.incarnation()) {
    return Error(v1::REASON_FENCED, "this partition holds another state of the key");
  }
  HSM_RETURN_IF_ERROR(CheckPolicy(call, entry));
  KeyVersion wanted = entry.latest;
  if (!call.op.version().empty()) {
    HSM_ASSIGN_OR_RETURN(wanted, ParseId<KeyVersion>(call.op.version(), "version"));
  }
  const VersionEntry* held = entry.Find(wanted);
  IndexEntryPtr active;
  if (held == nullptr && !entry.attempt.IsZero()) {
    // A STAGED head brings only what is new; older versions are with the ACTIVE one.
    active = call.index->Find(call.uid);
    if (active != nullptr && active->incarnation == entry.incarnation) held = active->Find(wanted);
  }
  if (held == nullptr)
    return Error(v1::REASON_FENCED, "this partition does not hold this version of the key");
  call.version = *held;
  if (!call.version->proved && !HSM_MUTANT("serve-unproved")) {
    return Error(v1::REASON_PROOF_FAILED, "this partition has not proved this version of the key");
  }
  call.result->set_version(wanted.Raw());
  HSM_RETURN_IF_ERROR(core_.ServeProfile(ProfileFor(call.op.operation()), entry.spec));
  if (core_.clock.Uptime() >= call.end)
    return Error(v1::REASON_DEADLINE_EXCEEDED, "the time of the call was up");
  KeyUse use = call.family == Family::kKeyWrap ? KeyUse::kKeyWrap : KeyUse::kPolicy;
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<CachedKeyPtr> key = prover_.Load(call.index, call.entry, *call.version, use);
    if (!key.ok()) return key.status();
    absl::Status status = Perform(call, *key);
    if (ReasonOf(status) != v1::REASON_TOKEN_SESSION || attempt > 0) return status;
    core_.cache.Forget(call.uid, wanted);  // the object is gone with its session: once more from the record
  }
}

absl::Status Executor::CheckPolicy(Call& call, const IndexEntry& entry) const {
  v1::CryptoOperation operation = call.op.operation();
  if (!HSM_MUTANT("skip-sealed-policy")) {
    HSM_RETURN_IF_ERROR(CheckKeyUse(entry, operation, absl::ToUnixSeconds(call.now)));
  }
  call.family = FamilyOf(call.op.algorithm());
  HSM_RETURN_IF_ERROR(CheckAlgorithm(entry.spec, call.op.algorithm()));
  if (!Serves(call.family, operation)) {
    return Error(v1::REASON_ALGORITHM_MISMATCH,
                 AlgorithmName(call.op.algorithm()) + " does not do this operation");
  }
  return CheckInput(call.op, call.family, entry.spec);
}

absl::Status Executor::Perform(Call& call, const CachedKeyPtr& key) {
  switch (call.op.operation()) {
    case v1::CRYPTO_OPERATION_SIGN:
      return Sign(call, key);
    case v1::CRYPTO_OPERATION_VERIFY:
      return Verify(call, key);
    case v1::CRYPTO_OPERATION_ENCRYPT:
    case v1::CRYPTO_OPERATION_WRAP_KEY:
      return EncryptOrWrap(call, key);
    default:
      return DecryptOrUnwrap(call, key);
  }
}

bool Executor::VerifyThisOne(CachedKey& key) const {
  if (core_.options.verify_sample == 0) return false;
  if (key.spec.type == v1::KEY_TYPE_RSA_HSM) return true;
  return key.signatures.fetch_add(1, std::memory_order_relaxed) % core_.options.verify_sample == 0;
}

absl::Status Executor::Sign(Call& call, const CachedKeyPtr& key) {
  ByteView data = View(call.op.data());
  HSM_ASSIGN_OR_RETURN(Bytes signature, core_.token.Sign(key->key, key->spec, call.op.algorithm(), data));
  if (key->public_part != nullptr) {
    // The first signature of an object just unwrapped also shows that it is the key of the record.
    bool first = !key->checked.load(std::memory_order_relaxed);
    if ((first || VerifyThisOne(*key)) && !HSM_MUTANT("skip-verify-after-sign")) {
      if (!key->public_part->Verify(call.op.algorithm(), data, signature)) {
        if (!first) return Error(v1::REASON_TOKEN_FAILED, "the token made a signature that does not verify");
        HSM_RETURN_IF_ERROR(prover_.Distrust(call.index, call.uid, call.version->version));
        return Error(v1::REASON_PROOF_FAILED, "the key in the token is not the one its record names");
      }
      key->checked.store(true, std::memory_order_relaxed);
    }
  } else if (VerifyThisOne(*key)) {
    HSM_ASSIGN_OR_RETURN(Bytes again, core_.token.Sign(key->key, key->spec, call.op.algorithm(), data));
    if (again != signature) return Error(v1::REASON_TOKEN_FAILED, "the token made two MACs of the same data");
  }
  SetValue(call.result, signature);
  return absl::OkStatus();
}

absl::Status Executor::Verify(Call& call, const CachedKeyPtr& key) {
  ByteView data = View(call.op.data());
  ByteView signature = View(call.op.signature());
  if (key->public_part != nullptr) {
    call.result->set_valid(key->public_part->Verify(call.op.algorithm(), data, signature));
    return absl::OkStatus();
  }
  HSM_ASSIGN_OR_RETURN(Bytes mac, core_.token.Sign(key->key, key->spec, call.op.algorithm(), data));
  call.result->set_valid(EqualConstantTime(mac, signature));
  return absl::OkStatus();
}

absl::Status Executor::EncryptOrWrap(Call& call, const CachedKeyPtr& key) {
  ByteView data = View(call.op.data());
  switch (call.family) {
    case Family::kRsaEncryption: {
      HSM_ASSIGN_OR_RETURN(Bytes out, key->public_part->Encrypt(call.op.algorithm(), data));
      SetValue(call.result, out);
      return absl::OkStatus();
    }
    case Family::kGcm: {
      HSM_ASSIGN_OR_RETURN(GcmResult out, core_.token.GcmEncrypt(key->key, data, View(call.op.aad())));
      if (out.iv.size() != 12 || out.tag.size() != 16) {
        return Error(v1::REASON_TOKEN_FAILED, "the token made an IV or tag of the wrong length");
      }
      SetValue(call.result, out.ciphertext);
      call.result->set_iv(ToString(out.iv));
      call.result->set_tag(ToString(out.tag));
      return absl::OkStatus();
    }
    case Family::kCbc: {
      HSM_ASSIGN_OR_RETURN(
          Bytes out, core_.token.CbcEncrypt(key->key, data, View(call.op.iv()), Pads(call.op.algorithm())));
      SetValue(call.result, out);
      return absl::OkStatus();
    }
    default: {
      HSM_ASSIGN_OR_RETURN(Bytes out, core_.token.KeyWrap(key->key, data));
      SetValue(call.result, out);
      return absl::OkStatus();
    }
  }
}

absl::Status Executor::DecryptOrUnwrap(Call& call, const CachedKeyPtr& key) {
  HSM_RETURN_IF_ERROR(prover_.SelfCheck(call.index, *call.entry, call.version->version, key));
  ByteView data = View(call.op.data());
  auto release = [&](const absl::StatusOr<SecretBytes>& opened) {
    if (!opened.ok()) return opened.status();
    SetValue(call.result, *opened);
    return absl::OkStatus();
  };
  switch (call.family) {
    case Family::kRsaEncryption:
      return release(core_.token.RsaDecrypt(key->key, key->spec, call.op.algorithm(), data));
    case Family::kGcm:
      return release(core_.token.GcmDecrypt(key->key, data, View(call.op.iv()), View(call.op.tag()),
                                            View(call.op.aad())));
    case Family::kCbc:
      return release(core_.token.CbcDecrypt(key->key, data, View(call.op.iv()), Pads(call.op.algorithm())));
    default:
      return release(core_.token.KeyUnwrap(key->key, data));
  }
}

// No use without its entry: if the log does not take it, the result is not released.
void Executor::Audit(const Call& call, absl::Status& status) {
  UseEntry entry;
  entry.time_us = absl::ToUnixMicros(call.now);
  const v1::Route& route = call.op.route();
  if (auto principal = PrincipalId::From(route.principal())) entry.principal = *principal;
  entry.uid = call.uid;
  if (call.version) entry.version = call.version->version;
  entry.operation = call.op.operation();
  entry.algorithm = call.op.algorithm();
  entry.outcome = ReasonOf(status);
  entry.correlation = route.correlation();
  absl::Status written = core_.audit.Append(entry);
  if (!written.ok() && !HSM_MUTANT("audit-failure-ignored")) status = written;
}

}  // namespace hsm
