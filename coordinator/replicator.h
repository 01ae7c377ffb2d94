#pragma once
// Makes a key (or a new version of one) on one partition and installs it, proved, on a majority: everything
// of a create before its commit point, and the activation after it. DESIGN section 6. Thread-safe; calls
// block.
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/record.h"
#include "coordinator/batcher.h"
#include "coordinator/core.h"
#include "hsm/internal/v1/partition.pb.h"

namespace hsm {

// Records that W partitions or more have proved and hold as STAGED.
struct StagedKey {
  OpId attempt;
  rpc::KeyRecords records;
  KeyHead head;
  VersionRecord version;
  std::vector<std::string> proved;  // names of the partitions
};

class Replicator {
 public:
  explicit Replicator(Core& core);

  // `what` without fence and op id. `uid`: of the key that gets a new version; null for a new key.
  // NO_QUORUM: nothing stays. Errors of the caller (UNSUPPORTED ...) come back as they are.
  absl::StatusOr<StagedKey> Stage(const rpc::GenerateRequest& what, const KeyUid* uid);
  // After the commit. Returns on how many partitions the key is ACTIVE now; marks the others behind.
  uint32_t Activate(const OpId& attempt, const KeyUid& uid, Revision revision);
  // The commit did not happen and never will.
  void Discard(const OpId& attempt);
  // The caller has committed or discarded.
  void Done(const OpId& attempt);

  // Committed heads (and versions) to all partitions that take records; returns how many have them. The
  // others are marked behind.
  uint32_t Put(const rpc::KeyRecords& records, const KeyUid& uid);

  // Partitions that hold or can take records, best first for a call that only one needs to answer.
  std::vector<size_t> Targets() const;
  bool AttemptRuns(const OpId& attempt) const;

 private:
  absl::StatusOr<StagedKey> Generate(const rpc::GenerateRequest& what, const KeyUid* uid);
  absl::Status Install(StagedKey& staged);
  uint32_t CountOk(const std::vector<size_t>& targets,
                   const std::vector<std::optional<absl::Status>>& answers, const KeyUid& uid);

  // One item of a batched call, with the fence under which it was decided.
  template <typename Item>
  struct Fenced {
    rpc::Fence fence;
    Item item;
  };
  using InstallAnswer = absl::StatusOr<rpc::InstallAnswer>;
  template <typename Item>
  static bool SameFence(const Fenced<Item>& a, const Fenced<Item>& b);

  Core& core_;
  Batcher<Fenced<rpc::InstallItem>, InstallAnswer> installs_;
  Batcher<Fenced<rpc::ActivateItem>, absl::Status> activations_;
  mutable Mutex mutex_;
  std::set<OpId> attempts_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
