#pragma once
// Witnessed time, and the purge of what has been deleted for as long as the retention says. A key is due when
// its date has come by witnessed time and by most wall clocks: a clock that jumps makes it later, never
// earlier. DESIGN section 8. Start from one thread, before Tick; Tick from one thread.
#include <atomic>
#include <optional>

#include "common/witnessed_time.h"
#include "coordinator/core.h"
#include "coordinator/keys.h"

namespace hsm {

class Retention {
 public:
  // `now` is what Core::witnessed refers to.
  Retention(Core& core, Keys& keys, std::atomic<int64_t>& now) : core_(core), keys_(keys), now_(now) {}

  absl::Status Load();
  // Counts the time that has passed, keeps it in the store, and purges what is due.
  absl::Status Tick();
  // Time has passed here that the partitions have not told of yet: look again soon.
  bool Waits() const;

 private:
  absl::Status Keep(const WitnessedTime::Uptimes& uptimes);
  absl::Status PurgeDue(int64_t wall);

  Core& core_;
  Keys& keys_;
  std::atomic<int64_t>& now_;
  std::optional<rpc::StoredTime> stored_;  // until W partitions have been heard
  std::optional<WitnessedTime> time_;
};

}  // namespace hsm
