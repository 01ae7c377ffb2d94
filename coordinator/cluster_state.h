#pragma once
// What the coordinator knows about each partition right now: its state, load, lease and what it is behind on.
// The set of partitions is fixed by the configuration. Thread-safe; Pick/Begin/End are the hot path (no locks
// while all is well, no allocation).
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/mutex.h"
#include "coordinator/membership.h"
#include "coordinator/partition_client.h"
#include "coordinator/routing.h"
#include "hsm/internal/v1/control.pb.h"
#include "hsm/v1/hsm.pb.h"

namespace hsm {

enum class BusyWith : uint8_t { kNothing, kBackup, kRestore };

struct PartitionView {
  std::string name;
  v1::PartitionState state = v1::PARTITION_STATE_STARTING;
  PartitionFacts facts;
  rpc::HeartbeatRequest heartbeat;  // the newest; default before the first
  BusyWith busy = BusyWith::kNothing;
  uint32_t in_flight = 0;     // crypto operations sent by this coordinator
  uint64_t sent = 0;          // crypto operations answered, since start
  double ops_per_second = 0;  // as the node reports it
  size_t behind = 0;          // keys it missed a change of
  std::string message;
};

class ClusterState {
 public:
  ClusterState(std::vector<PartitionClient*> clients, const Clock& clock, MembershipTimes times);

  size_t size() const { return slots_.size(); }
  uint32_t quorum() const { return static_cast<uint32_t>(slots_.size() / 2 + 1); }  // W
  PartitionClient& client(size_t index) const { return *slots_[index]->client; }
  const std::string& name(size_t index) const { return slots_[index]->client->name(); }
  std::optional<size_t> IndexOf(std::string_view name) const;

  // --- hot path ---
  // A READY partition whose breaker admits the operation, that is not in `tried` (bit per index) and not
  // behind on `uid`; the less loaded of two drawn by `random_bits`, or, with nothing under way, the one whose
  // turn it is. -1 if none. Does not count the operation: call Begin.
  int Pick(const KeyUid* uid, uint32_t tried, uint64_t random_bits);
  // Whether a partition that is out for its errors only may be sent one operation now, to see whether it can
  // come back.
  bool AdmitProbe(size_t index, const KeyUid* uid);
  void Begin(size_t index, uint32_t operations);
  // `ok` is false only for device failures and broken connections, never for the caller's mistakes.
  void End(size_t index, uint32_t operations, bool ok);

  // --- snapshots ---
  v1::PartitionState StateOf(size_t index) const;
  bool IsReady(size_t index) const { return StateOf(index) == v1::PARTITION_STATE_READY; }
  uint32_t ReadyCount() const;
  bool TakesRecordsNow(size_t index) const;
  uint64_t OpsDone(size_t index) const;  // monotonic, for throughput windows
  uint64_t OpsDone() const;              // of all partitions
  uint32_t InFlight(size_t index) const { return slots_[index]->in_flight.load(std::memory_order_relaxed); }
  PartitionView View(size_t index) const;
  std::vector<PartitionView> Views() const;

  // --- changes ---
  void SetBusy(size_t index, BusyWith busy);
  // The newest heartbeat. Returns true if the process is another one than before (restart).
  bool OnHeartbeat(size_t index, const rpc::HeartbeatRequest& heartbeat, absl::Duration now);
  // Recomputes the state from the facts at `now`; call after changing facts, and in the tick.
  v1::PartitionState Refresh(size_t index, absl::Duration now);
  void ChangeFacts(size_t index, const std::function<void(PartitionFacts&)>& change, absl::Duration now);
  void SetMessage(size_t index, std::string message);
  // Never routed to again until an operator resumes it.
  void Refuse(size_t index, const std::string& why, absl::Duration now);

  // Leases. GrantLease is called while answering a heartbeat, only for a READY partition.
  // False if leases of this partition are withheld (it missed a control message and must be synced first).
  bool GrantLease(size_t index, absl::Duration now, absl::Duration length);
  absl::Duration LeaseUntil(size_t index) const;
  // A partition that missed a revocation: no lease before it is synced again, by a sync that began after
  // this.
  void WithholdLease(size_t index, absl::Duration now);
  // A sync: what happened before Begin is covered by it. Finish is false if the partition missed something
  // meanwhile.
  uint64_t BeginSync(size_t index);
  bool FinishSync(size_t index, uint64_t begun, absl::Duration now);

  // Keys a partition missed a change of; it gets no operations on them until they are repaired. Each mark has
  // a stamp, so that a repair begun earlier does not clear a later miss.
  void MarkBehind(size_t index, const KeyUid& uid);
  size_t BehindCount(size_t index) const {
    return slots_[index]->behind_count.load(std::memory_order_acquire);
  }
  std::vector<std::pair<KeyUid, uint64_t>> Behind(size_t index) const;
  void ClearBehind(size_t index, const std::vector<std::pair<KeyUid, uint64_t>>& repaired);

 private:
  struct Slot {
    PartitionClient* client = nullptr;
    std::atomic<int> state{v1::PARTITION_STATE_STARTING};
    std::atomic<uint32_t> in_flight{0};
    std::atomic<uint64_t> done{0};
    std::atomic<uint64_t> good{0};  // since the breaker last looked
    std::atomic<bool> breaker_closed{true};
    std::atomic<BusyWith> busy{BusyWith::kNothing};
    std::atomic<size_t> behind_count{0};

    mutable Mutex mutex;
    PartitionFacts facts HSM_GUARDED_BY(mutex);
    rpc::HeartbeatRequest heartbeat HSM_GUARDED_BY(mutex);
    std::string message HSM_GUARDED_BY(mutex);
    Breaker breaker HSM_GUARDED_BY(mutex);
    absl::Duration lease_until HSM_GUARDED_BY(mutex);
    uint64_t missed HSM_GUARDED_BY(mutex) = 0;  // grows with each reason to sync again
    std::unordered_map<KeyUid, uint64_t> behind HSM_GUARDED_BY(mutex);
  };
  bool Eligible(Slot& slot, const KeyUid* uid);
  void RefreshLocked(Slot& slot, absl::Duration now) HSM_REQUIRES(slot.mutex);

  const Clock& clock_;
  const MembershipTimes times_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::atomic<uint64_t> next_stamp_{1};
};

}  // namespace hsm
