#include "node/domain_keys.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"
#include "node/kek_store.h"
#include "node/key_encoding.h"
#include "node/token_templates.h"
#include "pkcs11/kwp.h"
#include "pkcs11/softhsm_files.h"
#include "pkcs11/token_login.h"

namespace hsm {
namespace {

using pkcs11::Mechanism;
using pkcs11::Session;
using pkcs11::Template;

constexpr CK_ULONG kJoinModulusBits = 3072;
constexpr std::array kBothKeks = {Kek::kReplication, Kek::kBackup};

CK_MECHANISM_TYPE OaepHash(std::string_view name) { return name == "SHA-256" ? CKM_SHA256 : CKM_SHA_1; }

std::string Fixed(const std::string& text, size_t size) {  // PKCS#11 labels: blank-padded, no terminator
  std::string out = text.substr(0, size);
  out.resize(size, ' ');
  return out;
}

// RSA-OAEP outside the token, to learn which hashes the token can open.
absl::StatusOr<Bytes> OaepEncrypt(ByteView spki, Hash hash, ByteView plaintext) {
  const uint8_t* at = spki.data();
  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())), EVP_PKEY_free);
  if (key == nullptr) return Error(v1::REASON_TOKEN_FAILED, "the token made an unreadable public key");
  std::unique_ptr<EVP_PKEY_CTX, decltype(&EVP_PKEY_CTX_free)> context(EVP_PKEY_CTX_new(key.get(), nullptr),
                                                                      EVP_PKEY_CTX_free);
  const EVP_MD* md = hash == Hash::kSha256 ? EVP_sha256() : EVP_sha1();
  Bytes out(static_cast<size_t>(EVP_PKEY_get_size(key.get())));
  size_t size = out.size();
  if (EVP_PKEY_encrypt_init(context.get()) != 1 ||
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) != 1 ||
      EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), md) != 1 ||
      EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), md) != 1 ||
      EVP_PKEY_encrypt(context.get(), out.data(), &size, plaintext.data(), plaintext.size()) != 1)
    return Error(v1::REASON_INTERNAL, "RSA-OAEP failed");
  out.resize(size);
  return out;
}

}  // namespace

absl::StatusOr<bool> ProvisionToken(const TokenConfig& configured) {
  HSM_ASSIGN_OR_RETURN(TokenConfig config, ResolveConfig(configured));
  HSM_ASSIGN_OR_RETURN(auto library, LoadModule(config));
  auto found = pkcs11::FindToken(*library, config.label, config.serial);
  if (found.ok()) return false;
  if (ReasonOf(found.status()) != v1::REASON_NOT_FOUND) return found.status();
  if (config.label.empty()) return found.status();  // a serial number cannot be chosen
  HSM_ASSIGN_OR_RETURN(SecretBytes so_pin, pkcs11::ReadPinFile(config.so_pin_file));
  HSM_ASSIGN_OR_RETURN(SecretBytes pin, pkcs11::ReadPinFile(config.pin_file));
  HSM_ASSIGN_OR_RETURN(CK_SLOT_ID slot, pkcs11::FindUninitializedSlot(*library));
  std::string label = Fixed(config.label, 32);
  auto bytes = [](const SecretBytes& secret) { return const_cast<CK_BYTE*>(secret.Expose().data()); };
  HSM_RETURN_IF_ERROR(pkcs11::FromRv((*library)->C_InitToken(slot, bytes(so_pin), so_pin.size(),
                                                             reinterpret_cast<CK_UTF8CHAR*>(label.data())),
                                     "C_InitToken"));
  HSM_ASSIGN_OR_RETURN(pkcs11::TokenInfo info, pkcs11::FindToken(*library, config.label, ""));
  HSM_ASSIGN_OR_RETURN(Session session, Session::Open(*library, info.slot));
  pkcs11::TokenLogin login(*library, info.slot);
  HSM_RETURN_IF_ERROR(login.Login(session, CKU_SO, so_pin));
  absl::Status made =
      pkcs11::FromRv((*library)->C_InitPIN(session.handle(), bytes(pin), pin.size()), "C_InitPIN");
  HSM_RETURN_IF_ERROR(login.Logout(session));
  HSM_RETURN_IF_ERROR(made);
  if (info.IsSoftHsm()) {
    pkcs11::SoftHsmFiles files = pkcs11::SoftHsmFiles::FromEnvironment();
    HSM_RETURN_IF_ERROR(files.KeepCopies());
    HSM_RETURN_IF_ERROR(files.Sync());
  }
  return true;
}

