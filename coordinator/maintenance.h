#pragma once
// The loops of a leading coordinator: one per partition that keeps it in step, one for domain keys, one for
// housekeeping (witnessed time and purges, op records, aborted attempts, version
// records of destroyed keys).
#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "common/thread.h"
#include "coordinator/core.h"
#include "coordinator/healer.h"
#include "coordinator/keys.h"
#include "coordinator/reconciler.h"
#include "coordinator/retention.h"

namespace hsm {

class Maintenance {
 public:
  Maintenance(Core& core, Reconciler& reconciler, Healer& healer, Keys& keys, Retention& retention);
  ~Maintenance();
  // What operators and proofs decided about partitions before. Call before Start.
  absl::Status Load();
  void Start();
  void Stop();
  void Kick(size_t index);

  // DrainPartition / ResumePartition: durable, audited.
  absl::Status SetDrained(size_t index, bool drained, const AuditFields& audit);

 private:
  struct Loop {
    Mutex mutex;
    CondVar changed;
    bool stopping HSM_GUARDED_BY(mutex) = false;
    bool kicked HSM_GUARDED_BY(mutex) = false;
    Thread thread;
    // The loop's own thread only.
    absl::Duration next_try;
    absl::Duration backoff;
    absl::Duration next_audit;
    absl::Duration scrubbed_at;
    double scrub_owed = 0;
    std::string said;  // the newest complaint, so that it is logged once
  };
  bool Wait(Loop& loop, absl::Duration time);  // false: stop
  void RunPartition(size_t index);
  void Step(size_t index, Loop& loop);
  // Without traffic nothing else would show that a partition with an open breaker is well again.
  void ProbeBreaker(size_t index, const HsmView& hsm);
  absl::Status Repair(size_t index, Loop& loop, const PartitionView& view);
  void ServeByAgreement(size_t index);
  void KeepRefusal(size_t index, const PartitionView& view);
  absl::Status StoreDecision(size_t index, const rpc::StoredPartition& decision, const AuditFields& audit);
  void RunHealer();
  void RunHousekeeping();
  absl::Status SweepOld(const std::string& prefix);

  Core& core_;
  Reconciler& reconciler_;
  Healer& healer_;
  Keys& keys_;
  Retention& retention_;
  std::vector<std::unique_ptr<Loop>> loops_;  // one per partition, then the healer's, then housekeeping
  Mutex mutex_;
  std::map<size_t, rpc::StoredPartition> decisions_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
