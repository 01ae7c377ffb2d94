#pragma once
// Files, the durable way. What these return OK for is on disk: the file is synced, and so is its directory.
// Reasons: NOT_FOUND, LIMIT_EXCEEDED (larger than the cap), CONFLICT (exists), STORE_FULL (no space), LOCKED,
// STORE_FAILED for all else; callers that mean something narrower translate.
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/secret.h"

namespace hsm {

absl::StatusOr<Bytes> ReadFile(const std::string& path, size_t bytes_max);
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max);
// A PIN or key file: no newline at its end is taken as part of it. INVALID_ARGUMENT when empty.
absl::StatusOr<SecretBytes> ReadSecretFile(const std::string& path, size_t bytes_max);

// Replaces `path` at once: readers see the old content or the new, also after a power loss.
absl::Status WriteFileAtomic(const std::string& path, ByteView content, mode_t mode = 0600);
// CONFLICT if `path` exists: never overwrites. Complete or absent after a power loss.
absl::Status CreateFileDurable(const std::string& path, ByteView content, mode_t mode = 0600);
absl::Status RemoveFile(const std::string& path);  // OK if absent
absl::Status MakeDirectories(const std::string& path, mode_t mode = 0700);
absl::Status SyncDirectory(const std::string& path);
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);  // bare names, sorted
bool FileExists(const std::string& path);
std::string JoinPath(std::string_view directory, std::string_view name);  // an absolute name stays as it is

// One process at a time in a directory; held until destroyed or the process dies. The kernel keeps it (flock
// on DIRECTORY/lock), so nothing stale is left behind.
class DirectoryLock {
 public:
  static absl::StatusOr<DirectoryLock> Take(
      const std::string& directory);  // LOCKED if another process has it
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&&) = delete;
  ~DirectoryLock();

 private:
  explicit DirectoryLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace hsm
