// The end of a backup: every object read back, then the manifest, signed by a partition and written last.
#include <fmt/format.h>

#include <algorithm>

#include "common/error.h"
#include "common/status_macros.h"
#include "coordinator/backup.h"
#include "coordinator/job_calls.h"
#include "coordinator/merkle.h"

namespace hsm {
namespace {

constexpr absl::Duration kManifestTimeout = absl::Seconds(60);

}  // namespace

absl::StatusOr<JobProgress> BackupJob::Verify(JobRow& row) {
  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::StoredChunk> parts, store_.Parts(row.id, state_.chunks()));
  for (const rpc::StoredChunk& part : parts) {
    if (stopping_()) return JobProgress::kAdvanced;
    HSM_ASSIGN_OR_RETURN(const Bytes stored, target_->Read(row.job().backup().folder(), part.entry().object(),
                                                           kChunkStoredBytesMax));
    HSM_RETURN_IF_ERROR(CheckStoredChunk(stored, *BackupId::From(state_.backup_id()), part.entry()).status());
  }
  row.job().set_step("manifest");
  HSM_RETURN_IF_ERROR(SaveState(row));
  return JobProgress::kAdvanced;
}

absl::StatusOr<rpc::ManifestFields> BackupJob::BuildManifest(JobRow& row, rpc::SignManifestRequest& request) {
  const HsmViewPtr view = core_.state.View();
  rpc::ManifestFields fields;
  fields.set_format(kBackupFormat);
  fields.set_backup_id(state_.backup_id());
  fields.set_hsm_id(view->id.Raw());
  fields.set_hsm_name(core_.config.hsm_name);
  fields.set_folder(row.job().backup().folder());
  fields.set_created(absl::ToUnixSeconds(core_.clock.Now()));
  fields.set_snapshot_revision(static_cast<uint64_t>(snapshot_->revision()));
  fields.set_data_set(state_.data_set());
  fields.set_epoch(view->epoch);
  fields.set_backup_kek_fingerprint(view->stored.bundle().backup_kek_fingerprint());
  fields.set_bundle_generation(view->stored.bundle().generation());
  *fields.mutable_skipped() = state_.skipped();
  std::vector<std::string> skipped;
  for (const std::string& line : state_.skipped()) skipped.push_back(line.substr(0, line.find(':')));

  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::StoredChunk> parts, store_.Parts(row.id, state_.chunks()));
  uint64_t exported = 0;
  for (const rpc::StoredChunk& part : parts) {
    *fields.add_chunks() = part.entry();
    exported += part.entry().versions();
    *request.add_chunks() = part.receipts();
  }
  MerkleTree tree;
  uint64_t versions = 0;
  for (std::string after;;) {
    HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot_->Keys(state_.data_set(), after, 200));
    for (const CatalogueKey& key : page.keys) {
      if (std::find(skipped.begin(), skipped.end(), key.name) != skipped.end()) continue;
      HSM_ASSIGN_OR_RETURN(const Bytes leaf, InventoryLeafOf(key.records));
      tree.Add(leaf);
      versions += static_cast<uint64_t>(key.records.versions_size());
      fields.add_names(key.name);
    }
    if (!page.more || page.keys.empty()) break;
    after = page.keys.back().name;
  }
  // The chunks must hold what the snapshot holds: a slip in the bookkeeping must not become a signed backup.
  if (exported != versions) {
    return Error(v1::REASON_INTERNAL,
                 fmt::format("{} versions were exported, the snapshot has {}", exported, versions));
  }
  const Sha256Hash root = tree.Root();
  fields.set_keys(static_cast<uint64_t>(fields.names_size()));
  fields.set_versions(versions);
  fields.set_merkle_root(root.data(), root.size());
  return fields;
}

absl::StatusOr<JobProgress> BackupJob::Manifest(JobRow& row) {
  rpc::SignManifestRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_fields(), BuildManifest(row, request));
  const rpc::ManifestFields& fields = request.fields();
  const std::string& folder = row.job().backup().folder();
  HSM_RETURN_IF_ERROR(CheckManifest(fields, folder));
  *request.mutable_fence() = core_.Fence();
  HSM_ASSIGN_OR_RETURN(rpc::SignManifestResponse signed_manifest,
                       AnyReady<rpc::SignManifestResponse>(core_, [&](PartitionClient& client) {
                         return client.SignManifest(request, kManifestTimeout);
                       }));
  rpc::ManifestFile file;
  file.set_manifest(signed_manifest.manifest());
  file.set_signature(signed_manifest.signature());
  file.set_spki(signed_manifest.spki());
  const Bytes stored = EncodeManifestFile(file);
  if (stored.size() > kManifestBytesMax)
    return Error(v1::REASON_LIMIT_EXCEEDED, "too many keys for one manifest");
  HSM_RETURN_IF_ERROR(target_->Create(folder, std::string(kManifestObject), stored));
  HSM_ASSIGN_OR_RETURN(const Bytes read_back,
                       target_->Read(folder, std::string(kManifestObject), kManifestBytesMax));
  if (read_back != stored)
    return Error(v1::REASON_TARGET_FAILED, "the target gave other bytes back than were written");

  v1::BackupResult& result = *row.job().mutable_backup();
  result.set_keys(fields.keys());
  result.set_versions(fields.versions());
  result.set_snapshot_revision(fields.snapshot_revision());
  *result.mutable_skipped() = state_.skipped();
  *result.mutable_measured() = MeasuredFigures(state_);
  row.job().set_done(fields.versions());
  row.job().set_total(fields.versions());
  return JobProgress::kDone;
}

}  // namespace hsm