struct DomainKeys::Impl {
  Impl(std::unique_ptr<pkcs11::Library> library, pkcs11::TokenInfo info, Session session, TokenConfig config)
      : library(std::move(library)),
        info(std::move(info)),
        session(std::move(session)),
        login(*this->library, this->info.slot),
        config(std::move(config)) {}

  absl::Status LoginAsSo();
  absl::Status SwitchToUser();
  // The KEKs of `public_keks` (session objects the SO made) become the user's token objects, with nothing
  // else left.
  absl::Status Promote(const KekSet& public_keks);
  absl::Status ProveBundle(CK_OBJECT_HANDLE kek, const internal::v1::DomainBundle& bundle);
  absl::StatusOr<Bytes> MakeSecret(CK_OBJECT_HANDLE kek);
  absl::Status MakeManifestKey(CK_OBJECT_HANDLE kek, internal::v1::DomainBundle& bundle);
  absl::StatusOr<internal::v1::DomainBundle> MakeBundle(const KekSet& keks, const HsmId& hsm,
                                                        uint32_t generation);
  absl::StatusOr<std::string> OaepHashOf(CK_OBJECT_HANDLE private_key, ByteView spki);

  std::unique_ptr<pkcs11::Library> library;
  const pkcs11::TokenInfo info;
  Session session;  // the only one; closed = everything that is not on the token is gone
  pkcs11::TokenLogin login;
  const TokenConfig config;
  SecretBytes so_pin;
  CK_MECHANISM_TYPE kwp = 0;
  std::string domain_tag;
  std::string joining_tag;
  CK_OBJECT_HANDLE join_private = CK_INVALID_HANDLE;
  std::string join_hash;
};

absl::StatusOr<std::unique_ptr<DomainKeys>> DomainKeys::Open(const TokenConfig& configured,
                                                             SecretBytes so_pin) {
  HSM_ASSIGN_OR_RETURN(TokenConfig config, ResolveConfig(configured));
  HSM_ASSIGN_OR_RETURN(auto library, LoadModule(config));
  HSM_ASSIGN_OR_RETURN(pkcs11::TokenInfo info, pkcs11::FindToken(*library, config.label, config.serial));
  HSM_ASSIGN_OR_RETURN(Session session, Session::Open(*library, info.slot));
  if (so_pin.empty()) {
    HSM_ASSIGN_OR_RETURN(so_pin, pkcs11::ReadPinFile(config.so_pin_file));
  }
  auto impl =
      std::make_unique<Impl>(std::move(library), std::move(info), std::move(session), std::move(config));
  impl->so_pin = std::move(so_pin);
  return std::unique_ptr<DomainKeys>(new DomainKeys(std::move(impl)));
}

DomainKeys::DomainKeys(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DomainKeys::~DomainKeys() = default;
std::string DomainKeys::TokenSerial() const { return impl_->info.serial; }
std::string DomainKeys::DomainTag() const { return impl_->domain_tag; }

absl::Status DomainKeys::Impl::LoginAsSo() {
  HSM_RETURN_IF_ERROR(login.Login(session, CKU_SO, so_pin));
  so_pin = SecretBytes();
  HSM_ASSIGN_OR_RETURN(kwp, pkcs11::FindKwpMechanism(session, config.kwp_mechanism));
  return absl::OkStatus();
}

absl::Status DomainKeys::Impl::SwitchToUser() {
  HSM_RETURN_IF_ERROR(login.Logout(session));
  HSM_ASSIGN_OR_RETURN(SecretBytes pin, pkcs11::ReadPinFile(config.pin_file));
  return login.Login(session, CKU_USER, pin);
}

absl::Status DomainKeys::Impl::Promote(const KekSet& public_keks) {
  HSM_RETURN_IF_ERROR(DestroyKeks(session));
  std::vector<CK_OBJECT_HANDLE> made;
  absl::Status status;
  for (Kek kek : kBothKeks) {
    auto copy = session.CopyObject(public_keks[kek], KekPromotion());
    status.Update(copy.status());
    if (!copy.ok()) break;
    made.push_back(*copy);
    auto before = KekFingerprintOf(session, public_keks[kek], kwp);
    auto after = KekFingerprintOf(session, *copy, kwp);
    status.Update(before.status());
    status.Update(after.status());
    if (status.ok() && *before != *after)
      status = Error(v1::REASON_TOKEN_FAILED, "the token copied a KEK wrongly");
  }
  if (status.ok() && info.IsSoftHsm()) status = pkcs11::SoftHsmFiles::FromEnvironment().Sync();
  for (CK_OBJECT_HANDLE kek : public_keks.handles) (void)session.DestroyObject(kek);
  if (!status.ok())
    for (CK_OBJECT_HANDLE kek : made) (void)session.DestroyObject(kek);
  if (status.ok()) domain_tag = public_keks.domain_tag;
  return status;
}

absl::StatusOr<Bytes> DomainKeys::Impl::MakeSecret(CK_OBJECT_HANDLE kek) {
  Template attributes =
      ObjectTemplate({v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256}, {KeyUse::kTransit, 0});
  attributes.Ulong(CKA_VALUE_LEN, 32);
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE key,
                       session.GenerateKey(Mechanism::Plain(CKM_GENERIC_SECRET_KEY_GEN), attributes));
  auto wrapped = session.Wrap(Mechanism::Plain(kwp), kek, key);
  HSM_RETURN_IF_ERROR(session.DestroyObject(key));
  return wrapped;
}

