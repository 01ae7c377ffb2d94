#include "node/pkcs11_token.h"

#include <fmt/format.h>

#include "common/mutant.h"
#include "common/status_macros.h"
#include "node/key_encoding.h"
#include "node/pkcs11_token_impl.h"
#include "node/token_attacks.h"
#include "node/token_templates.h"
#include "pkcs11/probe.h"

namespace hsm {

using pkcs11::Mechanism;
using pkcs11::Session;
using pkcs11::Template;

Pkcs11Token::Impl::Object::~Object() {
  owner.DestroyHandle(handle);
  owner.DestroyHandle(hmac_handle);
}

Pkcs11Token::Impl::Impl(std::unique_ptr<pkcs11::Library> library, pkcs11::TokenInfo info, Session keeper,
                        uint32_t sessions_max)
    : library(std::move(library)),
      info(std::move(info)),
      keeper(std::move(keeper)),
      pool(*this->library, this->info.slot, sessions_max) {}

Pkcs11Token::Pkcs11Token(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Pkcs11Token>> Pkcs11Token::Open(const TokenConfig& configured) {
  HSM_ASSIGN_OR_RETURN(TokenConfig config, ResolveConfig(configured));
  HSM_ASSIGN_OR_RETURN(SecretBytes pin, pkcs11::ReadPinFile(config.pin_file));
  HSM_ASSIGN_OR_RETURN(auto library, LoadModule(config));
  HSM_ASSIGN_OR_RETURN(pkcs11::TokenInfo info, pkcs11::FindToken(*library, config.label, config.serial));
  HSM_ASSIGN_OR_RETURN(Session keeper, Session::Open(*library, info.slot));
  pkcs11::TokenLogin login(*library, info.slot);
  HSM_RETURN_IF_ERROR(login.Login(keeper, CKU_USER, pin));
  HSM_ASSIGN_OR_RETURN(CK_MECHANISM_TYPE kwp, pkcs11::FindKwpMechanism(keeper, config.kwp_mechanism));
  HSM_RETURN_IF_ERROR(RemoveGarbage(keeper, kwp).status());
  HSM_ASSIGN_OR_RETURN(std::optional<KekSet> keks, FindKeks(keeper));
  Template probe = ObjectTemplate({v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 128}, {KeyUse::kPolicy, 0});
  probe.Ulong(CKA_VALUE_LEN, 16).Text(CKA_LABEL, fmt::format("{}health", kProbeLabelPrefix));
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE probe_key,
                       keeper.GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), probe));

  auto impl =
      std::make_unique<Impl>(std::move(library), std::move(info), std::move(keeper), config.sessions_max);
  impl->kwp = kwp;
  impl->probe_key = probe_key;
  impl->keks = keks;
  if (keks) {
    impl->kek_handles[0] = keks->handles[0];
    impl->kek_handles[1] = keks->handles[1];
  }
  return std::unique_ptr<Pkcs11Token>(new Pkcs11Token(std::move(impl)));
}

Pkcs11Token::~Pkcs11Token() {
  for (Impl::Shard& shard : impl_->shards) {
    std::unordered_map<TokenKey, Impl::ObjectPtr> gone;  // destroyed outside the lock
    MutexLock lock(shard.mutex);
    gone.swap(shard.objects);
  }
}

void Pkcs11Token::Shutdown() {
  if (impl_->closed.exchange(true)) return;
  impl_->pool.CloseIdle();
  impl_->library->Finalize();
}

bool Pkcs11Token::HasKeks() const { return impl_->keks.has_value(); }
std::string Pkcs11Token::DomainTag() const { return impl_->keks ? impl_->keks->domain_tag : ""; }

TokenIdentity Pkcs11Token::Identity() const {
  return {impl_->info.manufacturer, impl_->info.model, impl_->info.serial, impl_->info.label};
}

// --- objects ---

