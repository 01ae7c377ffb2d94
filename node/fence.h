#pragma once
// What this node may do, and for whom: the HSM, the highest epoch seen, the data set, the control sequence,
// the serving lease. Epoch, sequence and data set are durable before they count. Thread-safe; calls that
// raise something block in the blob store.
//
// The lease: the node asks (heartbeat), the answer counts from before it asked. It ends by itself, with a
// newer epoch, with a jump of the wall clock against the monotonic one (a suspended or restored machine), and
// with stop, drain or switch; an answer to a question asked before such an event brings nothing back.
#include <atomic>
#include <cstdint>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/ids.h"
#include "hsm/internal/v1/control.pb.h"
#include "hsm/internal/v1/partition.pb.h"
#include "node/blob_store.h"

namespace hsm {

class ServingFence {
 public:
  ServingFence(BlobStore& blobs, Clock& clock);  // reads what is durable

  // The HSM this node belongs to; OTHER_DOMAIN if it already belongs to another.
  absl::Status SetHsm(const HsmId& hsm);

  // HSM and epoch; a newer epoch is remembered durably first. Errors: FENCED, STORE_FAILED.
  absl::Status Check(const internal::v1::Fence& fence);

  // May crypto be done for a coordinator of this epoch and data set? FENCED or NOT_ACTIVE.
  struct Permit {
    uint64_t generation = 0;
  };
  absl::StatusOr<Permit> Enter(Epoch epoch, DataSet data_set);
  // Asked again after the token call, before a result is released; cheap.
  bool StillValid(const Permit& permit, absl::Duration uptime) const;

  void OnHeartbeat(const internal::v1::HeartbeatResponse& response, absl::Duration asked_at);

  // Control messages about the whole node. Sequence rules: `sequence` must be above every one taken in this
  // epoch; the newest may come again. Returns false for an older one.
  enum class Change { kStop, kDrain, kResume, kSwitch };
  absl::StatusOr<bool> Take(Change change, Epoch epoch, uint64_t sequence, DataSet data_set);
  // Of messages about one key, which may come in any order: remembers the sequence in `batch`.
  void Note(BlobBatch& batch, Epoch epoch, uint64_t sequence);
  void Noted(Epoch epoch, uint64_t sequence);  // after the commit

  void SetDraining(bool draining);
  bool draining() const;
  bool HasLease() const;
  HsmId hsm() const;
  Epoch epoch() const;
  DataSet data_set() const;
  uint64_t control_sequence() const;
  uint64_t store_commit() const;

 private:
  absl::Status Adopt(Epoch epoch);
  void DropLease() HSM_REQUIRES(mutex_);

  BlobStore& blobs_;
  Clock& clock_;
  mutable Mutex mutex_;
  CondVar changed_;
  HsmId hsm_ HSM_GUARDED_BY(mutex_);
  Epoch epoch_ HSM_GUARDED_BY(mutex_) = 0;
  DataSet data_set_ HSM_GUARDED_BY(mutex_) = 1;
  uint64_t sequence_ HSM_GUARDED_BY(mutex_) = 0;         // of any control message in this epoch
  uint64_t global_sequence_ HSM_GUARDED_BY(mutex_) = 0;  // of those about the whole node
  uint64_t store_commit_ HSM_GUARDED_BY(mutex_) = 0;
  bool draining_ HSM_GUARDED_BY(mutex_) = false;
  bool taking_ HSM_GUARDED_BY(mutex_) = false;  // one Take at a time
  absl::Duration lease_floor_ HSM_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  absl::Duration wall_offset_ HSM_GUARDED_BY(mutex_);
  std::atomic<int64_t> lease_until_ns_{0};  // on Clock::Uptime(); 0 = none
  std::atomic<uint64_t> generation_{1};     // grows when what was permitted before is not any more
};

}  // namespace hsm