absl::Status DomainKeys::Impl::MakeManifestKey(CK_OBJECT_HANDLE kek, internal::v1::DomainBundle& bundle) {
  Template public_part = IdlePublicTemplate().Data(CKA_EC_PARAMS, CurveParameters(v1::CURVE_P256));
  Template private_part = ObjectTemplate({v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256}, {KeyUse::kTransit, 0});
  HSM_ASSIGN_OR_RETURN(pkcs11::KeyPair pair, session.GenerateKeyPair(Mechanism::Plain(CKM_EC_KEY_PAIR_GEN),
                                                                     public_part, private_part));
  HSM_ASSIGN_OR_RETURN(Bytes point, session.Attribute(pair.public_key, CKA_EC_POINT));
  if (point.size() < 65) return Error(v1::REASON_TOKEN_FAILED, "the token gave a short CKA_EC_POINT");
  HSM_ASSIGN_OR_RETURN(Bytes wrapped, session.Wrap(Mechanism::Plain(kwp), kek, pair.private_key));
  HSM_RETURN_IF_ERROR(session.DestroyObject(pair.public_key));
  HSM_RETURN_IF_ERROR(session.DestroyObject(pair.private_key));
  bundle.set_manifest_spki(ToString(EcSpki(v1::CURVE_P256, ByteView(point).last(65))));
  bundle.set_manifest_key(ToString(wrapped));
  return absl::OkStatus();
}

absl::StatusOr<internal::v1::DomainBundle> DomainKeys::Impl::MakeBundle(const KekSet& keks, const HsmId& hsm,
                                                                        uint32_t generation) {
  internal::v1::DomainBundle bundle;
  bundle.set_hsm_id(hsm.Raw());
  bundle.set_generation(generation);
  const CK_OBJECT_HANDLE kek = keks[Kek::kReplication];
  HSM_ASSIGN_OR_RETURN(Bytes mac_key, MakeSecret(kek));
  HSM_ASSIGN_OR_RETURN(Bytes metadata_key, MakeSecret(kek));
  bundle.set_record_mac_key(ToString(mac_key));
  bundle.set_metadata_key(ToString(metadata_key));
  HSM_RETURN_IF_ERROR(MakeManifestKey(kek, bundle));
  HSM_ASSIGN_OR_RETURN(Bytes replication, KekFingerprintOf(session, kek, kwp));
  HSM_ASSIGN_OR_RETURN(Bytes backup, KekFingerprintOf(session, keks[Kek::kBackup], kwp));
  bundle.set_replication_kek_fingerprint(ToString(replication));
  bundle.set_backup_kek_fingerprint(ToString(backup));
  HSM_RETURN_IF_ERROR(ProveBundle(kek, bundle));
  return bundle;
}

