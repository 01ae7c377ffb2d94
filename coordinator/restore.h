#pragma once
// The steps of a full restore, and of its roll-back; DESIGN section 12. Each call of Work does one step of
// the row and records it:
//   check    manifest, every object, the gate, the quorum: nothing is changed before all of it holds
//   enter    restore mode: committed, then the barrier; from then on no data-plane call is answered
//   load     chunk by chunk into a new data set, which nobody serves
//   compare  counts and Merkle root from the store, digests from W partitions
//   switch   one transaction
// Whatever fails before the switch leads back to the old state (Abort). A roll-back is the same with the
// replaced data set as its source: data set numbers never fall, so its keys are sealed anew under a higher
// one. Not thread-safe.
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "coordinator/backup.h"
#include "coordinator/backup_reader.h"
#include "coordinator/coordinator.h"
#include "coordinator/job_store.h"
#include "coordinator/jobs.h"
#include "coordinator/restore_loader.h"

namespace hsm {

class RestoreJob {
 public:
  RestoreJob(Coordinator& coordinator, const JobOptions& options, JobStore& store,
             std::function<bool()> stopping);

  absl::StatusOr<JobProgress> Work(JobRow& row);
  // Back to the old data set and out of restore mode; what was loaded is erased. Repeatable. Not after the
  // switch.
  absl::Status Abort(JobRow& row);

 private:
  absl::Status Open(JobRow& row);
  absl::StatusOr<JobProgress> Check(JobRow& row);
  absl::Status CheckGate();
  absl::StatusOr<JobProgress> Enter(JobRow& row);
  absl::Status CheckUnchanged();
  absl::Status FindRevocations();
  absl::StatusOr<JobProgress> Load(JobRow& row);
  absl::StatusOr<bool> LoadChunk(JobRow& row);
  absl::StatusOr<bool> LoadReplaced(JobRow& row);
  absl::Status LoadKeys(JobRow& row, std::vector<RestoreLoader::Item> items);
  absl::StatusOr<std::string> RootOfReplaced();
  absl::StatusOr<JobProgress> Compare(JobRow& row);
  absl::StatusOr<JobProgress> Switch(JobRow& row);
  absl::Status SaveState(JobRow& row);
  AuditFields Audit(const JobRow& row, std::string_view operation) const;

  Coordinator& coordinator_;
  Core& core_;
  const JobOptions& options_;
  JobStore& store_;
  const std::function<bool()> stopping_;

  rpc::RestoreState state_;
  v1::StartRestoreRequest request_;
  std::unique_ptr<BackupStorage> target_;
  std::unique_ptr<BackupReader> reader_;
  bool open_ = false;
  std::optional<std::map<KeyUid, rpc::SealedRecord>>
      revocations_;                     // roll-back: heads changed since the switch
  std::optional<Deadline> serving_by_;  // how long the end of a made switch is waited for
};

}  // namespace hsm
