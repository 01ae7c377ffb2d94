#include "coordinator/backup_reader.h"

#include <fmt/format.h>

#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"
#include "coordinator/backup_file.h"
#include "coordinator/job_calls.h"
#include "coordinator/merkle.h"

namespace hsm {
namespace {

constexpr absl::Duration kCheckTimeout = absl::Seconds(30);

// An object that is gone makes the backup invalid, whatever the target's own word for it.
absl::Status AsInvalid(const absl::Status& status) {
  if (ReasonOf(status) != v1::REASON_NOT_FOUND) return status;
  return Error(v1::REASON_BACKUP_INVALID, DetailOf(status).message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<BackupReader>> BackupReader::Open(Core& core, BackupStorage& target,
                                                                 std::string folder) {
  HSM_RETURN_IF_ERROR(CheckFolderName(folder));
  HSM_RETURN_IF_ERROR(target.ListObjects(folder).status());  // NOT_FOUND for a folder that is not there
  auto stored = target.Read(folder, std::string(kManifestObject), kManifestBytesMax);
  if (ReasonOf(stored.status()) == v1::REASON_NOT_FOUND) {
    return Error(v1::REASON_BACKUP_INVALID, "the folder has no manifest: the backup never finished");
  }
  if (!stored.ok()) return stored.status();
  HSM_ASSIGN_OR_RETURN(const rpc::ManifestFile file, ParseManifestFile(*stored));
  const std::string our_spki = core.state.View()->stored.bundle().manifest_spki();
  rpc::CheckManifestRequest request;
  request.set_manifest(file.manifest());
  request.set_signature(file.signature());
  HSM_ASSIGN_OR_RETURN(rpc::CheckManifestResponse checked,
                       AnyReady<rpc::CheckManifestResponse>(core, [&](PartitionClient& client) {
                         return client.CheckManifest(request, kCheckTimeout);
                       }));
  if (!checked.ours() && !HSM_MUTANT("restore-any-signature")) {
    if (!file.spki().empty() && file.spki() != our_spki) {
      return Error(v1::REASON_OTHER_DOMAIN, "the backup was made under another security domain");
    }
    return Error(v1::REASON_BACKUP_INVALID, "the manifest's signature does not hold");
  }
  auto reader = std::unique_ptr<BackupReader>(new BackupReader(core, target, std::move(folder)));
  // The signed bytes themselves, not what travelled beside them.
  if (!reader->fields_.ParseFromString(file.manifest())) {
    return Error(v1::REASON_BACKUP_INVALID, "the manifest cannot be read");
  }
  HSM_RETURN_IF_ERROR(CheckManifest(reader->fields_, reader->folder_));
  return reader;
}

absl::StatusOr<rpc::Chunk> BackupReader::ReadChunk(uint32_t place) {
  const rpc::ChunkEntry& entry = fields_.chunks(static_cast<int>(place));
  const absl::StatusOr<Bytes> stored = target_.Read(folder_, entry.object(), kChunkStoredBytesMax);
  if (!stored.ok()) return AsInvalid(stored.status());
  const BackupId backup = *BackupId::From(fields_.backup_id());
  HSM_ASSIGN_OR_RETURN(const ChunkPlace checked, CheckStoredChunk(*stored, backup, entry));
  rpc::DeriveAeadRequest derive;
  *derive.mutable_fence() = core_.Fence();
  derive.set_backup_id(fields_.backup_id());
  derive.set_chunk_id(ToString(checked.Id()));
  HSM_ASSIGN_OR_RETURN(const SecretBytes key, DeriveChunkKey(core_, derive));
  return OpenChunk(*stored, checked, entry, key);
}

absl::Status BackupReader::VerifyAll(const std::function<bool()>& stopping) {
  MerkleTree tree;
  int names = 0;
  for (uint32_t place = 0; place < static_cast<uint32_t>(fields_.chunks_size()); ++place) {
    if (stopping()) return Error(v1::REASON_CANCELLED, "the verification was stopped");
    HSM_ASSIGN_OR_RETURN(const rpc::Chunk chunk, ReadChunk(place));
    for (const rpc::BackupKey& key : chunk.keys()) {
      const absl::StatusOr<KeyHead> head = DecodeHead(key.head());
      const absl::StatusOr<Bytes> leaf = InventoryLeafOf(key);
      if (!head.ok() || !leaf.ok()) {
        return Error(v1::REASON_BACKUP_INVALID, fmt::format("chunk {} holds a record that is none", place));
      }
      if (head->state == KeyState::kTombstone) continue;
      if (names >= fields_.names_size() || fields_.names(names) != head->name ||
          head->version_count != static_cast<uint32_t>(key.versions_size())) {
        return Error(v1::REASON_BACKUP_INVALID,
                     fmt::format("chunk {} holds other keys than the manifest names", place));
      }
      ++names;
      tree.Add(*leaf);
    }
  }
  if (names != fields_.names_size()) {
    return Error(v1::REASON_BACKUP_INVALID, "keys that the manifest names are missing");
  }
  const Sha256Hash root = tree.Root();
  if (!EqualConstantTime(root, View(fields_.merkle_root()))) {
    return Error(v1::REASON_BACKUP_INVALID, "the keys do not give the manifest's Merkle root");
  }
  return absl::OkStatus();
}

v1::BackupSummary SummaryOf(const std::string& folder,
                            const absl::StatusOr<std::unique_ptr<BackupReader>>& reader) {
  v1::BackupSummary summary;
  summary.set_folder(folder);
  summary.set_complete(reader.ok());
  if (!reader.ok()) {
    summary.set_message(DetailOf(reader.status()).message());
    return summary;
  }
  const rpc::ManifestFields& fields = (*reader)->fields();
  summary.set_keys(fields.keys());
  summary.set_versions(fields.versions());
  summary.set_hsm_name(fields.hsm_name());
  summary.set_created(fields.created());
  uint64_t bytes = 0;
  for (const rpc::ChunkEntry& entry : fields.chunks()) bytes += entry.bytes();
  summary.set_bytes(bytes);
  return summary;
}

}  // namespace hsm
