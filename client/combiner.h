#pragma once
// Turns many threads' single operations into few batches, without a thread of its own (leader and followers).
// A caller queues its operation; if a lane is free it leads: it gives others a moment to queue too, sends all
// that wait as one batch, hands out the answers, and passes the lane to the first who waits. Otherwise it
// sleeps until its answer is there or it is made leader. Nothing waits at low load, and batches grow with it.
//
// A lane has one batch in flight. How many lanes are used follows from measurement: while more lanes give
// more operations a second, more are taken; while fewer give as many, fewer. So a local cluster of fast
// tokens gets large batches on one lane, and slow appliances get all partitions working. Thread-safe.
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/mutex.h"
#include "hsm/v1/crypto.pb.h"

namespace hsm {

// Decides how many lanes to use. Pure: fed with what happened, no clock.
class LaneTuner {
 public:
  explicit LaneTuner(uint32_t lanes_max) : max_(lanes_max) {}
  uint32_t lanes() const { return lanes_; }
  // After each batch: operations in it, and whether callers were still waiting when it ended.
  void OnBatch(uint64_t operations, bool callers_wait, absl::Duration now);

 private:
  void EndWindow(double rate, absl::Duration now);
  void Try(uint32_t lanes, double base_rate);

  const uint32_t max_;
  uint32_t lanes_ = 1;
  uint32_t settled_ = 1;  // what we go back to when a trial fails
  bool trying_ = false;
  bool try_fewer_next_ = false;
  double base_rate_ = 0;  // operations a second before the trial
  absl::Duration pause_;  // after a failed trial
  absl::Duration next_trial_;
  absl::Duration window_start_;
  bool window_open_ = false;
  uint64_t operations_ = 0, batches_ = 0, waiting_ = 0;
};

class Combiner {
 public:
  // Sends one batch and fills in its answers (as many, same order); OK or why the whole batch failed. Called
  // from several threads, at most lanes_max at once.
  using Send = std::function<absl::Status(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result,
                                          absl::Duration timeout)>;
  Combiner(Send send, Clock& clock, uint32_t lanes_max)
      : send_(std::move(send)), clock_(clock), tuner_(lanes_max) {}
  Combiner(const Combiner&) = delete;

  // BUSY when limits::kCombinerQueueMax callers wait; DEADLINE_EXCEEDED if `timeout` passed before it was
  // sent. Otherwise the batch's failure, or the operation's own result (whose reason the caller looks at).
  absl::StatusOr<v1::CryptoResult> Run(v1::CryptoOp op, absl::Duration timeout);

  size_t QueuedForTest() const { return queued_.load(); }

 private:
  enum State : int { kWaiting, kLeads, kDone };
  struct Waiter {
    Waiter(v1::CryptoOp o, const Clock& clock, absl::Duration timeout)
        : op(std::move(o)), deadline(clock, timeout) {}
    v1::CryptoOp op;
    Deadline deadline;
    size_t bytes = 0;
    absl::Status status;
    v1::CryptoResult result;
    bool leads = false;  // holds a lane; written under the mutex before `state` is
    std::atomic<int> state{kWaiting};
  };
  void Lead(Waiter& self);
  void LetOthersQueue();
  std::vector<Waiter*> TakeBatch();
  void Exchange(const std::vector<Waiter*>& batch, Waiter& self);
  static void Finish(Waiter& waiter, Waiter& self);
  void PassLaneOn();

  const Send send_;
  Clock& clock_;
  Mutex mutex_;
  std::deque<Waiter*> queue_ HSM_GUARDED_BY(mutex_);
  uint32_t lanes_used_ HSM_GUARDED_BY(mutex_) = 0;
  uint32_t in_flight_ HSM_GUARDED_BY(mutex_) = 0;
  uint64_t next_id_ HSM_GUARDED_BY(mutex_) = 1;
  LaneTuner tuner_ HSM_GUARDED_BY(mutex_);
  std::atomic<size_t> queued_{0};
  std::atomic<size_t> crowd_{0};  // operations sent and waiting when the last batch ended
  // Batches left that give no turn away (below zero when lanes race: none), and how many it was last time.
  std::atomic<int32_t> no_yield_{0}, no_yield_pause_{0};
};

}  // namespace hsm
