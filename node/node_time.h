#pragma once
// This node's own witnessed time (common/witnessed_time.h), kept durably, so that no coordinator can hurry
// the purge of a key that is protected from it. Thread-safe.
#include <cstdint>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/witnessed_time.h"
#include "node/blob_store.h"

namespace hsm {

// Seconds by which this node's time and a coordinator's may differ.
inline constexpr int64_t kNodeTimeSlack = 3'600;

class NodeTime {
 public:
  // Goes on where an earlier process of this node left off: with its own uptime since then, or since this
  // machine started if that was later. A node that has kept no time yet begins with its wall clock.
  NodeTime(BlobStore& blobs, Clock& clock);

  int64_t Seconds();           // since 1970 UTC
  absl::Status KeepDurably();  // at most once a minute of uptime; cheap otherwise

 private:
  BlobStore& blobs_;
  Clock& clock_;
  Mutex mutex_;
  WitnessedTime time_ HSM_GUARDED_BY(mutex_);
  absl::Duration kept_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
