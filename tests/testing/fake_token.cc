#include "tests/testing/fake_token.h"

#include <algorithm>

#include "common/check.h"
#include "common/error.h"
#include "common/status_macros.h"
#include "node/key_encoding.h"
#include "node/token_rules.h"
#include "tests/testing/fake_crypto.h"

namespace hsm {
namespace {

constexpr std::string_view kConstant = "quorumhsm kek fingerprint v1 ...";  // 32 public bytes

absl::Status Failed() { return Error(v1::REASON_DECRYPTION_FAILED, "decryption failed"); }

}  // namespace

struct FakeToken::Object {
  KeySpec spec;
  ObjectPolicy policy;
  Bytes secret;  // oct value, EC scalar, RSA PKCS#8
  fake_crypto::EcKey ec;
  fake_crypto::EvpKey rsa;
  Bytes spki;
};

Bytes FakeRsaPool::Next(uint32_t size_bits) {
  MutexLock lock(mutex_);
  std::vector<Bytes>& keys = keys_[size_bits];
  while (keys.size() < count_) keys.push_back(fake_crypto::RsaGenerate(size_bits));
  return keys[next_[size_bits]++ % count_];
}

FakeToken::FakeToken(std::shared_ptr<const FakeDomain> domain, Random& random, std::string label,
                     std::shared_ptr<FakeRsaPool> rsa_pool)
    : random_(random), label_(std::move(label)), rsa_pool_(std::move(rsa_pool)), domain_(std::move(domain)) {}
FakeToken::~FakeToken() = default;

// --- faults ---

void FakeToken::FailCalls(std::string method, uint64_t nth, v1::Reason reason, uint64_t times) {
  MutexLock lock(mutex_);
  faults_.push_back({std::move(method), nth, reason, times});
}
void FakeToken::FailAll(std::optional<v1::Reason> reason) {
  MutexLock lock(mutex_);
  fail_all_ = reason;
}
void FakeToken::ForgetFaults() {
  MutexLock lock(mutex_);
  faults_.clear();
  fail_all_ = std::nullopt;
  wrong_keys_ = 0;
  flip_signatures_ = false;
}
void FakeToken::Hang() {
  MutexLock lock(mutex_);
  hanging_ = true;
}
void FakeToken::Release() {
  MutexLock lock(mutex_);
  hanging_ = false;
  changed_.NotifyAll();
}
void FakeToken::PlantWrongKey(uint64_t unwraps) {
  MutexLock lock(mutex_);
  wrong_keys_ = unwraps;
}
void FakeToken::FlipSignatures(bool on) {
  MutexLock lock(mutex_);
  flip_signatures_ = on;
}
void FakeToken::SetDelay(Clock* clock, absl::Duration delay) {
  MutexLock lock(mutex_);
  delay_clock_ = clock;
  delay_ = delay;
}
void FakeToken::Lack(v1::Curve curve) {
  MutexLock lock(mutex_);
  lacking_.push_back(curve);
}
void FakeToken::SetDomain(std::shared_ptr<const FakeDomain> domain) {
  MutexLock lock(mutex_);
  domain_ = std::move(domain);
}
void FakeToken::WeakenSelfTest(std::string check) {
  MutexLock lock(mutex_);
  weak_check_ = std::move(check);
}
void FakeToken::DropAllKeys() {
  MutexLock lock(mutex_);
  objects_.clear();
}
size_t FakeToken::live_keys() const {
  MutexLock lock(mutex_);
  return objects_.size();
}
uint64_t FakeToken::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

absl::Status FakeToken::Enter(const char* method) {
  if (SchedulerHooks* scheduler = CurrentScheduler()) scheduler->Yield();
  MutexLock lock(mutex_);
  ++calls_;
  while (hanging_) changed_.Wait(mutex_);
  if (delay_clock_ != nullptr) {
    Deadline until(*delay_clock_, delay_);
    while (!until.Passed()) delay_clock_->Await(mutex_, changed_, [] { return false; }, until.Left());
  }
  if (fail_all_) return TokenError(*fail_all_, 0x30, method);
  for (Fault& fault : faults_) {
    if (!fault.method.empty() && fault.method != method) continue;
    if (fault.countdown > 1) {
      --fault.countdown;
    } else if (fault.times > 0) {
      --fault.times;
      return TokenError(fault.reason, 0x30, method);
    }
  }
  std::erase_if(faults_, [](const Fault& fault) { return fault.times == 0; });
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const FakeToken::Object>> FakeToken::Find(TokenKey key) const {
  MutexLock lock(mutex_);
  auto found = objects_.find(key);
  if (found == objects_.end()) return Error(v1::REASON_TOKEN_SESSION, "no such object");
  return found->second;
}

absl::StatusOr<Bytes> FakeToken::KekBytes(Kek kek) const {
  MutexLock lock(mutex_);
  if (domain_ == nullptr) return Error(v1::REASON_NOT_ACTIVE, "the token has no domain keys");
  return kek == Kek::kReplication ? domain_->replication_kek : domain_->backup_kek;
}

TokenKey FakeToken::Add(std::shared_ptr<const Object> object) {
  MutexLock lock(mutex_);
  objects_[next_key_] = std::move(object);
  return next_key_++;
}

Bytes FakeToken::Faulty(Bytes signature) const {
  MutexLock lock(mutex_);
  if (flip_signatures_ && !signature.empty()) signature.back() ^= 1;
  return signature;
}

// --- objects ---

TokenIdentity FakeToken::Identity() const { return {"QuorumHSM", "fake", "0", label_}; }

absl::StatusOr<std::shared_ptr<FakeToken::Object>> FakeToken::NewObject(const KeySpec& spec,
                                                                        const ObjectPolicy& policy) {
  auto object = std::make_shared<Object>();
  object->spec = spec;
  object->policy = policy;
  switch (spec.type) {
    case v1::KEY_TYPE_OCT_HSM:
      object->secret = random_.Draw(spec.size_bits / 8);
      break;
    case v1::KEY_TYPE_EC_HSM:
      object->ec = fake_crypto::EcGenerate(spec.curve, random_);
      object->secret = object->ec.scalar;
      object->spki = EcSpki(spec.curve, object->ec.point);
      break;
    case v1::KEY_TYPE_RSA_HSM:
      object->secret = rsa_pool_ ? rsa_pool_->Next(spec.size_bits) : fake_crypto::RsaGenerate(spec.size_bits);
      object->rsa = fake_crypto::ParsePrivate(object->secret);
      object->spki = fake_crypto::PublicOf(object->rsa.get());
      break;
    default:
      return Error(v1::REASON_UNSUPPORTED, "no such key type");
  }
  return object;
}

absl::StatusOr<GeneratedKey> FakeToken::Generate(const KeySpec& spec, const ObjectPolicy& policy) {
  HSM_RETURN_IF_ERROR(Enter("Generate"));
  HSM_RETURN_IF_ERROR(CheckPolicy(spec, policy));
  {
    MutexLock lock(mutex_);
    if (spec.type == v1::KEY_TYPE_EC_HSM &&
        (spec.curve == v1::CURVE_ED25519 || std::ranges::find(lacking_, spec.curve) != lacking_.end()))
      return Error(v1::REASON_UNSUPPORTED, "the token cannot make and wrap keys of this curve");
  }
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<Object> object, NewObject(spec, policy));
  GeneratedKey made{0, object->spki};
  made.key = Add(object);
  return made;
}

// A blob's plaintext begins with what it is, so that an AES blob cannot pass for a private key.
static Bytes BlobPlaintext(const KeySpec& spec, ByteView secret) {
  Bytes out = {static_cast<uint8_t>(spec.type), static_cast<uint8_t>(spec.curve)};
  out.insert(out.end(), secret.begin(), secret.end());
  return out;
}

absl::StatusOr<TokenKey> FakeToken::Unwrap(Kek kek, const KeySpec& spec, const ObjectPolicy& policy,
                                           ByteView wrapped) {
  HSM_RETURN_IF_ERROR(Enter("Unwrap"));
  HSM_RETURN_IF_ERROR(CheckPolicy(spec, policy));
  HSM_ASSIGN_OR_RETURN(Bytes kek_bytes, KekBytes(kek));
  {
    MutexLock lock(mutex_);
    if (spec.type == v1::KEY_TYPE_EC_HSM && std::ranges::find(lacking_, spec.curve) != lacking_.end())
      return Error(v1::REASON_UNSUPPORTED, "the token lacks this curve");
  }
  const absl::Status corrupt = Error(v1::REASON_RECORD_CORRUPT, "the wrapped key does not open");
  std::optional<Bytes> plain = fake_crypto::KwpOpen(kek_bytes, wrapped);
  if (!plain || plain->size() < 3 || (*plain)[0] != spec.type || (*plain)[1] != spec.curve) return corrupt;
  auto object = std::make_shared<Object>();
  object->spec = spec;
  object->policy = policy;
  object->secret.assign(plain->begin() + 2, plain->end());
  if (spec.type == v1::KEY_TYPE_OCT_HSM) {
    if (object->secret.size() != spec.size_bits / 8) return corrupt;
  } else if (spec.type == v1::KEY_TYPE_EC_HSM) {
    auto ec = fake_crypto::EcFromScalar(spec.curve, object->secret);
    if (!ec) return corrupt;
    object->ec = *ec;
  } else {
    object->rsa = fake_crypto::ParsePrivate(object->secret);
    if (object->rsa == nullptr) return corrupt;
  }
  bool wrong = false;
  {
    MutexLock lock(mutex_);
    if (wrong_keys_ > 0) {
      --wrong_keys_;
      wrong = true;
    }
  }
  if (wrong) {
    HSM_ASSIGN_OR_RETURN(object, NewObject(spec, policy));
  }
  return Add(object);
}

absl::StatusOr<Bytes> FakeToken::Wrap(Kek kek, TokenKey key) {
  HSM_RETURN_IF_ERROR(Enter("Wrap"));
  HSM_ASSIGN_OR_RETURN(Bytes kek_bytes, KekBytes(kek));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kWrap, object->spec, object->policy));
  return fake_crypto::Kwp(kek_bytes, BlobPlaintext(object->spec, object->secret));
}

