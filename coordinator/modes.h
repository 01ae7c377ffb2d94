#pragma once
// The modes of the HSM and the switch of the data set that serves. DESIGN section 12. Thread-safe; calls
// block.
#include <functional>

#include "absl/status/statusor.h"
#include "coordinator/core.h"

namespace hsm {

class Modes {
 public:
  // `kick` wakes the loops that bring partitions in step.
  Modes(Core& core, std::function<void()> kick) : core_(core), kick_(std::move(kick)) {}

  absl::Status EnterRestore(const JobId& job, const AuditFields& audit);
  absl::StatusOr<DataSet> NewDataSet(const JobId& job);
  absl::Status SwitchDataSet(const JobId& job, DataSet to, const AuditFields& audit);
  absl::Status LeaveRestore(const JobId& job, const AuditFields& audit);

 private:
  absl::Status HeldBy(const HsmView& view, const JobId& job) const;
  absl::Status AwaitServing();

  Core& core_;
  std::function<void()> kick_;
};

}  // namespace hsm