absl::StatusOr<Pkcs11Token::Impl::ObjectPtr> Pkcs11Token::Impl::Find(TokenKey key) {
  Shard& shard = shards[key % kShards];
  MutexLock lock(shard.mutex);
  auto found = shard.objects.find(key);
  if (found == shard.objects.end()) return Error(v1::REASON_TOKEN_SESSION, "no such object");
  return found->second;
}

TokenKey Pkcs11Token::Impl::Add(ObjectPtr object) {
  TokenKey key = next_key++;
  Shard& shard = shards[key % kShards];
  MutexLock lock(shard.mutex);
  shard.objects.emplace(key, std::move(object));
  return key;
}

absl::StatusOr<CK_OBJECT_HANDLE> Pkcs11Token::Impl::KekHandle(Kek kek) {
  if (!keks) return Error(v1::REASON_NOT_ACTIVE, "the token has no domain keys");
  return kek_handles[static_cast<size_t>(kek)].load();
}

absl::StatusOr<CK_OBJECT_HANDLE> Pkcs11Token::Impl::UnwrapObject(Kek kek, ByteView wrapped,
                                                                 Template attributes) {
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE kek_handle, KekHandle(kek));
  MutexLock lock(mutations);
  auto made = keeper.Unwrap(Mechanism::Plain(kwp), kek_handle, wrapped, attributes);
  if (made.ok() || pkcs11::ClassOf(pkcs11::RvOf(made.status())) != pkcs11::RvClass::kHandle) return made;
  HSM_ASSIGN_OR_RETURN(std::optional<KekSet> again, FindKeks(keeper));
  if (!again || again->domain_tag != keks->domain_tag) return made;
  kek_handles[0] = again->handles[0];
  kek_handles[1] = again->handles[1];
  return keeper.Unwrap(Mechanism::Plain(kwp), (*again)[kek], wrapped, attributes);
}

void Pkcs11Token::Impl::DestroyHandle(CK_OBJECT_HANDLE handle) {
  if (handle == CK_INVALID_HANDLE || closed || !pkcs11::Library::Usable()) return;
  MutexLock lock(mutations);
  (void)keeper.DestroyObject(handle);  // gone already, or gone with the session
}

absl::Status Pkcs11Token::Impl::CheckUnwrapped(Session& session, const KeySpec& spec,
                                               CK_OBJECT_HANDLE handle) {
  std::vector<CK_ATTRIBUTE_TYPE> types = {CKA_SENSITIVE, CKA_WRAP_WITH_TRUSTED, CKA_PRIVATE};
  const size_t flags = types.size();
  if (spec.type == v1::KEY_TYPE_EC_HSM) types.push_back(CKA_EC_PARAMS);
  if (spec.type == v1::KEY_TYPE_RSA_HSM) types.push_back(CKA_MODULUS);
  HSM_ASSIGN_OR_RETURN(auto values, session.Attributes(handle, types));
  // Some modules take an unwrap template and ignore it; so what came out is looked at.
  for (size_t i = 0; i < flags; ++i) {
    if (!values[i] || values[i]->size() != 1 || values[i]->front() == CK_FALSE)
      return Error(v1::REASON_SELF_TEST_FAILED, "the token ignores the template of a new key");
  }
  bool right = true;
  if (spec.type == v1::KEY_TYPE_EC_HSM) {
    right = values[flags] && EqualConstantTime(*values[flags], CurveParameters(spec.curve));
  } else if (spec.type == v1::KEY_TYPE_RSA_HSM) {
    right = values[flags] && values[flags]->size() == spec.size_bits / 8;
  }
  return right ? absl::OkStatus() : Error(v1::REASON_RECORD_CORRUPT, "the wrapped key is of another kind");
}

