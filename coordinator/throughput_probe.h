#pragma once
// A short load of the job's own, for when no caller makes any: one partition after the other, picked as the
// router picks, proves a P-256 key (a signature the node builds the message of, so it is no oracle). It runs
// at most a twentieth of the time. The rate is that of the time it runs: calls per second of one caller who
// asks again at once. Thread-safe.
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "coordinator/core.h"

namespace hsm {

struct ProbeSubject {
  KeyUid uid;
  KeyVersion version;
};
// A P-256 key of the serving data set, or some other key if there is none; nothing without keys.
absl::StatusOr<std::optional<ProbeSubject>> ChooseProbeSubject(Core& core, CatalogueSnapshot& snapshot);

class ThroughputProbe {
 public:
  ThroughputProbe(Core& core, ProbeSubject subject);
  ~ThroughputProbe();  // stops

  struct Count {
    uint64_t calls = 0;
    absl::Duration running;  // time within calls
    double calls_per_second() const {
      return running > absl::ZeroDuration() ? static_cast<double>(calls) / absl::ToDoubleSeconds(running) : 0;
    }
  };
  Count Read() const;

 private:
  void Run();
  int Choose();

  Core& core_;
  const ProbeSubject subject_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  Count count_ HSM_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace hsm