absl::StatusOr<internal::v1::DomainBundle> DomainKeys::Make(const HsmId& hsm, uint32_t generation) {
  Impl& impl = *impl_;
  const std::string tag = DomainTagOf(hsm, generation);
  HSM_RETURN_IF_ERROR(impl.LoginAsSo());
  KekSet fresh;
  fresh.domain_tag = tag;
  for (Kek kek : kBothKeks) {
    Template attributes = KekTemplate(kek, tag, impl.kwp).Ulong(CKA_VALUE_LEN, 32);
    HSM_ASSIGN_OR_RETURN(fresh.handles[static_cast<size_t>(kek)],
                         impl.session.GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), attributes));
  }
  HSM_RETURN_IF_ERROR(impl.SwitchToUser());
  HSM_RETURN_IF_ERROR(RemoveGarbage(impl.session, impl.kwp).status());
  HSM_ASSIGN_OR_RETURN(std::optional<KekSet> existing, FindKeks(impl.session));
  // A repeated call (the first answer got lost) keeps the KEKs: records may hang on them. Another domain's
  // are not ours to destroy.
  if (existing && existing->domain_tag != tag)
    return Error(v1::REASON_CONFLICT,
                 "the token holds the keys of another security domain: wipe it by hand first");
  if (!existing) HSM_RETURN_IF_ERROR(impl.Promote(fresh));
  HSM_ASSIGN_OR_RETURN(existing, FindKeks(impl.session));
  if (!existing) return Error(v1::REASON_TOKEN_FAILED, "the token lost its new KEKs");
  impl.domain_tag = tag;
  return impl.MakeBundle(*existing, hsm, generation);
}

absl::StatusOr<std::string> DomainKeys::Impl::OaepHashOf(CK_OBJECT_HANDLE private_key, ByteView spki) {
  const Bytes trial(32, 0x55);  // nobody's key
  HSM_ASSIGN_OR_RETURN(Bytes wrapped, OaepEncrypt(spki, Hash::kSha256, trial));
  Template attributes = Template()
                            .Ulong(CKA_CLASS, CKO_SECRET_KEY)
                            .Ulong(CKA_KEY_TYPE, CKK_AES)
                            .Bool(CKA_TOKEN, false)
                            .Bool(CKA_PRIVATE, false);
  auto opened = session.Unwrap(Mechanism::Oaep(CKM_SHA256), private_key, wrapped, attributes);
  if (!opened.ok()) return std::string("SHA-1");
  HSM_RETURN_IF_ERROR(session.DestroyObject(*opened));
  return std::string("SHA-256");
}

absl::StatusOr<internal::v1::HelperJoinKey> DomainKeys::BeginJoin(const HsmId& hsm, uint32_t generation) {
  Impl& impl = *impl_;
  impl.joining_tag = DomainTagOf(hsm, generation);
  HSM_RETURN_IF_ERROR(impl.LoginAsSo());
  HSM_ASSIGN_OR_RETURN(
      pkcs11::KeyPair pair,
      impl.session.GenerateKeyPair(Mechanism::Plain(CKM_RSA_PKCS_KEY_PAIR_GEN),
                                   JoinPublicTemplate(kJoinModulusBits), JoinPrivateTemplate()));
  HSM_ASSIGN_OR_RETURN(Bytes modulus, impl.session.Attribute(pair.public_key, CKA_MODULUS));
  HSM_ASSIGN_OR_RETURN(Bytes exponent, impl.session.Attribute(pair.public_key, CKA_PUBLIC_EXPONENT));
  HSM_RETURN_IF_ERROR(impl.session.DestroyObject(pair.public_key));
  impl.join_private = pair.private_key;
  Bytes spki = RsaSpki(modulus, exponent);
  HSM_ASSIGN_OR_RETURN(impl.join_hash, impl.OaepHashOf(pair.private_key, spki));
  internal::v1::HelperJoinKey key;
  key.set_spki(ToString(spki));
  key.set_oaep_hash(impl.join_hash);
  return key;
}

