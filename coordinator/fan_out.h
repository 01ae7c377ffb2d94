#pragma once
// Calls several partitions at once from a fixed number of threads: a few lanes per partition, so that a
// partition that hangs holds up only its own lanes. Thread-safe.
#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread.h"

namespace hsm {

class FanOut {
 public:
  FanOut(size_t partitions, uint32_t lanes_per_partition, Clock& clock);
  ~FanOut();  // runs what is queued, then joins
  FanOut(const FanOut&) = delete;

  // Queues `work` for partition `index`; false if its queue is full (then it never runs).
  bool Post(size_t index, std::function<void()> work);

  // Runs `call(i, targets[i])` for each place i in parallel and waits until all have answered, or until
  // `enough(answers)` holds and `grace` more has passed, or until `timeout`. A partition may be there several
  // times. Answers not in yet are absent: their calls go on and their results are dropped. `call` must own
  // what it uses. Never called from a lane's own thread: lanes that wait for lanes could wait for ever.
  template <typename Answer>
  std::vector<std::optional<Answer>> GatherPlaces(
      const std::vector<size_t>& targets, std::function<Answer(size_t place, size_t index)> call,
      std::function<bool(const std::vector<std::optional<Answer>>&)> enough, absl::Duration grace,
      absl::Duration timeout);
  template <typename Answer>
  std::vector<std::optional<Answer>> Gather(
      const std::vector<size_t>& targets, std::function<Answer(size_t)> call,
      std::function<bool(const std::vector<std::optional<Answer>>&)> enough, absl::Duration grace,
      absl::Duration timeout) {
    return GatherPlaces<Answer>(
        targets, [call = std::move(call)](size_t, size_t index) { return call(index); }, std::move(enough),
        grace, timeout);
  }
  // The same, where the answers come by other ways: `start(i, targets[i], done)` must not block, and `done`
  // is called once, from any thread, with nothing if there will be no answer.
  template <typename Answer>
  using Done = std::function<void(std::optional<Answer>)>;
  template <typename Answer>
  std::vector<std::optional<Answer>> Collect(
      const std::vector<size_t>& targets,
      const std::function<void(size_t place, size_t index, Done<Answer> done)>& start,
      std::function<bool(const std::vector<std::optional<Answer>>&)> enough, absl::Duration grace,
      absl::Duration timeout);
  // The same, waiting for all.
  template <typename Answer>
  std::vector<std::optional<Answer>> GatherAll(const std::vector<size_t>& targets,
                                               std::function<Answer(size_t)> call, absl::Duration timeout) {
    return Gather<Answer>(targets, std::move(call), nullptr, absl::ZeroDuration(), timeout);
  }

 private:
  static constexpr size_t kQueueMax = 256;
  struct Lane {
    Mutex mutex;
    bool stopping HSM_GUARDED_BY(mutex) = false;
    std::deque<std::function<void()>> queue HSM_GUARDED_BY(mutex);
    std::vector<CondVar*> idle HSM_GUARDED_BY(mutex);  // one per waiting thread: a call wakes one, not all
    std::vector<Thread> threads;
  };
  static void Run(Lane& lane);

  Clock& clock_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

template <typename Answer>
std::vector<std::optional<Answer>> FanOut::GatherPlaces(
    const std::vector<size_t>& targets, std::function<Answer(size_t place, size_t index)> call,
    std::function<bool(const std::vector<std::optional<Answer>>&)> enough, absl::Duration grace,
    absl::Duration timeout) {
  auto shared_call = std::make_shared<std::function<Answer(size_t, size_t)>>(std::move(call));
  auto start = [this, &shared_call](size_t place, size_t index, Done<Answer> done) {
    auto work = [shared_call, place, index, done] { done((*shared_call)(place, index)); };
    if (!Post(index, std::move(work))) done(std::nullopt);
  };
  return Collect<Answer>(targets, start, std::move(enough), grace, timeout);
}

template <typename Answer>
std::vector<std::optional<Answer>> FanOut::Collect(
    const std::vector<size_t>& targets,
    const std::function<void(size_t place, size_t index, Done<Answer> done)>& start,
    std::function<bool(const std::vector<std::optional<Answer>>&)> enough, absl::Duration grace,
    absl::Duration timeout) {
  struct Shared {
    Mutex mutex;
    CondVar changed;
    std::vector<std::optional<Answer>> answers HSM_GUARDED_BY(mutex);
    size_t open HSM_GUARDED_BY(mutex) = 0;
    bool closed HSM_GUARDED_BY(mutex) = false;
  };
  auto shared = std::make_shared<Shared>();
  {
    MutexLock lock(shared->mutex);
    shared->answers.resize(targets.size());
    shared->open = targets.size();
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    start(i, targets[i], [shared, i](std::optional<Answer> answer) {
      MutexLock lock(shared->mutex);
      if (!shared->closed && answer.has_value()) shared->answers[i].emplace(*std::move(answer));
      --shared->open;
      shared->changed.NotifyAll();
    });
  }
  MutexLock lock(shared->mutex);
  Deadline deadline(clock_, timeout);
  auto all = [&]() HSM_NO_ANALYSIS { return shared->open == 0; };
  if (enough != nullptr) {
    clock_.Await(
        shared->mutex, shared->changed, [&]() HSM_NO_ANALYSIS { return all() || enough(shared->answers); },
        deadline.Left());
    clock_.Await(shared->mutex, shared->changed, all, std::min(grace, deadline.Left()));
  } else {
    clock_.Await(shared->mutex, shared->changed, all, deadline.Left());
  }
  shared->closed = true;
  return std::move(shared->answers);
}

}  // namespace hsm
