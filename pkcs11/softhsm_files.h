#pragma once
// SoftHSM keeps a token as files and never syncs them; C_Login rewrites token.object by truncate and write,
// so that a kill in between destroys the token. This keeps a copy of token.object beside it, restores it when
// the original was found cut off, and makes files durable. Does nothing for other modules.
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hsm::pkcs11 {

class SoftHsmFiles {
 public:
  // From $SOFTHSM2_CONF as it is now; inactive if that is not set or names no token directory.
  static SoftHsmFiles FromEnvironment();
  explicit SoftHsmFiles(std::string token_directory) : directory_(std::move(token_directory)) {}

  bool active() const { return !directory_.empty(); }
  const std::string& directory() const { return directory_; }

  // Before C_Initialize: puts the kept copy back where token.object is cut off. Returns how many were
  // restored.
  absl::StatusOr<int> RestoreTruncated() const;
  // Before C_Login: copies each complete token.object, durably. An incomplete one never replaces a copy.
  absl::Status KeepCopies() const;
  // After a change that must last: syncs all files of all tokens, and their directories.
  absl::Status Sync() const;

 private:
  std::vector<std::string> TokenDirectories() const;
  std::string directory_;  // no trailing slash
};

// Whether `bytes` is a whole token.object: a generation number, then attributes up to the last byte, the
// blobs of both PINs among them.
bool IsCompleteTokenObject(const std::string& bytes);

}  // namespace hsm::pkcs11
