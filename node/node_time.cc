#include "node/node_time.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr absl::Duration kKeepEvery = absl::Minutes(1);
constexpr char kState[] = "witnessed";  // "{witnessed seconds} {uptime seconds}"

WitnessedTime Resume(const std::string& kept, const Clock& clock) {
  const absl::Duration uptime = clock.Uptime();
  std::pair<std::string, std::string> parts = absl::StrSplit(kept, absl::MaxSplits(' ', 1));
  int64_t witnessed = 0, at = 0;
  if (!absl::SimpleAtoi(parts.first, &witnessed) || !absl::SimpleAtoi(parts.second, &at)) {
    return WitnessedTime(absl::ToUnixSeconds(clock.Now()), uptime);
  }
  WitnessedTime time(witnessed, uptime);
  time.Resume({{"self", absl::Seconds(at)}}, {{"self", uptime}});
  return time;
}

}  // namespace

NodeTime::NodeTime(BlobStore& blobs, Clock& clock)
    : blobs_(blobs), clock_(clock), time_(Resume(blobs.State(kState), clock)), kept_(-kKeepEvery) {}

int64_t NodeTime::Seconds() {
  MutexLock lock(mutex_);
  return time_.Advance(clock_.Uptime(), {});
}

absl::Status NodeTime::KeepDurably() {
  const absl::Duration now = clock_.Uptime();
  BlobBatch batch;
  {
    MutexLock lock(mutex_);
    if (now - kept_ < kKeepEvery) return absl::OkStatus();
    kept_ = now;
    batch.SetState(kState,
                   std::to_string(time_.Advance(now, {})) + " " + std::to_string(absl::ToInt64Seconds(now)));
  }
  return blobs_.Commit(batch);
}

}  // namespace hsm
