#include "store/change_feed.h"

#include <algorithm>
#include <utility>

namespace hsm {

ChangeFeed::ChangeFeed(ChangeSource& source, Clock& clock, std::string prefix, StoreRevision from)
    : source_(source), clock_(clock), prefix_(std::move(prefix)), cursor_(from) {}

bool ChangeFeed::Fill() {
  absl::StatusOr<StoreChanges> changes = source_.ChangesAfter(cursor_);
  if (!changes.ok()) return false;  // a hint that does not come; callers scan from time to time anyway
  if (changes->floor > cursor_ || changes->latest < cursor_) {
    cursor_ = changes->latest;
    ready_.push_back({cursor_, {}, true});
    return true;
  }
  bool moved = false;
  for (StoreChange& change : changes->changes) {
    cursor_ = change.revision;
    moved = true;
    Event event{change.revision, {}, false};
    for (std::string& key : change.keys) {
      if (key.starts_with(prefix_)) event.keys.push_back(std::move(key));
    }
    std::sort(event.keys.begin(), event.keys.end());
    if (!event.keys.empty()) ready_.push_back(std::move(event));
  }
  return moved;
}

std::optional<StoreFeed::Event> ChangeFeed::Next(absl::Duration timeout) {
  Deadline deadline(clock_, timeout);
  while (ready_.empty()) {
    if (Fill()) continue;
    if (deadline.Passed() || !source_.AwaitChange(cursor_, deadline.Left())) {
      if (!Fill()) return std::nullopt;
    }
  }
  Event event = std::move(ready_.front());
  ready_.pop_front();
  return event;
}

}  // namespace hsm
