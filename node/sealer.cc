#include "node/sealer.h"

#include <utility>

#include "common/aead.h"
#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

using internal::v1::DomainBundle;
using internal::v1::SealedRecord;

constexpr KeySpec kMacSpec{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
constexpr KeySpec kManifestSpec{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};

void AppendField(Bytes& out, ByteView field) {
  for (int shift = 24; shift >= 0; shift -= 8)
    out.push_back(static_cast<uint8_t>(field.size() >> shift & 255));
  out.insert(out.end(), field.begin(), field.end());
}

Bytes Fields(std::initializer_list<ByteView> fields) {
  Bytes out;
  for (ByteView field : fields) AppendField(out, field);
  return out;
}

absl::Status CheckFingerprint(Token& token, Kek kek, const std::string& want, std::string_view name) {
  HSM_ASSIGN_OR_RETURN(Bytes have, token.KekFingerprint(kek));
  if (StringView(have) == want && !want.empty()) return absl::OkStatus();
  return Error(v1::REASON_OTHER_DOMAIN,
               "the token's " + std::string(name) + " KEK is not that of the domain");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Sealer>> Sealer::Open(Token& token, const DomainBundle& bundle) {
  auto hsm = HsmId::From(bundle.hsm_id());
  if (!hsm || bundle.generation() == 0)
    return Error(v1::REASON_RECORD_CORRUPT, "the domain bundle is malformed");
  if (!HSM_MUTANT("skip-kek-fingerprint")) {
    HSM_RETURN_IF_ERROR(
        CheckFingerprint(token, Kek::kReplication, bundle.replication_kek_fingerprint(), "replication"));
    HSM_RETURN_IF_ERROR(CheckFingerprint(token, Kek::kBackup, bundle.backup_kek_fingerprint(), "backup"));
  }
  std::unique_ptr<Sealer> sealer(new Sealer(token, bundle));
  sealer->hsm_ = *hsm;
  HSM_ASSIGN_OR_RETURN(PublicPart manifest, PublicPart::Parse(kManifestSpec, View(bundle.manifest_spki())));
  sealer->manifest_public_ = std::make_unique<PublicPart>(std::move(manifest));
  HSM_ASSIGN_OR_RETURN(sealer->record_mac_, token.Unwrap(Kek::kReplication, kMacSpec, {KeyUse::kRecordMac, 0},
                                                         View(bundle.record_mac_key())));
  HSM_ASSIGN_OR_RETURN(sealer->metadata_, token.Unwrap(Kek::kReplication, kMacSpec, {KeyUse::kRecordMac, 0},
                                                       View(bundle.metadata_key())));
  HSM_ASSIGN_OR_RETURN(sealer->manifest_, token.Unwrap(Kek::kReplication, kManifestSpec,
                                                       {KeyUse::kManifest, 0}, View(bundle.manifest_key())));
  return sealer;
}

Sealer::~Sealer() {
  for (TokenKey key : {record_mac_, metadata_, manifest_}) {
    if (key != 0) token_.Destroy(key);
  }
}

absl::StatusOr<Bytes> Sealer::Mac(TokenKey key, std::string_view purpose, ByteView body) const {
  return token_.Hmac(key, MacInput(purpose, hsm_, generation(), body));
}

absl::StatusOr<SealedRecord> Sealer::SealBody(Bytes body) const {
  HSM_ASSIGN_OR_RETURN(Bytes mac, Mac(record_mac_, "record", body));
  SealedRecord sealed;
  sealed.set_body(ToString(body));
  sealed.set_mac(ToString(mac));
  sealed.set_mac_generation(generation());
  return sealed;
}

absl::StatusOr<SealedRecord> Sealer::Seal(const KeyHead& head) const {
  if (head.hsm != hsm_) return Error(v1::REASON_OTHER_DOMAIN, "a head of another HSM is not sealed here");
  return SealBody(Encode(head));
}

absl::StatusOr<SealedRecord> Sealer::Seal(const VersionRecord& version) const {
  if (version.hsm != hsm_)
    return Error(v1::REASON_OTHER_DOMAIN, "a version of another HSM is not sealed here");
  return SealBody(Encode(version));
}

absl::Status Sealer::CheckMac(const SealedRecord& sealed) const {
  if (HSM_MUTANT("skip-record-mac")) return absl::OkStatus();
  if (sealed.mac_generation() != generation()) {
    return Error(v1::REASON_OTHER_DOMAIN,
                 "a record was sealed under another generation of the domain's keys");
  }
  HSM_ASSIGN_OR_RETURN(Bytes mac, Mac(record_mac_, "record", View(sealed.body())));
  if (EqualConstantTime(mac, View(sealed.mac()))) return absl::OkStatus();
  return Error(v1::REASON_RECORD_CORRUPT, "the MAC of a record does not match");
}

absl::StatusOr<KeyHead> Sealer::OpenHead(const SealedRecord& sealed) const {
  HSM_RETURN_IF_ERROR(CheckMac(sealed));
  HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(sealed));
  if (head.hsm != hsm_) return Error(v1::REASON_OTHER_DOMAIN, "a record belongs to another HSM");
  return head;
}

absl::StatusOr<VersionRecord> Sealer::OpenVersion(const SealedRecord& sealed) const {
  HSM_RETURN_IF_ERROR(CheckMac(sealed));
  HSM_ASSIGN_OR_RETURN(VersionRecord version, DecodeVersion(sealed));
  if (version.hsm != hsm_) return Error(v1::REASON_OTHER_DOMAIN, "a record belongs to another HSM");
  return version;
}

absl::StatusOr<internal::v1::BackupVersion> Sealer::SealForBackup(ByteView backup_id, VersionRecord version,
                                                                  Bytes wrapped) const {
  if (version.hsm != hsm_)
    return Error(v1::REASON_OTHER_DOMAIN, "a version of another HSM is not exported here");
  version.wrapped.clear();
  Bytes body = Encode(version);
  HSM_ASSIGN_OR_RETURN(Bytes mac, Mac(record_mac_, "backup", Fields({backup_id, body, wrapped})));
  internal::v1::BackupVersion sealed;
  sealed.mutable_record()->set_body(ToString(body));
  sealed.mutable_record()->set_mac(ToString(mac));
  sealed.mutable_record()->set_mac_generation(generation());
  sealed.set_wrapped(ToString(wrapped));
  sealed.set_backup_kek_generation(generation());
  return sealed;
}

absl::StatusOr<VersionRecord> Sealer::OpenFromBackup(ByteView backup_id,
                                                     const internal::v1::BackupVersion& sealed) const {
  const SealedRecord& record = sealed.record();
  if (record.mac_generation() != generation() || sealed.backup_kek_generation() != generation()) {
    return Error(v1::REASON_OTHER_DOMAIN, "a key of the backup was sealed under other domain keys");
  }
  HSM_ASSIGN_OR_RETURN(Bytes mac, Mac(record_mac_, "backup",
                                      Fields({backup_id, View(record.body()), View(sealed.wrapped())})));
  if (!EqualConstantTime(mac, View(record.mac()))) {
    return Error(v1::REASON_RECORD_CORRUPT, "the MAC of a key in the backup does not match");
  }
  HSM_ASSIGN_OR_RETURN(VersionRecord version, DecodeVersion(record));
  if (version.hsm != hsm_ || !version.wrapped.empty()) {
    return Error(v1::REASON_RECORD_CORRUPT, "a key in the backup is malformed");
  }
  return version;
}

absl::StatusOr<Bytes> Sealer::Receipt(ByteView backup_id, ByteView batch_hash) const {
  return Mac(record_mac_, "receipt", Fields({backup_id, batch_hash}));
}

absl::StatusOr<Bytes> Sealer::DeriveAead(ByteView backup_id, ByteView chunk_id) const {
  return Mac(metadata_, "backup-aead", Fields({backup_id, chunk_id}));
}

absl::StatusOr<Bytes> Sealer::SignManifest(ByteView manifest) const {
  return token_.Sign(manifest_, kManifestSpec, v1::ALGORITHM_ES256,
                     Sha256(MacInput("manifest", hsm_, generation(), manifest)));
}

bool Sealer::VerifyManifest(ByteView manifest, ByteView signature) const {
  return manifest_public_->Verify(v1::ALGORITHM_ES256,
                                  Sha256(MacInput("manifest", hsm_, generation(), manifest)), signature);
}

namespace {

absl::StatusOr<std::string> NewDomainKey(Token& token, const KeySpec& spec, KeyUse use, std::string* spki) {
  HSM_ASSIGN_OR_RETURN(GeneratedKey made, token.Generate(spec, {use, 0}));
  absl::StatusOr<Bytes> wrapped = token.Wrap(Kek::kReplication, made.key);
  token.Destroy(made.key);
  if (!wrapped.ok()) return wrapped.status();
  if (spki != nullptr) *spki = ToString(made.spki);
  return ToString(*wrapped);
}

}  // namespace

absl::StatusOr<DomainBundle> MakeBundle(Token& token, const HsmId& hsm, uint32_t generation) {
  DomainBundle bundle;
  bundle.set_hsm_id(hsm.Raw());
  bundle.set_generation(generation);
  HSM_ASSIGN_OR_RETURN(*bundle.mutable_record_mac_key(),
                       NewDomainKey(token, kMacSpec, KeyUse::kRecordMac, nullptr));
  HSM_ASSIGN_OR_RETURN(*bundle.mutable_metadata_key(),
                       NewDomainKey(token, kMacSpec, KeyUse::kRecordMac, nullptr));
  HSM_ASSIGN_OR_RETURN(*bundle.mutable_manifest_key(),
                       NewDomainKey(token, kManifestSpec, KeyUse::kManifest, bundle.mutable_manifest_spki()));
  HSM_ASSIGN_OR_RETURN(Bytes replication, token.KekFingerprint(Kek::kReplication));
  HSM_ASSIGN_OR_RETURN(Bytes backup, token.KekFingerprint(Kek::kBackup));
  bundle.set_replication_kek_fingerprint(ToString(replication));
  bundle.set_backup_kek_fingerprint(ToString(backup));
  return bundle;
}

}  // namespace hsm
