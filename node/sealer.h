#pragma once
// Seals and opens with the domain's keys, which live in the token as session objects. What is sealed was
// encoded here from typed fields, and every MAC and signature is over {purpose, HSM, generation} first: a
// value made for one use is worth nothing in another, and no caller can have bytes of its choice signed.
// Thread-safe.
#include <memory>

#include "absl/status/statusor.h"
#include "common/record.h"
#include "hsm/internal/v1/backup_file.pb.h"
#include "hsm/internal/v1/sealed_record.pb.h"
#include "node/public_part.h"
#include "node/token.h"

namespace hsm {

class Sealer {
 public:
  // Checks the KEK fingerprints against the token's (OTHER_DOMAIN), then unwraps the bundle's keys.
  static absl::StatusOr<std::unique_ptr<Sealer>> Open(Token& token, const internal::v1::DomainBundle& bundle);
  ~Sealer();

  const HsmId& hsm() const { return hsm_; }
  uint32_t generation() const { return bundle_.generation(); }
  const internal::v1::DomainBundle& bundle() const { return bundle_; }

  absl::StatusOr<internal::v1::SealedRecord> Seal(const KeyHead& head) const;
  absl::StatusOr<internal::v1::SealedRecord> Seal(const VersionRecord& version) const;
  // Nothing of a record is believed before this: RECORD_CORRUPT (MAC or encoding), OTHER_DOMAIN (HSM,
  // generation).
  absl::StatusOr<KeyHead> OpenHead(const internal::v1::SealedRecord& sealed) const;
  absl::StatusOr<VersionRecord> OpenVersion(const internal::v1::SealedRecord& sealed) const;

  // A version in a backup: the MAC covers the backup's id, the record without its wrapped key, and the key as
  // wrapped under the backup KEK.
  absl::StatusOr<internal::v1::BackupVersion> SealForBackup(ByteView backup_id, VersionRecord version,
                                                            Bytes wrapped) const;
  absl::StatusOr<VersionRecord> OpenFromBackup(ByteView backup_id,
                                               const internal::v1::BackupVersion& sealed) const;
  absl::StatusOr<Bytes> Receipt(ByteView backup_id, ByteView batch_hash) const;
  absl::StatusOr<Bytes> DeriveAead(ByteView backup_id, ByteView chunk_id) const;
  absl::StatusOr<Bytes> SignManifest(ByteView manifest) const;
  bool VerifyManifest(ByteView manifest, ByteView signature) const;

 private:
  Sealer(Token& token, const internal::v1::DomainBundle& bundle) : token_(token), bundle_(bundle) {}
  absl::StatusOr<Bytes> Mac(TokenKey key, std::string_view purpose, ByteView body) const;
  absl::StatusOr<internal::v1::SealedRecord> SealBody(Bytes body) const;
  absl::Status CheckMac(const internal::v1::SealedRecord& sealed) const;

  Token& token_;
  const internal::v1::DomainBundle bundle_;
  HsmId hsm_;
  TokenKey record_mac_ = 0, metadata_ = 0, manifest_ = 0;
  std::unique_ptr<PublicPart> manifest_public_;
};

// New domain keys under the KEKs the token has: what the first partition of an HSM does once.
absl::StatusOr<internal::v1::DomainBundle> MakeBundle(Token& token, const HsmId& hsm, uint32_t generation);

}  // namespace hsm
