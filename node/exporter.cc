#include "node/exporter.h"

#include "common/aead.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr KeySpec kProfileSpec{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED,
                               256};  // wrapping costs the same for all

absl::Status CheckBackupId(const std::string& id) {
  if (id.size() == 16) return absl::OkStatus();
  return Error(v1::REASON_INVALID_ARGUMENT, "backup_id has 16 bytes");
}

absl::Status TooMany() {
  return Error(v1::REASON_LIMIT_EXCEEDED,
               "at most " + std::to_string(limits::kExportVersionsPerCall) + " key versions in one call");
}

bool Belongs(const KeyHead& head, const VersionRecord& version) {
  return version.uid == head.uid && version.incarnation == head.incarnation && version.spec == head.spec;
}

}  // namespace

Bytes ExportBatchHash(const google::protobuf::RepeatedPtrField<internal::v1::BackupKey>& keys) {
  Bytes in;
  for (const internal::v1::BackupKey& key : keys) {
    std::string bytes = key.SerializeAsString();
    for (int shift = 24; shift >= 0; shift -= 8)
      in.push_back(static_cast<uint8_t>(bytes.size() >> shift & 255));
    in.insert(in.end(), bytes.begin(), bytes.end());
  }
  return Sha256(in);
}

absl::StatusOr<Bytes> Exporter::Rewrap(Kek from, Kek to, const KeySpec& spec, ByteView wrapped) {
  HSM_RETURN_IF_ERROR(core_.ServeProfile(ProfileOperation::kUnwrap, kProfileSpec));
  HSM_ASSIGN_OR_RETURN(TokenKey key, core_.token.Unwrap(from, spec, {KeyUse::kTransit, 0}, wrapped));
  CachedKey owner(core_.token, key, spec);  // destroys it, whatever happens
  HSM_RETURN_IF_ERROR(core_.ServeProfile(ProfileOperation::kWrap, kProfileSpec));
  return core_.token.Wrap(to, key);
}

absl::StatusOr<rpc::ExportResponse> Exporter::Export(const rpc::ExportRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_RETURN_IF_ERROR(CheckBackupId(request.backup_id()));
  rpc::ExportResponse response;
  const NodeCore::BulkTurn turn(core_);
  size_t versions = 0;
  for (const internal::v1::KeyRecords& records : request.records()) {
    versions += static_cast<size_t>(records.versions_size());
    if (versions > limits::kExportVersionsPerCall) return TooMany();
    HSM_ASSIGN_OR_RETURN(KeyHead head, core_.sealer->OpenHead(records.head()));
    internal::v1::BackupKey* out = response.add_keys();
    *out->mutable_head() = records.head();
    for (const internal::v1::SealedRecord& sealed : records.versions()) {
      HSM_ASSIGN_OR_RETURN(VersionRecord version, core_.sealer->OpenVersion(sealed));
      if (!Belongs(head, version)) {
        return Error(v1::REASON_RECORD_CORRUPT, "a version record does not belong to its head");
      }
      HSM_ASSIGN_OR_RETURN(Bytes wrapped,
                           Rewrap(Kek::kReplication, Kek::kBackup, version.spec, version.wrapped));
      HSM_ASSIGN_OR_RETURN(
          *out->add_versions(),
          core_.sealer->SealForBackup(View(request.backup_id()), std::move(version), std::move(wrapped)));
    }
  }
  HSM_ASSIGN_OR_RETURN(Bytes receipt,
                       core_.sealer->Receipt(View(request.backup_id()), ExportBatchHash(response.keys())));
  response.set_receipt(ToString(receipt));
  return response;
}