absl::StatusOr<TokenKey> Pkcs11Token::Unwrap(Kek kek, const KeySpec& spec, const ObjectPolicy& policy,
                                             ByteView wrapped) {
  HSM_RETURN_IF_ERROR(CheckPolicy(spec, policy));
  const absl::Status corrupt = Error(v1::REASON_RECORD_CORRUPT, "the wrapped key does not open");
  if (wrapped.size() < 16 || wrapped.size() % 8 != 0) return corrupt;
  // SoftHSM opens any secret as any other and then reports length 0; but KWP adds exactly 8 bytes to these
  // lengths.
  if (spec.type == v1::KEY_TYPE_OCT_HSM && wrapped.size() != spec.size_bits / 8 + 8) return corrupt;
  Template attributes = ObjectTemplate(spec, policy).Merge(KindTemplate(spec, policy));
  auto made = impl_->UnwrapObject(kek, wrapped, attributes);
  if (!made.ok()) {
    absl::Status judged = impl_->Judge(made.status());
    // A blob of another class of key is refused with whatever the module's parser says.
    bool request = pkcs11::ClassOf(pkcs11::RvOf(judged)) == pkcs11::RvClass::kRequest;
    return request && spec.type != v1::KEY_TYPE_OCT_HSM ? corrupt : judged;
  }
  auto object = std::make_shared<Impl::Object>(*impl_, spec, policy, *made);
  object->kek = kek;
  object->blob.assign(wrapped.begin(), wrapped.end());
  HSM_ASSIGN_OR_RETURN(SessionPool::Lease lease, impl_->pool.Take());
  HSM_RETURN_IF_ERROR(impl_->CheckUnwrapped(*lease, spec, *made));
  return impl_->Add(std::move(object));
}

absl::Status Pkcs11Token::Impl::Repair(Object& object, CK_OBJECT_HANDLE failed) {
  if (object.blob.empty()) return Error(v1::REASON_TOKEN_SESSION, "a generated key is gone");
  {
    MutexLock lock(mutations);
    if (!keeper.Alive()) {
      HSM_ASSIGN_OR_RETURN(keeper, Session::Open(*library, info.slot));
    }
    if (object.handle != failed) return absl::OkStatus();  // another thread was quicker
  }
  Template attributes =
      ObjectTemplate(object.spec, object.policy).Merge(KindTemplate(object.spec, object.policy));
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE made, UnwrapObject(object.kek, object.blob, attributes));
  CK_OBJECT_HANDLE expected = failed;
  if (!object.handle.compare_exchange_strong(expected, made)) DestroyHandle(made);
  DestroyHandle(object.hmac_handle.exchange(CK_INVALID_HANDLE));
  return absl::OkStatus();
}

absl::StatusOr<CK_OBJECT_HANDLE> Pkcs11Token::Impl::GenerateSecret(const KeySpec& spec,
                                                                   const ObjectPolicy& policy) {
  CK_MECHANISM_TYPE mechanism =
      policy.use == KeyUse::kRecordMac ? CKM_GENERIC_SECRET_KEY_GEN : CKM_AES_KEY_GEN;
  Template attributes = ObjectTemplate(spec, policy);
  attributes.Ulong(CKA_VALUE_LEN, spec.size_bits / 8);
  MutexLock lock(mutations);
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE made, keeper.GenerateKey(Mechanism::Plain(mechanism), attributes));
  absl::Status checked = CheckUnwrapped(keeper, spec, made);
  if (!checked.ok()) (void)keeper.DestroyObject(made);
  HSM_RETURN_IF_ERROR(checked);
  return made;
}

