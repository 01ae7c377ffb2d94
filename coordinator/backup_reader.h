#pragma once
// Reads a backup folder and believes nothing: the manifest's signature is checked inside a token, every
// object against the manifest, the whole against names, counts and Merkle root. Nothing is changed anywhere.
// Not thread-safe.
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/backup_target.h"
#include "coordinator/core.h"
#include "hsm/internal/v1/backup_file.pb.h"

namespace hsm {

class BackupReader {
 public:
  // `target` outlives this. BACKUP_INVALID without a sound manifest, OTHER_DOMAIN for one of another security
  // domain, NOT_FOUND without the folder.
  static absl::StatusOr<std::unique_ptr<BackupReader>> Open(Core& core, BackupStorage& target,
                                                            std::string folder);

  const rpc::ManifestFields& fields() const { return fields_; }
  absl::StatusOr<rpc::Chunk> ReadChunk(uint32_t place);
  // Every object, decrypted and compared. CANCELLED when `stopping` says so.
  absl::Status VerifyAll(const std::function<bool()>& stopping);

 private:
  BackupReader(Core& core, BackupStorage& target, std::string folder)
      : core_(core), target_(target), folder_(std::move(folder)) {}
  Core& core_;
  BackupStorage& target_;
  const std::string folder_;
  rpc::ManifestFields fields_;
};

// How a folder shows in lists: complete, or why not.
v1::BackupSummary SummaryOf(const std::string& folder,
                            const absl::StatusOr<std::unique_ptr<BackupReader>>& reader);

}  // namespace hsm