absl::StatusOr<rpc::ImportResponse> Exporter::Import(const rpc::ImportRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_RETURN_IF_ERROR(CheckBackupId(request.backup_id()));
  if (request.data_set() == 0 ||
      (request.incarnations_size() != 0 && request.incarnations_size() != request.keys_size())) {
    return Error(v1::REASON_INVALID_ARGUMENT,
                 "an import names its data set, and one incarnation for each key or none");
  }
  if (request.narrowed_by_size() != 0 && request.narrowed_by_size() != request.keys_size()) {
    return Error(v1::REASON_INVALID_ARGUMENT, "an import narrows each key or none");
  }
  rpc::ImportResponse response;
  const NodeCore::BulkTurn turn(core_);
  size_t versions = 0;
  for (int i = 0; i < request.keys_size(); ++i) {
    const internal::v1::BackupKey& key = request.keys(i);
    versions += static_cast<size_t>(key.versions_size());
    if (versions > limits::kExportVersionsPerCall) return TooMany();
    HSM_ASSIGN_OR_RETURN(KeyHead head, core_.sealer->OpenHead(key.head()));
    const KeyHead source = head;
    uint32_t incarnation = request.incarnations_size() == 0 ? 0 : request.incarnations(i);
    if (incarnation != 0 && incarnation < head.incarnation) {
      return Error(v1::REASON_INVALID_ARGUMENT, "an incarnation never falls");
    }
    if (incarnation != 0) head.incarnation = incarnation;
    head.data_set = request.data_set();
    if (head.state == KeyState::kDeleted && head.deleted && head.scheduled_purge) {
      // The time to its purge begins again, never shorter.
      if (request.now() < core_.time.Seconds() - kNodeTimeSlack) {
        return Error(v1::REASON_INVALID_ARGUMENT, "a deleted key is imported with the time of now");
      }
      const int64_t again = request.now() + (*head.scheduled_purge - *head.deleted);
      head.scheduled_purge = std::max(*head.scheduled_purge, again);
    }
    if (request.narrowed_by_size() != 0 && !request.narrowed_by(i).body().empty()) {
      HSM_ASSIGN_OR_RETURN(const KeyHead later, core_.sealer->OpenHead(request.narrowed_by(i)));
      if (later.uid != head.uid) {
        return Error(v1::REASON_INVALID_ARGUMENT, "a key is narrowed by a head of its own only");
      }
      head = Narrowed(std::move(head), later);
    }
    if (head.state != KeyState::kTombstone && head.incarnation <= core_.TombstonedIncarnation(head.uid)) {
      return Error(v1::REASON_TOMBSTONED,
                   "the key '" + head.name + "' was purged: it comes back as a new incarnation only");
    }
    internal::v1::KeyRecords* out = response.add_records();
    HSM_ASSIGN_OR_RETURN(*out->mutable_head(), core_.sealer->Seal(head));
    for (const internal::v1::BackupVersion& sealed : key.versions()) {
      HSM_ASSIGN_OR_RETURN(VersionRecord version,
                           core_.sealer->OpenFromBackup(View(request.backup_id()), sealed));
      if (!Belongs(source, version)) {
        return Error(v1::REASON_RECORD_CORRUPT, "a version in the backup does not belong to its head");
      }
      HSM_ASSIGN_OR_RETURN(version.wrapped,
                           Rewrap(Kek::kBackup, Kek::kReplication, version.spec, View(sealed.wrapped())));
      version.incarnation = head.incarnation;
      version.kek_generation = core_.sealer->generation();
      HSM_ASSIGN_OR_RETURN(*out->add_versions(), core_.sealer->Seal(version));
    }
  }
  return response;
}

absl::StatusOr<rpc::DeriveAeadResponse> Exporter::DeriveAead(const rpc::DeriveAeadRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_RETURN_IF_ERROR(CheckBackupId(request.backup_id()));
  if (request.chunk_id().empty() || request.chunk_id().size() > 256) {
    return Error(v1::REASON_INVALID_ARGUMENT, "chunk_id has 1 to 256 bytes");
  }
  HSM_ASSIGN_OR_RETURN(Bytes key,
                       core_.sealer->DeriveAead(View(request.backup_id()), View(request.chunk_id())));
  rpc::DeriveAeadResponse response;
  response.set_key(ToString(key));
  return response;
}

absl::Status Exporter::CheckReceipts(const rpc::SignManifestRequest& request) {
  if (request.chunks_size() != request.fields().chunks_size()) {
    return Error(v1::REASON_BACKUP_INVALID, "the manifest has chunks without receipts");
  }
  for (int i = 0; i < request.chunks_size(); ++i) {
    const rpc::ChunkReceipts& chunk = request.chunks(i);
    const internal::v1::ChunkEntry& entry = request.fields().chunks(i);
    if (chunk.chunk_hash() != entry.sha256() || chunk.receipts_size() != chunk.batch_hashes_size() ||
        (entry.keys() > 0 && chunk.receipts_size() == 0)) {
      return Error(v1::REASON_BACKUP_INVALID, "the receipts of a chunk do not fit its entry");
    }
    for (int j = 0; j < chunk.receipts_size(); ++j) {
      HSM_ASSIGN_OR_RETURN(Bytes receipt, core_.sealer->Receipt(View(request.fields().backup_id()),
                                                                View(chunk.batch_hashes(j))));
      if (!EqualConstantTime(receipt, View(chunk.receipts(j))) && !HSM_MUTANT("skip-receipts")) {
        return Error(v1::REASON_BACKUP_INVALID, "an export receipt is not ours");
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<rpc::SignManifestResponse> Exporter::SignManifest(const rpc::SignManifestRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  internal::v1::ManifestFields fields = request.fields();
  HSM_RETURN_IF_ERROR(CheckBackupId(fields.backup_id()));
  HSM_RETURN_IF_ERROR(CheckReceipts(request));
  const internal::v1::DomainBundle& bundle = core_.sealer->bundle();
  fields.set_hsm_id(bundle.hsm_id());
  fields.set_backup_kek_fingerprint(bundle.backup_kek_fingerprint());
  fields.set_bundle_generation(bundle.generation());
  rpc::SignManifestResponse response;
  response.set_manifest(fields.SerializeAsString());
  HSM_ASSIGN_OR_RETURN(Bytes signature, core_.sealer->SignManifest(View(response.manifest())));
  response.set_signature(ToString(signature));
  response.set_spki(bundle.manifest_spki());
  return response;
}

absl::StatusOr<rpc::CheckManifestResponse> Exporter::CheckManifest(const rpc::CheckManifestRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckReady());
  rpc::CheckManifestResponse response;
  if (!core_.sealer->VerifyManifest(View(request.manifest()), View(request.signature()))) return response;
  if (!response.mutable_fields()->ParseFromString(request.manifest()) ||
      response.fields().hsm_id() != core_.sealer->hsm().Raw()) {
    response.clear_fields();
    return response;
  }
  response.set_ours(true);
  return response;
}

}  // namespace hsm