absl::StatusOr<Bytes> Pkcs11Token::Impl::ReadPublic(const KeySpec& spec, const pkcs11::KeyPair& pair) {
  HSM_RETURN_IF_ERROR(CheckUnwrapped(keeper, spec, pair.private_key));
  if (spec.type == v1::KEY_TYPE_RSA_HSM) {
    HSM_ASSIGN_OR_RETURN(Bytes modulus, keeper.Attribute(pair.public_key, CKA_MODULUS));
    HSM_ASSIGN_OR_RETURN(Bytes exponent, keeper.Attribute(pair.public_key, CKA_PUBLIC_EXPONENT));
    return RsaSpki(modulus, exponent);
  }
  HSM_ASSIGN_OR_RETURN(Bytes point, keeper.Attribute(pair.public_key, CKA_EC_POINT));
  size_t size = spec.curve == v1::CURVE_ED25519 ? 32 : 1 + 2 * FieldBytes(spec.curve);
  if (point.size() < size) return Error(v1::REASON_TOKEN_FAILED, "the token gave a short CKA_EC_POINT");
  return EcSpki(spec.curve, ByteView(point).last(size));  // a DER OCTET STRING, or the raw point
}

absl::StatusOr<GeneratedKey> Pkcs11Token::Impl::GeneratePair(const KeySpec& spec,
                                                             const ObjectPolicy& policy) {
  Template public_part = IdlePublicTemplate();
  CK_MECHANISM_TYPE mechanism = CKM_RSA_PKCS_KEY_PAIR_GEN;
  if (spec.type == v1::KEY_TYPE_RSA_HSM) {
    public_part = JoinPublicTemplate(spec.size_bits);
  } else {
    mechanism = spec.curve == v1::CURVE_ED25519 ? CKM_EC_EDWARDS_KEY_PAIR_GEN : CKM_EC_KEY_PAIR_GEN;
    public_part.Data(CKA_EC_PARAMS, CurveParameters(spec.curve));
  }
  MutexLock lock(mutations);
  HSM_ASSIGN_OR_RETURN(pkcs11::KeyPair pair, keeper.GenerateKeyPair(Mechanism::Plain(mechanism), public_part,
                                                                    ObjectTemplate(spec, policy)));
  absl::StatusOr<Bytes> spki = ReadPublic(spec, pair);
  (void)keeper.DestroyObject(pair.public_key);
  if (!spki.ok()) (void)keeper.DestroyObject(pair.private_key);
  HSM_RETURN_IF_ERROR(spki.status());
  return GeneratedKey{Add(std::make_shared<Object>(*this, spec, policy, pair.private_key)), *std::move(spki)};
}

absl::Status Pkcs11Token::Impl::CheckCurve(v1::Curve curve) {
  std::atomic<Known>& known = curves[static_cast<size_t>(curve) % curves.size()];
  const absl::Status lacks =
      Error(v1::REASON_UNSUPPORTED, fmt::format("the token cannot make and wrap {} keys", CurveName(curve)));
  if (known == Known::kYes) return absl::OkStatus();
  if (known == Known::kNo) return lacks;
  KeySpec spec{v1::KEY_TYPE_EC_HSM, curve, static_cast<uint32_t>(8 * FieldBytes(curve))};
  auto pair = GeneratePair(spec, {KeyUse::kTransit, 0});
  absl::Status tried = pair.status();
  if (pair.ok()) {
    HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE kek, KekHandle(Kek::kReplication));
    HSM_ASSIGN_OR_RETURN(ObjectPtr object, Find(pair->key));
    tried = Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
              return session.Wrap(Mechanism::Plain(kwp), kek, handle);
            }).status();
    Shard& shard = shards[pair->key % kShards];
    MutexLock lock(shard.mutex);
    shard.objects.erase(pair->key);  // `object` keeps it until the lock is gone
  }
  pkcs11::RvClass klass = pkcs11::ClassOf(pkcs11::RvOf(tried));
  if (klass != pkcs11::RvClass::kOk && klass != pkcs11::RvClass::kUnsupported &&
      klass != pkcs11::RvClass::kNotAllowed && klass != pkcs11::RvClass::kRequest)
    return tried;  // a failing device says nothing about curves
  known = tried.ok() ? Known::kYes : Known::kNo;
  return tried.ok() ? absl::OkStatus() : lacks;
}

