#include "client/combiner.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "common/futex.h"

namespace hsm {
namespace {

constexpr absl::Duration kWindow = absl::Milliseconds(60);
constexpr uint64_t kWindowBatches = 8;  // fewer say nothing about a rate
constexpr double kWorthMore = 1.12;     // more lanes must bring this much
constexpr double kWorthFewer = 0.97;    // fewer lanes may cost this much
constexpr absl::Duration kPauseFirst = absl::Seconds(1);
constexpr absl::Duration kPauseMax = absl::Seconds(16);
constexpr absl::Duration kYieldLong =
    absl::Milliseconds(1);                                 // somebody else's time slice, not a caller's turn
constexpr int32_t kNoYieldFirst = 16, kNoYieldMax = 1024;  // batches that wait for nobody after that

}  // namespace

void LaneTuner::OnBatch(uint64_t operations, bool callers_wait, absl::Duration now) {
  if (!window_open_) {
    window_open_ = true;
    window_start_ = now;
    operations_ = batches_ = waiting_ = 0;
    return;  // this batch began before the window
  }
  operations_ += operations;
  ++batches_;
  if (callers_wait) ++waiting_;
  if (now - window_start_ < kWindow || batches_ < kWindowBatches) return;
  window_open_ = false;
  EndWindow(static_cast<double>(operations_) / absl::ToDoubleSeconds(now - window_start_), now);
}

void LaneTuner::EndWindow(double rate, absl::Duration now) {
  bool saturated = waiting_ * 2 > batches_;
  if (trying_) {
    trying_ = false;
    bool more = lanes_ > settled_;
    if (more ? rate >= base_rate_ * kWorthMore : rate >= base_rate_ * kWorthFewer) {
      settled_ = lanes_;
      pause_ = absl::ZeroDuration();
      try_fewer_next_ = !more;  // what helped once may help again
    } else {
      lanes_ = settled_;
      pause_ = std::clamp(pause_ * 2, kPauseFirst, kPauseMax);
      next_trial_ = now + pause_;
      try_fewer_next_ = more;
    }
    return;
  }
  if (now < next_trial_) return;
  bool can_more = saturated && lanes_ < max_;
  bool can_fewer = lanes_ > 1;
  if (can_more && !(try_fewer_next_ && can_fewer)) return Try(std::min(max_, lanes_ * 2), rate);
  if (can_fewer) return Try(lanes_ / 2, rate);
}

void LaneTuner::Try(uint32_t lanes, double base_rate) {
  trying_ = true;
  base_rate_ = base_rate;
  lanes_ = lanes;
}

absl::StatusOr<v1::CryptoResult> Combiner::Run(v1::CryptoOp op, absl::Duration timeout) {
  Waiter self(std::move(op), clock_, timeout);
  self.bytes = self.op.ByteSizeLong();
  bool leads;
  {
    MutexLock lock(mutex_);
    if (queue_.size() >= limits::kCombinerQueueMax)
      return BusyError(20, "too many operations wait in this process");
    self.op.set_id(next_id_++);
    queue_.push_back(&self);
    queued_.store(queue_.size(), std::memory_order_relaxed);
    if (lanes_used_ < tuner_.lanes()) {
      ++lanes_used_;
      self.leads = true;
    }
    leads = self.leads;
  }
  if (!leads) {
    while (self.state.load(std::memory_order_acquire) == kWaiting) FutexWait(self.state, kWaiting);
    leads = self.leads;  // also when another lane answered it before it woke: it holds a lane, and must pass
                         // it on
  }
  if (leads) Lead(self);
  for (int state = self.state.load(std::memory_order_acquire); state != kDone;
       state = self.state.load(std::memory_order_acquire)) {
    FutexWait(self.state, state);
  }
  if (!self.status.ok()) return self.status;
  return std::move(self.result);
}

// Holds a lane until the own operation is answered, then passes it on.
void Combiner::Lead(Waiter& self) {
  while (self.state.load(std::memory_order_acquire) != kDone) {
    LetOthersQueue();
    std::vector<Waiter*> batch = TakeBatch();
    if (batch.empty()) break;  // another lane took the own operation along
    Exchange(batch, self);
  }
  PassLaneOn();
}

// Other callers of the same processor are often about to queue (they were woken by the batch before); one or
// two turns for them make batches of 8 out of batches of 1. A caller who was alone last time waits for
// nobody. Nor does anyone while something else keeps the processor: who gives up a turn then gets the next
// one milliseconds later.
void Combiner::LetOthersQueue() {
  size_t before = queued_.load(std::memory_order_relaxed);
  if (before <= 1 && crowd_.load(std::memory_order_relaxed) <= 1) return;
  if (no_yield_.load(std::memory_order_relaxed) > 0) {
    no_yield_.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  const absl::Duration began = clock_.Uptime();
  for (int turn = 0; turn < 2; ++turn) {
    sched_yield();
    size_t now = queued_.load(std::memory_order_relaxed);
    if (now == before) break;
    before = now;
  }
  const bool slow = clock_.Uptime() - began > kYieldLong;
  int32_t pause = no_yield_pause_.load(std::memory_order_relaxed);
  pause = slow ? std::clamp(pause * 2, kNoYieldFirst, kNoYieldMax) : pause / 2;
  no_yield_pause_.store(pause, std::memory_order_relaxed);
  if (slow) no_yield_.store(pause, std::memory_order_relaxed);
}

// With several lanes each takes its share, so that the others have something to do.
std::vector<Combiner::Waiter*> Combiner::TakeBatch() {
  MutexLock lock(mutex_);
  size_t lanes = std::max<size_t>(tuner_.lanes(), 1);
  size_t share = (queue_.size() + in_flight_ + lanes - 1) / lanes;
  size_t count = std::min({queue_.size(), std::max<size_t>(share, 1), limits::kBatchOpsMax});
  std::vector<Waiter*> batch;
  batch.reserve(count);
  size_t bytes = 0;
  while (batch.size() < count) {
    Waiter* next = queue_.front();
    if (!batch.empty() && bytes + next->bytes > limits::kBatchBytesMax) break;
    bytes += next->bytes;
    batch.push_back(next);
    queue_.pop_front();
  }
  in_flight_ += static_cast<uint32_t>(batch.size());
  queued_.store(queue_.size(), std::memory_order_relaxed);
  return batch;
}

void Combiner::Exchange(const std::vector<Waiter*>& batch, Waiter& self) {
  v1::CryptoBatch request;
  request.mutable_ops()->Reserve(static_cast<int>(batch.size()));
  std::vector<Waiter*> sent;
  sent.reserve(batch.size());
  absl::Duration longest = absl::ZeroDuration();
  for (Waiter* waiter : batch) {
    absl::Duration left = waiter->deadline.Left();
    if (left <= absl::ZeroDuration()) {
      waiter->status = Error(v1::REASON_DEADLINE_EXCEEDED, "the operation waited too long to be sent");
      continue;
    }
    longest = std::max(longest, left);
    waiter->op.set_timeout_ms(static_cast<uint32_t>(std::max<int64_t>(1, absl::ToInt64Milliseconds(left))));
    request.add_ops()->Swap(&waiter->op);
    sent.push_back(waiter);
  }
  v1::CryptoBatchResult answer;
  if (!sent.empty()) {
    absl::Status status = send_(request, answer, longest);
    bool complete = status.ok() && answer.results_size() == static_cast<int>(sent.size());
    if (status.ok() && !complete) status = Error(v1::REASON_UNREACHABLE, "an answer of another size");
    for (size_t i = 0; i < sent.size(); ++i) {
      if (complete) {
        sent[i]->result.Swap(answer.mutable_results(static_cast<int>(i)));
      } else {
        sent[i]->status = status;
      }
    }
  }
  {
    MutexLock lock(mutex_);
    in_flight_ -= static_cast<uint32_t>(batch.size());
    crowd_.store(queue_.size() + sent.size(), std::memory_order_relaxed);
    // One lane that carries everybody leaves nobody waiting, and still more lanes may help.
    tuner_.OnBatch(sent.size(), !queue_.empty() || sent.size() > 1, clock_.Uptime());
  }
  for (Waiter* waiter : batch) Finish(*waiter, self);
}

// After the store the waiter, and its stack, may be gone at any moment.
void Combiner::Finish(Waiter& waiter, Waiter& self) {
  std::atomic<int>& state = waiter.state;
  bool own = &waiter == &self;
  state.store(kDone, std::memory_order_release);
  if (!own) FutexWakeOne(state);
}

// The lane goes to those who wait, or is free. More than one may start when the tuner allowed more lanes
// meanwhile.
void Combiner::PassLaneOn() {
  std::vector<Waiter*> leaders;
  {
    MutexLock lock(mutex_);
    --lanes_used_;
    for (Waiter* waiter : queue_) {
      if (lanes_used_ >= tuner_.lanes()) break;
      if (waiter->leads) continue;
      waiter->leads = true;
      waiter->state.store(kLeads, std::memory_order_release);
      ++lanes_used_;
      leaders.push_back(waiter);
    }
  }
  for (Waiter* waiter : leaders) FutexWakeOne(waiter->state);
}

}  // namespace hsm
