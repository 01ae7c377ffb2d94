#include "common/witnessed_time.h"

#include <algorithm>
#include <vector>

#include "common/median.h"

namespace hsm {
WitnessedTime::WitnessedTime(int64_t seconds, absl::Duration own)
    : witnessed_(absl::FromUnixSeconds(seconds)), own_(own) {}

void WitnessedTime::Resume(const Uptimes& then, const Uptimes& now) {
  std::vector<absl::Duration> passed;
  for (const auto& [name, uptime] : now) {
    others_[name] = uptime;
    auto before = then.find(name);
    if (before == then.end()) continue;
    passed.push_back(uptime >= before->second ? uptime - before->second : uptime);
  }
  if (!passed.empty()) witnessed_ += LowerMedian(passed);
}

int64_t WitnessedTime::Advance(absl::Duration own, const Uptimes& others) {
  if (own < own_) own_ = own;
  absl::Duration passed = own - own_;
  std::vector<absl::Duration> theirs;
  for (const auto& [name, uptime] : others) {
    auto known = others_.find(name);
    if (known == others_.end()) continue;
    // Behind what was counted by more than the others are fast: it has restarted.
    if (uptime < known->second - absl::Minutes(10)) known->second = uptime;
    theirs.push_back(uptime - known->second);
  }
  if (!theirs.empty()) passed = std::clamp(LowerMedian(theirs), absl::ZeroDuration(), passed);
  witnessed_ += passed;
  own_ += passed;
  for (auto& [name, counted] : others_) counted += passed;
  others_.insert(others.begin(), others.end());  // those that are new count from now on
  return seconds();
}

}  // namespace hsm