absl::StatusOr<GeneratedKey> Pkcs11Token::Generate(const KeySpec& spec, const ObjectPolicy& policy) {
  HSM_RETURN_IF_ERROR(CheckPolicy(spec, policy));
  HSM_RETURN_IF_ERROR(impl_->KekHandle(Kek::kReplication).status());
  if (spec.type == v1::KEY_TYPE_EC_HSM) HSM_RETURN_IF_ERROR(impl_->CheckCurve(spec.curve));
  if (spec.type != v1::KEY_TYPE_OCT_HSM) return impl_->GeneratePair(spec, policy);
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE handle, impl_->GenerateSecret(spec, policy));
  return GeneratedKey{impl_->Add(std::make_shared<Impl::Object>(*impl_, spec, policy, handle)), {}};
}

absl::StatusOr<Bytes> Pkcs11Token::Wrap(Kek kek, TokenKey key) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kWrap, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(impl_->KekHandle(kek).status());
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
    return session.Wrap(Mechanism::Plain(impl_->kwp), impl_->kek_handles[static_cast<size_t>(kek)], handle);
  });
}

void Pkcs11Token::Destroy(TokenKey key) {
  Impl::ObjectPtr gone;  // destroyed outside the lock
  Impl::Shard& shard = impl_->shards[key % Impl::kShards];
  MutexLock lock(shard.mutex);
  auto found = shard.objects.find(key);
  if (found == shard.objects.end()) return;
  gone = std::move(found->second);
  shard.objects.erase(found);
}

// --- health ---

absl::Status Pkcs11Token::Impl::ProbeToken() {
  HSM_ASSIGN_OR_RETURN(SessionPool::Lease lease, pool.Take());
  auto mac = lease->Sign(Mechanism::Plain(CKM_AES_CMAC), probe_key, View("health"));
  if (mac.ok() || ReasonOf(mac.status()) == v1::REASON_TOKEN_FAILED) return mac.status();
  return TokenError(v1::REASON_TOKEN_FAILED, pkcs11::RvOf(mac.status()), "health probe");
}

absl::Status Pkcs11Token::Impl::Judge(absl::Status status) {
  v1::Reason reason = ReasonOf(status);
  if (reason != v1::REASON_DECRYPTION_FAILED && reason != v1::REASON_RECORD_CORRUPT) return status;
  if (pkcs11::ClassOf(pkcs11::RvOf(status)) == pkcs11::RvClass::kAmbiguous) HSM_RETURN_IF_ERROR(ProbeToken());
  // One answer for every way in which input does not open.
  return Error(
      reason, reason == v1::REASON_DECRYPTION_FAILED ? "decryption failed" : "the wrapped key does not open");
}

Pkcs11Token::ProbeSummary Pkcs11Token::JoinProbe() {
  MutexLock lock(impl_->mutations);
  pkcs11::ProbeReport report = pkcs11::RunProbe(*impl_->library, impl_->info, {.kwp = impl_->kwp});
  return {std::string(pkcs11::ProbeGradeName(report.grade)), report.ToJson()};
}

absl::Status Pkcs11Token::Probe() { return impl_->ProbeToken(); }

absl::StatusOr<Bytes> Pkcs11Token::KekFingerprint(Kek kek) {
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE handle, impl_->KekHandle(kek));
  MutexLock lock(impl_->mutations);
  return KekFingerprintOf(impl_->keeper, handle, impl_->kwp);
}

absl::Status Pkcs11Token::SelfTest() {
  HSM_RETURN_IF_ERROR(impl_->KekHandle(Kek::kReplication).status());
  if (HSM_MUTANT("self-test-skipped")) return absl::OkStatus();
  MutexLock lock(impl_->mutations);
  HSM_ASSIGN_OR_RETURN(Session session, Session::Open(*impl_->library, impl_->info.slot));
  return SelfTestVerdict(RunSelfTest(session, *impl_->keks, impl_->kwp));
}

}  // namespace hsm
