#pragma once
// Whether a history of overlapping operations can be explained by doing them one at a time, each at some
// point between its call and its return: the search of Wing and Gong with the memo of Lowe. An operation
// whose outcome is not known stays open to the end: it may have happened at any time after its call, or
// never.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace hsm::testing {

inline constexpr int64_t kNeverReturned = std::numeric_limits<int64_t>::max();

// Model has: State (with `std::string Key() const`, equal exactly for equal states), Op (with int64_t
// `called`, `returned`; kNeverReturned = outcome unknown), and
//   static bool Step(State& state, const Op& op): applies `op` and says whether what it answered fits
//   `state`.
template <typename Model>
class LinearizabilitySearch {
 public:
  using Op = typename Model::Op;
  using State = typename Model::State;

  explicit LinearizabilitySearch(std::vector<Op> history) : ops_(std::move(history)), done_(ops_.size()) {
    std::stable_sort(ops_.begin(), ops_.end(), [](const Op& a, const Op& b) { return a.called < b.called; });
    for (const Op& op : ops_) definite_left_ += op.returned != kNeverReturned;
  }

  bool Run(State initial = State()) { return Search(std::move(initial), 0); }
  uint64_t states_seen() const { return memo_.size(); }

 private:
  // `first` is the first operation that is not done. Depth is bounded by the length of the history.
  bool Search(State state, size_t first) {
    if (definite_left_ == 0) return true;
    while (first < ops_.size() && done_[first]) ++first;
    if (!memo_.insert(MemoKey(state, first)).second) return false;
    // Whatever is done next must have been called before everything not done has returned.
    int64_t earliest_return = kNeverReturned;
    for (size_t i = first; i < ops_.size() && ops_[i].called <= earliest_return; ++i) {
      if (!done_[i]) earliest_return = std::min(earliest_return, ops_[i].returned);
    }
    for (size_t i = first; i < ops_.size() && ops_[i].called <= earliest_return; ++i) {
      if (done_[i]) continue;
      State next = state;
      if (!Model::Step(next, ops_[i])) continue;
      bool definite = ops_[i].returned != kNeverReturned;
      done_[i] = true;
      definite_left_ -= definite;
      if (Search(std::move(next), first)) return true;
      definite_left_ += definite;
      done_[i] = false;
    }
    return false;
  }

  std::string MemoKey(const State& state, size_t first) const {
    std::string key = std::to_string(first) + ':';
    size_t last = done_.size();
    while (last > first && !done_[last - 1]) --last;
    for (size_t i = first; i < last; ++i) key.push_back(done_[i] ? '1' : '0');
    return key + ':' + state.Key();
  }

  std::vector<Op> ops_;
  std::vector<bool> done_;
  size_t definite_left_ = 0;
  std::unordered_set<std::string> memo_;
};

template <typename Model>
bool IsLinearizable(std::span<const typename Model::Op> history) {
  return LinearizabilitySearch<Model>(std::vector<typename Model::Op>(history.begin(), history.end())).Run();
}

// The smallest history found by dropping operations that is still not linearizable; for the report of a
// failure.
template <typename Model>
std::vector<typename Model::Op> Minimise(std::vector<typename Model::Op> history) {
  for (size_t i = history.size(); i-- > 0;) {
    std::vector<typename Model::Op> shorter = history;
    shorter.erase(shorter.begin() + static_cast<std::ptrdiff_t>(i));
    if (!IsLinearizable<Model>(shorter)) history = std::move(shorter);
  }
  return history;
}

}  // namespace hsm::testing