void FakeToken::Destroy(TokenKey key) {
  MutexLock lock(mutex_);
  objects_.erase(key);
}

// --- operations ---

absl::StatusOr<Bytes> FakeToken::Sign(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                                      ByteView data) {
  HSM_RETURN_IF_ERROR(Enter("Sign"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kSign, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckSignInput(spec, algorithm, data));
  Hash hash = HashOf(algorithm);
  switch (spec.type) {
    case v1::KEY_TYPE_OCT_HSM:
      if (object->secret.size() < HashBytes(hash))
        return Error(v1::REASON_UNSUPPORTED, "the token takes HMAC keys as long as the hash or longer");
      return Faulty(fake_crypto::HmacOf(hash, object->secret, data));
    case v1::KEY_TYPE_EC_HSM:
      return Faulty(fake_crypto::EcSign(spec.curve, object->ec, data, random_));
    default:
      break;
  }
  Bytes encoded;
  if (algorithm == v1::ALGORITHM_RS256 || algorithm == v1::ALGORITHM_RS384 ||
      algorithm == v1::ALGORITHM_RS512) {
    Bytes info = DigestInfo(hash, data);
    encoded.assign(spec.size_bits / 8, 0xff);
    encoded[0] = 0;
    encoded[1] = 1;
    encoded[encoded.size() - info.size() - 1] = 0;
    std::copy(info.begin(), info.end(), encoded.end() - static_cast<std::ptrdiff_t>(info.size()));
  } else {
    encoded = PssEncode(hash, data, random_.Draw(HashBytes(hash)), spec.size_bits);
  }
  auto signature = fake_crypto::RsaRawPrivate(object->rsa.get(), encoded);
  if (!signature) return TokenError(v1::REASON_TOKEN_FAILED, 0x05, "Sign");
  return Faulty(std::move(*signature));
}

absl::StatusOr<SecretBytes> FakeToken::RsaDecrypt(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                                                  ByteView ciphertext) {
  HSM_RETURN_IF_ERROR(Enter("RsaDecrypt"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kRsaDecrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckRsaDecryptInput(spec, algorithm, ciphertext));
  if (algorithm == v1::ALGORITHM_RSA1_5) {
    auto plain = fake_crypto::RsaDecryptPkcs1(object->rsa.get(), ciphertext);
    if (!plain) return Failed();
    return SecretBytes(std::move(*plain));
  }
  auto raw = fake_crypto::RsaRawPrivate(object->rsa.get(), ciphertext);
  if (!raw) return Failed();
  SecretBytes encoded(std::move(*raw));
  return OaepDecode(HashOf(algorithm), encoded.Expose());
}

absl::StatusOr<GcmResult> FakeToken::GcmEncrypt(TokenKey key, ByteView plaintext, ByteView aad) {
  HSM_RETURN_IF_ERROR(Enter("GcmEncrypt"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kGcmEncrypt, object->spec, object->policy));
  GcmResult result;
  result.iv = random_.Draw(12);
  fake_crypto::Sealed sealed = fake_crypto::GcmSeal(object->secret, result.iv, plaintext, aad);
  result.ciphertext = std::move(sealed.ciphertext);
  result.tag = std::move(sealed.tag);
  return result;
}

absl::StatusOr<SecretBytes> FakeToken::GcmDecrypt(TokenKey key, ByteView ciphertext, ByteView iv,
                                                  ByteView tag, ByteView aad) {
  HSM_RETURN_IF_ERROR(Enter("GcmDecrypt"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kGcmDecrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckGcmInput(iv, tag));
  auto plain = fake_crypto::GcmOpen(object->secret, iv, ciphertext, tag, aad);
  if (!plain) return Failed();
  return SecretBytes(std::move(*plain));
}

absl::StatusOr<Bytes> FakeToken::CbcEncrypt(TokenKey key, ByteView plaintext, ByteView iv, bool pad) {
  HSM_RETURN_IF_ERROR(Enter("CbcEncrypt"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kCbcEncrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckCbcInput(plaintext, iv, pad, false));
  return fake_crypto::Cbc(object->secret, iv, plaintext, pad);
}

absl::StatusOr<SecretBytes> FakeToken::CbcDecrypt(TokenKey key, ByteView ciphertext, ByteView iv, bool pad) {
  HSM_RETURN_IF_ERROR(Enter("CbcDecrypt"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kCbcDecrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckCbcInput(ciphertext, iv, pad, true));
  auto plain = fake_crypto::CbcOpen(object->secret, iv, ciphertext, pad);
  if (!plain) return Failed();
  return SecretBytes(std::move(*plain));
}

absl::StatusOr<Bytes> FakeToken::KeyWrap(TokenKey key, ByteView plaintext_key) {
  HSM_RETURN_IF_ERROR(Enter("KeyWrap"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kKeyWrap, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckKeyWrapInput(plaintext_key));
  return fake_crypto::Kw(object->secret, plaintext_key);
}

absl::StatusOr<SecretBytes> FakeToken::KeyUnwrap(TokenKey key, ByteView wrapped) {
  HSM_RETURN_IF_ERROR(Enter("KeyUnwrap"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kKeyUnwrap, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckKeyUnwrapInput(wrapped));
  auto plain = fake_crypto::KwOpen(object->secret, wrapped);
  if (!plain) return Failed();
  return SecretBytes(std::move(*plain));
}

absl::StatusOr<Bytes> FakeToken::Hmac(TokenKey key, ByteView data) {
  HSM_RETURN_IF_ERROR(Enter("Hmac"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kHmac, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckMacInput(data, kHmacBytesMax));
  return fake_crypto::HmacOf(Hash::kSha256, object->secret, data);
}

absl::StatusOr<Bytes> FakeToken::Cmac(TokenKey key, ByteView data) {
  HSM_RETURN_IF_ERROR(Enter("Cmac"));
  HSM_ASSIGN_OR_RETURN(auto object, Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kCmac, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckMacInput(data, kCmacBytesMax));
  return fake_crypto::CmacOf(object->secret, data);
}

absl::StatusOr<Bytes> FakeToken::RandomBytes(size_t size) {
  HSM_RETURN_IF_ERROR(Enter("RandomBytes"));
  HSM_RETURN_IF_ERROR(CheckRandomSize(size));
  return random_.Draw(size);
}

absl::StatusOr<Bytes> FakeToken::KekFingerprint(Kek kek) {
  HSM_RETURN_IF_ERROR(Enter("KekFingerprint"));
  HSM_ASSIGN_OR_RETURN(Bytes kek_bytes, KekBytes(kek));
  Bytes blob = fake_crypto::Kwp(kek_bytes, View(kConstant));
  blob.resize(32);
  return blob;
}

absl::Status FakeToken::SelfTest() {
  HSM_RETURN_IF_ERROR(Enter("SelfTest"));
  HSM_RETURN_IF_ERROR(KekBytes(Kek::kReplication).status());
  MutexLock lock(mutex_);
  if (!weak_check_.empty()) return Error(v1::REASON_SELF_TEST_FAILED, weak_check_);
  return absl::OkStatus();
}

absl::Status FakeToken::Probe() { return Enter("Probe"); }

}  // namespace hsm
