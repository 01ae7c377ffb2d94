#pragma once
// What callers do with keys, short of using them: create, look, change, rotate, destroy, prove. Each call
// checks the caller's right here, where the effect happens. DESIGN sections 6 and 8. Thread-safe; calls
// block.
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/caller.h"
#include "coordinator/core.h"
#include "hsm/v1/key.pb.h"

namespace hsm {

class Keys {
 public:
  explicit Keys(Core& core) : core_(core) {}

  absl::StatusOr<v1::Key> Create(const Caller& caller, const v1::CreateKeyRequest& request);
  absl::StatusOr<v1::Key> Get(const Caller& caller, const v1::GetKeyRequest& request);
  absl::StatusOr<v1::ListKeysResponse> List(const Caller& caller, const v1::ListKeysRequest& request);
  absl::StatusOr<v1::ListKeysResponse> ListVersions(const Caller& caller,
                                                    const v1::ListKeyVersionsRequest& request);
  absl::StatusOr<v1::Key> SetAttributes(const Caller& caller, const v1::SetKeyAttributesRequest& request);
  absl::StatusOr<v1::Key> Rotate(const Caller& caller, const v1::RotateKeyRequest& request);
  absl::StatusOr<v1::DeleteKeyResponse> Delete(const Caller& caller, const v1::DeleteKeyRequest& request);
  absl::StatusOr<v1::ProveKeyResponse> Prove(const Caller& caller, const v1::ProveKeyRequest& request);

  // Whether a staging attempt of this process is still under way; the reconciler leaves those alone.
  bool AttemptRuns(const OpId& attempt) const;

 private:
  class RunningOp;
  struct Begun;
  friend class RunningOp;

  Core& core_;
  mutable Mutex mutex_;
  std::set<std::string> running_ops_ HSM_GUARDED_BY(mutex_);  // op id + principal
  std::set<OpId> attempts_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
