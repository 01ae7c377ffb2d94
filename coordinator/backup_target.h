#pragma once
// Where backups lie: folders of objects that are created once and never rewritten, so that immutable storage
// works. The manifest is an object like the others, written last; a folder without one is no backup.
// Implementations: backup_target_directory.h. Thread-safe; each call blocks.
// docs/decisions/0021-backup-target-seam.md.
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "hsm/v1/backup.pb.h"

namespace hsm {

class BackupStorage {
 public:
  virtual ~BackupStorage() = default;

  // Names of all folders that can be a backup's, ascending.
  virtual absl::StatusOr<std::vector<std::string>> ListFolders() = 0;
  virtual absl::Status MakeFolder(const std::string& folder) = 0;  // also if it is there already
  // Object names of a folder, ascending. NOT_FOUND if there is no such folder.
  virtual absl::StatusOr<std::vector<std::string>> ListObjects(const std::string& folder) = 0;

  // Durable when it returns OK. CONFLICT if the object exists, whatever it holds; TARGET_FAILED if the target
  // refuses (the text says full, permission ...), after which the object does not exist under this name.
  virtual absl::Status Create(const std::string& folder, const std::string& object, ByteView bytes) = 0;
  // NOT_FOUND without the object; BACKUP_INVALID if it is larger than `bytes_max` or no plain object.
  virtual absl::StatusOr<Bytes> Read(const std::string& folder, const std::string& object,
                                     size_t bytes_max) = 0;
};

// INVALID_ARGUMENT for a target that cannot be one (no absolute path, "..", NUL). Touches nothing.
absl::StatusOr<std::unique_ptr<BackupStorage>> OpenBackupTarget(const v1::BackupTarget& target);

// A folder name as users may give it: a bare name of [0-9A-Za-z-], at most 160 characters.
absl::Status CheckFolderName(const std::string& folder);

}  // namespace hsm
