#pragma once
#include "coordinator/backup_target.h"

namespace hsm {

// A directory on the coordinator's host, made if absent by the first write. Objects are files of mode 0600,
// written under a temporary name, synced, linked to their own name (which fails if it exists) and the
// directory synced. Symbolic links are never followed below the target itself: a folder or object that is one
// is refused.
class DirectoryBackupTarget final : public BackupStorage {
 public:
  explicit DirectoryBackupTarget(std::string path) : path_(std::move(path)) {}

  absl::StatusOr<std::vector<std::string>> ListFolders() override;
  absl::Status MakeFolder(const std::string& folder) override;
  absl::StatusOr<std::vector<std::string>> ListObjects(const std::string& folder) override;
  absl::Status Create(const std::string& folder, const std::string& object, ByteView bytes) override;
  absl::StatusOr<Bytes> Read(const std::string& folder, const std::string& object, size_t bytes_max) override;

 private:
  const std::string path_;
};

}  // namespace hsm
