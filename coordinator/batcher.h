#pragma once
// Joins what many callers want from the same partition into calls that carry several items: what arrives
// while calls are under way goes along in the next one. Nothing waits when nothing is under way. Thread-safe.
#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "coordinator/fan_out.h"

namespace hsm {

template <typename Item, typename Answer>
class Batcher {
 public:
  using Done = std::function<void(std::optional<Answer>)>;
  // Sends `items` (never empty, all of one `group`) to a partition; an answer for each, in order. Runs on a
  // lane of `fan_out` and must own what it uses: it may outlive this object.
  using Call = std::function<std::vector<Answer>(size_t partition, const std::vector<Item>& items)>;
  // Whether two items may share a call.
  using Together = std::function<bool(const Item&, const Item&)>;

  Batcher(FanOut& fan_out, size_t partitions, size_t items_max, Together together, Call call)
      : fan_out_(fan_out), shared_(std::make_shared<Shared>()) {
    shared_->items_max = items_max;
    shared_->together = std::move(together);
    shared_->call = std::move(call);
    for (size_t i = 0; i < partitions; ++i) shared_->lines.push_back(std::make_unique<Line>());
  }

  // `done` is called once, on a lane or here: with nothing if the item could not be queued.
  void Add(size_t partition, Item item, Done done) {
    Line& line = *shared_->lines[partition];
    bool full;
    {
      MutexLock lock(line.mutex);
      full = line.waiting.size() >= kWaitingMax;
      if (!full) {
        line.waiting.push_back({std::move(item), std::move(done)});
        if (line.calls >= kCallsMax) return;
        ++line.calls;
      }
    }
    if (full) {
      done(std::nullopt);
      return;
    }
    if (fan_out_.Post(partition, [shared = shared_, partition] { Serve(*shared, partition); })) return;
    std::deque<Waiting> refused;
    {
      MutexLock lock(line.mutex);
      if (--line.calls == 0) refused.swap(line.waiting);
    }
    for (Waiting& each : refused) each.done(std::nullopt);
  }

 private:
  // Two, so that a partition has the next batch at hand while the answers to the last one travel.
  static constexpr uint32_t kCallsMax = 2;
  static constexpr size_t kWaitingMax = 1024;  // per partition
  struct Waiting {
    Item item;
    Done done;
  };
  struct Line {
    Mutex mutex;
    std::deque<Waiting> waiting HSM_GUARDED_BY(mutex);
    uint32_t calls HSM_GUARDED_BY(mutex) = 0;
  };
  struct Shared {
    size_t items_max = 1;
    Together together;
    Call call;
    std::vector<std::unique_ptr<Line>> lines;
  };

  // Empty when nothing waits any more; then this call has ended.
  static std::vector<Waiting> Take(const Shared& shared, Line& line) {
    MutexLock lock(line.mutex);
    std::vector<Waiting> taken;
    while (!line.waiting.empty() && taken.size() < shared.items_max &&
           (taken.empty() || shared.together(taken.front().item, line.waiting.front().item))) {
      taken.push_back(std::move(line.waiting.front()));
      line.waiting.pop_front();
    }
    if (taken.empty()) --line.calls;
    return taken;
  }

  static void Serve(const Shared& shared, size_t partition) {
    while (true) {
      std::vector<Waiting> taken = Take(shared, *shared.lines[partition]);
      if (taken.empty()) return;
      std::vector<Item> items;
      for (Waiting& each : taken) items.push_back(std::move(each.item));
      std::vector<Answer> answers = shared.call(partition, items);
      for (size_t i = 0; i < taken.size(); ++i) taken[i].done(std::move(answers[i]));
    }
  }

  FanOut& fan_out_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace hsm
