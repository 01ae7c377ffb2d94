#pragma once
// StoreFeed over an engine's list of changes: reads on from a cursor, so that no queue can overflow; what the
// engine has forgotten shows up as a gap.
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "store/store.h"

namespace hsm {

struct StoreChange {
  StoreRevision revision = 0;
  std::vector<std::string> keys;
};

struct StoreChanges {
  StoreRevision floor = 0;           // changes up to here are forgotten
  StoreRevision latest = 0;          // the store's revision
  std::vector<StoreChange> changes;  // after the asked revision, ascending, perhaps not all of them
};

class ChangeSource {
 public:
  virtual ~ChangeSource() = default;
  virtual absl::StatusOr<StoreChanges> ChangesAfter(StoreRevision revision) = 0;
  // Waits until there may be changes after `revision`; false when `timeout` passed.
  virtual bool AwaitChange(StoreRevision revision, absl::Duration timeout) = 0;
};

class ChangeFeed final : public StoreFeed {
 public:
  ChangeFeed(ChangeSource& source, Clock& clock, std::string prefix, StoreRevision from);
  std::optional<Event> Next(absl::Duration timeout) override;

 private:
  bool Fill();  // false: nothing new
  ChangeSource& source_;
  Clock& clock_;
  const std::string prefix_;
  StoreRevision cursor_;  // everything up to here was looked at
  std::deque<Event> ready_;
};

}  // namespace hsm
