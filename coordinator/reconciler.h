#pragma once
// Brings one partition in step with the catalogue: level-triggered, and only in that direction. Compares
// bucket digests, pushes what is missing or old, destroys what is tombstoned, quarantines what the catalogue
// does not know, sweeps stale STAGED records, proves what is unproved. DESIGN section 9. Called by one loop
// per partition; calls block.
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/core.h"
#include "coordinator/prover.h"
#include "coordinator/replicator.h"

namespace hsm {

class Reconciler {
 public:
  Reconciler(Core& core, Replicator& replicator, Prover& prover)
      : core_(core), replicator_(replicator), prover_(prover) {}

  // The whole partition. When it returns OK the partition holds and has proved what the catalogue says, and
  // is synced, unless it missed a message meanwhile. A partition that is synced already stays in rotation.
  absl::Status Sync(size_t index);
  // Only the keys it missed a change of.
  absl::Status RepairBehind(size_t index);
  // Proves `count` versions again, going round.
  absl::Status Scrub(size_t index, uint32_t count);

 private:
  struct Found {  // in one pass
    std::vector<std::string> push_names;
    std::vector<KeyUid> push_tombstones;
    std::vector<ProofItem> unproved;
    uint32_t quarantined = 0, swept = 0;
  };
  absl::Status AlignDataSet(size_t index);
  absl::Status CompareBucket(size_t index, uint32_t bucket, Found& found);
  void AddAll(uint32_t bucket, Found& found);
  absl::Status JudgeHeld(size_t index, const rpc::HeldKey& held, Found& found);
  absl::Status JudgeStaged(size_t index, const rpc::HeldKey& held, Found& found);
  absl::Status Push(size_t index, const Found& found);
  absl::Status SendRecords(size_t index, rpc::PutRecordsRequest& request);
  absl::Status ProveAll(size_t index, const std::vector<ProofItem>& items);

  Core& core_;
  Replicator& replicator_;
  Prover& prover_;
  Mutex mutex_;
  std::map<size_t, std::pair<uint32_t, size_t>> scrub_at_ HSM_GUARDED_BY(mutex_);  // bucket and place in it
};

}  // namespace hsm
