#pragma once
// Tells every partition, in order, what must no longer be: revoked heads, restore mode, a switched data set,
// a drain. The barrier holds when each partition has taken the message durably, or its serving lease has run
// out and it gets no other before it is in step again. One sending thread per partition keeps the sequence in
// order. Thread-safe.
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "coordinator/cluster_state.h"
#include "coordinator/hsm_state.h"

namespace hsm {

// Deadline of the whole wait; a barrier that is not through by then is OUTCOME_UNKNOWN to its caller and
// still runs.
inline constexpr absl::Duration kBarrierTimeout = absl::Seconds(10);

class Revoker {
 public:
  Revoker(ClusterState& cluster, HsmState& state, Clock& clock, absl::Duration control_timeout);
  ~Revoker();
  void Start();
  void Stop();

  // Sends `what` (without fence and sequence: those are added) to all partitions and waits for the barrier.
  // OUTCOME_UNKNOWN when it does not hold within kBarrierTimeout. Returns how many partitions took the
  // message.
  absl::StatusOr<uint32_t> Barrier(const rpc::ControlRequest& what);
  // To one partition only, waiting for its answer: data set switch of a node that was away, drain, resume.
  absl::Status Tell(size_t index, const rpc::ControlRequest& what);

 private:
  static constexpr size_t kQueueMax = 256;
  struct Message {
    rpc::ControlRequest request;
    enum class State { kQueued, kTaken, kMissed } state = State::kQueued;
    absl::Status status;
    Mutex mutex;
    CondVar changed;
  };
  struct Line {  // of one partition
    Mutex mutex;
    CondVar changed;
    bool stopping HSM_GUARDED_BY(mutex) = false;
    std::deque<std::shared_ptr<Message>> queue HSM_GUARDED_BY(mutex);
    Thread thread;
  };
  void Run(size_t index);
  std::shared_ptr<Message> Post(size_t index, const rpc::ControlRequest& request);
  rpc::ControlRequest Addressed(const rpc::ControlRequest& what);

  ClusterState& cluster_;
  HsmState& state_;
  Clock& clock_;
  const absl::Duration control_timeout_;
  std::vector<std::unique_ptr<Line>> lines_;
  Mutex order_mutex_;  // sequences are given out and queued everywhere in one order
  uint64_t sequence_ HSM_GUARDED_BY(order_mutex_) = 0;
};

}  // namespace hsm
