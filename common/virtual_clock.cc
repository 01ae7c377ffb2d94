#include "common/virtual_clock.h"

#include <algorithm>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(100);
constexpr size_t kFileBytesMax = 128;
constexpr int64_t kSecondsMax = int64_t{100} * 366 * 86'400;  // each way

}  // namespace

absl::StatusOr<ClockShift> ReadClockShift(const std::string& path) {
  HSM_ASSIGN_OR_RETURN(Bytes content, ReadFile(path, kFileBytesMax));
  std::vector<std::string> parts =
      absl::StrSplit(std::string(StringView(content)), absl::ByAnyChar(" \n"), absl::SkipEmpty());
  int64_t passed = 0, jumped = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &passed) || !absl::SimpleAtoi(parts[1], &jumped) ||
      passed < 0 || passed > kSecondsMax || jumped < -kSecondsMax || jumped > kSecondsMax) {
    return Error(v1::REASON_CONFIG_INVALID,
                 path + ": a clock file has the seconds that have passed and those it was set by");
  }
  return ClockShift{absl::Seconds(passed), absl::Seconds(jumped)};
}

absl::Status WriteClockShift(const std::string& path, const ClockShift& shift) {
  return WriteFileAtomic(path, ToBytes(std::to_string(absl::ToInt64Seconds(shift.passed)) + " " +
                                       std::to_string(absl::ToInt64Seconds(shift.jumped)) + "\n"));
}

absl::StatusOr<std::unique_ptr<VirtualClock>> VirtualClock::Follow(Clock& base, std::string path) {
  HSM_RETURN_IF_ERROR(ReadClockShift(path).status());
  auto clock = std::make_unique<VirtualClock>(base);
  clock->path_ = std::move(path);
  return clock;
}

absl::StatusOr<Clock*> ProcessClock(const std::string& clock_file) {
  if (clock_file.empty()) return &RealClock();
  static std::unique_ptr<VirtualClock> clock;
  HSM_ASSIGN_OR_RETURN(clock, VirtualClock::Follow(RealClock(), clock_file));
  return clock.get();
}

void VirtualClock::Look() const {
  if (path_.empty()) return;
  const int64_t now = absl::ToInt64Nanoseconds(base_.Uptime());
  int64_t due = look_at_ns_.load();
  if (now < due || !look_at_ns_.compare_exchange_strong(due, now + absl::ToInt64Nanoseconds(kLookEvery))) {
    return;
  }
  absl::StatusOr<ClockShift> shift = ReadClockShift(path_);
  if (!shift.ok()) return;  // being rewritten or gone: as it was
  passed_ns_ = std::max(passed_ns_.load(), absl::ToInt64Nanoseconds(shift->passed));  // uptime never falls
  jumped_ns_ = absl::ToInt64Nanoseconds(shift->jumped);
}

absl::Time VirtualClock::Now() const {
  Look();
  return base_.Now() + absl::Nanoseconds(passed_ns_.load() + jumped_ns_.load());
}

absl::Duration VirtualClock::Uptime() const {
  Look();
  return base_.Uptime() + absl::Nanoseconds(passed_ns_.load());
}

bool VirtualClock::Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
                         absl::Duration timeout) {
  const absl::Duration end = timeout == absl::InfiniteDuration() ? timeout : Uptime() + timeout;
  while (!ready()) {
    const absl::Duration left = end == absl::InfiniteDuration() ? end : end - Uptime();
    if (left <= absl::ZeroDuration()) return false;
    base_.Await(mutex, changed, ready, std::min(left, kLookEvery));
  }
  return true;
}

}  // namespace hsm