absl::Status DomainKeys::Impl::ProveBundle(CK_OBJECT_HANDLE kek, const internal::v1::DomainBundle& bundle) {
  const KeySpec secret{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
  const KeySpec pair{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
  auto opens = [&](const KeySpec& spec, KeyUse use, const std::string& blob) -> absl::Status {
    Template attributes = ObjectTemplate(spec, {use, 0}).Merge(KindTemplate(spec, {use, 0}));
    auto key = session.Unwrap(Mechanism::Plain(kwp), kek, View(blob), attributes);
    if (!key.ok()) return Error(v1::REASON_OTHER_DOMAIN, "the domain bundle does not open under the KEK");
    return session.DestroyObject(*key);
  };
  HSM_RETURN_IF_ERROR(opens(secret, KeyUse::kRecordMac, bundle.record_mac_key()));
  HSM_RETURN_IF_ERROR(opens(secret, KeyUse::kRecordMac, bundle.metadata_key()));
  return opens(pair, KeyUse::kManifest, bundle.manifest_key());
}

absl::Status DomainKeys::CompleteJoin(const internal::v1::HelperKeks& keks,
                                      const internal::v1::DomainBundle& bundle) {
  Impl& impl = *impl_;
  if (impl.join_private == CK_INVALID_HANDLE) return Error(v1::REASON_CONFLICT, "no join has begun");
  auto hsm = HsmId::From(bundle.hsm_id());
  if (!hsm || DomainTagOf(*hsm, bundle.generation()) != impl.joining_tag)
    return Error(v1::REASON_OTHER_DOMAIN, "the hand-over is for another security domain");
  KekSet fresh;
  fresh.domain_tag = impl.joining_tag;
  absl::Status opened;
  for (Kek kek : kBothKeks) {
    const std::string& blob = kek == Kek::kReplication ? keks.replication_kek() : keks.backup_kek();
    auto handle = impl.session.Unwrap(Mechanism::Oaep(OaepHash(impl.join_hash)), impl.join_private,
                                      View(blob), KekTemplate(kek, impl.joining_tag, impl.kwp));
    opened.Update(handle.status());
    fresh.handles[static_cast<size_t>(kek)] = handle.value_or(CK_INVALID_HANDLE);
  }
  (void)impl.session.DestroyObject(std::exchange(impl.join_private, CK_INVALID_HANDLE));
  HSM_RETURN_IF_ERROR(opened);
  HSM_RETURN_IF_ERROR(impl.SwitchToUser());
  HSM_RETURN_IF_ERROR(RemoveGarbage(impl.session, impl.kwp).status());
  for (Kek kek : kBothKeks) {
    HSM_ASSIGN_OR_RETURN(Bytes fingerprint, KekFingerprintOf(impl.session, fresh[kek], impl.kwp));
    const std::string& wanted =
        kek == Kek::kReplication ? bundle.replication_kek_fingerprint() : bundle.backup_kek_fingerprint();
    if (!EqualConstantTime(fingerprint, View(wanted)) && !HSM_MUTANT("join-skips-fingerprint"))
      return Error(v1::REASON_OTHER_DOMAIN, "the handed-over KEK is not the domain's");
  }
  HSM_RETURN_IF_ERROR(impl.ProveBundle(fresh[Kek::kReplication], bundle));
  HSM_ASSIGN_OR_RETURN(std::optional<KekSet> existing, FindKeks(impl.session));
  if (existing && !existing->domain_tag.starts_with(hsm->ToHex()))
    return Error(v1::REASON_CONFLICT,
                 "the token holds the keys of another security domain: wipe it by hand first");
  return impl.Promote(fresh);
}

absl::StatusOr<internal::v1::HelperKeks> DomainKeys::Sponsor(ByteView spki, std::string_view oaep_hash) {
  Impl& impl = *impl_;
  if (oaep_hash != "SHA-1" && oaep_hash != "SHA-256")
    return Error(v1::REASON_INVALID_ARGUMENT, "the join key asks for an unknown hash");
  HSM_ASSIGN_OR_RETURN(RsaPublicParts parts, ParseRsaSpki(spki));
  if (parts.modulus.size() * 8 < kJoinModulusBits)
    return Error(v1::REASON_INVALID_ARGUMENT, "a join key has 3072 bits or more");
  HSM_RETURN_IF_ERROR(impl.LoginAsSo());
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE joiner,
                       impl.session.CreateObject(SponsorPublicTemplate(parts.modulus, parts.exponent)));
  HSM_RETURN_IF_ERROR(impl.SwitchToUser());
  HSM_ASSIGN_OR_RETURN(std::optional<KekSet> keks, FindKeks(impl.session));
  if (!keks) return Error(v1::REASON_NOT_ACTIVE, "this token has no domain keys to hand over");
  internal::v1::HelperKeks out;
  for (Kek kek : kBothKeks) {
    HSM_ASSIGN_OR_RETURN(Bytes wrapped,
                         impl.session.Wrap(Mechanism::Oaep(OaepHash(oaep_hash)), joiner, (*keks)[kek]));
    (kek == Kek::kReplication ? out.mutable_replication_kek() : out.mutable_backup_kek())
        ->assign(ToString(wrapped));
  }
  (void)impl.session.DestroyObject(joiner);
  impl.domain_tag = keks->domain_tag;
  return out;
}

}  // namespace hsm
