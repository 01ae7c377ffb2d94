#pragma once
// The short-lived helper: `qhsm-node helper --config FILE --mode MODE`. It alone sees the SO PIN, works on
// the token while the node itself has no module loaded, and ends. Parent and child talk over the child's
// stdin and stdout in length-prefixed frames (hsm/internal/v1/helper.proto); the child's stderr is its log.
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/bytes.h"
#include "hsm/internal/v1/helper.pb.h"
#include "node/token_config.h"

namespace hsm {

enum class HelperMode { kMakeDomain, kProvisionAndJoin, kSponsor };
std::string_view HelperModeName(HelperMode mode);  // "make-domain", "provision-and-join", "sponsor"
absl::StatusOr<HelperMode> ParseHelperMode(std::string_view name);

// Child side. Speaks on `in_fd` and `out_fd`; returns the process's exit code. `lock_directory` is where the
// exclusive lock file lives (the node's data directory). Sequence of frames, child's view:
//   make-domain:         <- MakeDomain{hsm_id, generation}   -> DomainBundle                     -> Done
//   provision-and-join:  <- Join{hsm_id, generation}         -> JoinKey{spki, oaep_hash} <- Install{keks,
//   bundle} -> Done sponsor:             <- Sponsor{spki, oaep_hash, so_pin} -> Keks -> Done
// Any failure is answered by one Failure frame and a non-zero exit code.
int RunHelper(HelperMode mode, const TokenConfig& config, const std::string& lock_directory, int in_fd,
              int out_fd);

// Parent side. One child, its pipes, deadlines. Not thread-safe.
class HelperProcess {
 public:
  HelperProcess() = default;
  HelperProcess(const HelperProcess&) = delete;
  HelperProcess& operator=(const HelperProcess&) = delete;
  ~HelperProcess();  // kills the child if it still runs, and reaps it

  // fork and exec of `program helper --config FILE --mode MODE`. The caller must not have loaded a module.
  absl::Status Start(const std::string& program, const std::string& config_file, HelperMode mode);
  absl::Status Write(const internal::v1::HelperFrame& frame, absl::Duration timeout);
  // The next frame; a Failure frame becomes its Status. UNREACHABLE if the child ended, DEADLINE_EXCEEDED.
  absl::StatusOr<internal::v1::HelperFrame> Read(absl::Duration timeout);
  // Closes the child's stdin and waits for its end; OK only for exit code 0.
  absl::Status Wait(absl::Duration timeout);
  int pid() const { return pid_; }

 private:
  void Close();
  int pid_ = -1;
  int to_child_ = -1;
  int from_child_ = -1;
};

// Frames: 4 bytes big-endian length, at most 1 MiB, then the message. DEADLINE_EXCEEDED, UNREACHABLE (end of
// file).
absl::Status WriteFrame(int fd, const internal::v1::HelperFrame& frame, absl::Duration timeout);
absl::StatusOr<internal::v1::HelperFrame> ReadFrame(int fd, absl::Duration timeout);

}  // namespace hsm
