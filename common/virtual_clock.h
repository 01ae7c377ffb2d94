#pragma once
// A clock that can be pushed, so that what takes 90 days can be tried in a minute: for development clusters
// (`qhsm dev up --clock virtual`) and tests. Thread-safe.
#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"

namespace hsm {

// How far a virtual clock is ahead. As a file: one line, "{passed seconds} {jumped seconds}".
struct ClockShift {
  absl::Duration passed;  // time that all clocks have lived through
  absl::Duration jumped;  // by which wall clocks were set, forward or back
};
absl::StatusOr<ClockShift> ReadClockShift(const std::string& path);  // CONFIG_INVALID
absl::Status WriteClockShift(const std::string& path, const ClockShift& shift);

class VirtualClock final : public Clock {
 public:
  explicit VirtualClock(Clock& base) : base_(base) {}
  // Looks at the file ten times a second. CONFIG_INVALID if it is none; later the last good one counts.
  static absl::StatusOr<std::unique_ptr<VirtualClock>> Follow(Clock& base, std::string path);

  absl::Time Now() const override;
  absl::Duration Uptime() const override;
  bool Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
             absl::Duration timeout) override HSM_REQUIRES(mutex);

  void Pass(absl::Duration time) { passed_ns_ += absl::ToInt64Nanoseconds(time); }
  void Jump(absl::Duration by) { jumped_ns_ += absl::ToInt64Nanoseconds(by); }

 private:
  void Look() const;

  Clock& base_;
  std::string path_;
  mutable std::atomic<int64_t> passed_ns_{0}, jumped_ns_{0}, look_at_ns_{0};
};

// What a process goes by: the system's clock, or with a clock file a virtual one that lives as long as the
// process. Call it before the first thread starts.
absl::StatusOr<Clock*> ProcessClock(const std::string& clock_file);

}  // namespace hsm
