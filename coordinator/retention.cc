#include "coordinator/retention.h"

#include <vector>

#include "common/error.h"
#include "common/log.h"
#include "common/median.h"
#include "common/mutant.h"

namespace hsm {
namespace {

constexpr size_t kPurgePage = 64;
constexpr absl::Duration kBehindMax = absl::Seconds(10);  // heartbeats are younger than that when all is well

}  // namespace

absl::Status Retention::Load() {
  HSM_ASSIGN_OR_RETURN(auto row, core_.catalogue.Read<rpc::StoredTime>(store_key::Time()));
  if (row.has_value()) {
    stored_ = row->value;
  } else {
    time_.emplace(absl::ToUnixSeconds(core_.clock.Now()), core_.clock.Uptime());
  }
  now_ = row.has_value() ? row->value.witnessed() : time_->seconds();
  return absl::OkStatus();
}

absl::Status Retention::Tick() {
  WitnessedTime::Uptimes uptimes;
  std::vector<int64_t> walls;
  for (const PartitionView& view : core_.cluster.Views()) {
    if (view.state == v1::PARTITION_STATE_DOWN || view.heartbeat.uptime_seconds() == 0) continue;
    uptimes[view.name] = absl::Seconds(view.heartbeat.uptime_seconds());
    walls.push_back(view.heartbeat.wall_seconds());
  }
  if (uptimes.size() < core_.cluster.quorum()) return absl::OkStatus();  // later, never earlier
  if (!time_.has_value()) {
    WitnessedTime::Uptimes then;
    for (const auto& [name, seconds] : stored_->uptimes()) then[name] = absl::Seconds(seconds);
    time_.emplace(stored_->witnessed(), core_.clock.Uptime());
    time_->Resume(then, uptimes);
  }
  now_ = time_->Advance(core_.clock.Uptime(), uptimes);
  HSM_RETURN_IF_ERROR(Keep(uptimes));
  walls.push_back(absl::ToUnixSeconds(core_.clock.Now()));
  return PurgeDue(LowerMedian(std::move(walls)));
}

bool Retention::Waits() const {
  return time_.has_value() && time_->Unconfirmed(core_.clock.Uptime()) > kBehindMax;
}

absl::Status Retention::Keep(const WitnessedTime::Uptimes& uptimes) {
  rpc::StoredTime row;
  row.set_witnessed(now_);
  for (const auto& [name, uptime] : uptimes) (*row.mutable_uptimes())[name] = absl::ToInt64Seconds(uptime);
  Change change;
  change.ops = {StoreOp::Put(store_key::Time(), row.SerializeAsString())};
  return core_.committer.Commit(std::move(change)).status;
}

absl::Status Retention::PurgeDue(int64_t wall) {
  std::string after;
  while (true) {
    const std::vector<KeyEntryPtr> page = core_.table.Deleted(after, kPurgePage);
    for (const KeyEntryPtr& entry : page) {
      after = entry->head.name;
      const int64_t date = entry->head.scheduled_purge.value_or(INT64_MAX);
      if ((date > now_ && !HSM_MUTANT("purge-by-wall-clock")) || date > wall) continue;
      HSM_RETURN_IF_ERROR(keys_.PurgeExpired(after));
      LogInfo("a deleted key was purged at the end of its retention", {{"key", after}});
    }
    if (page.size() < kPurgePage) return absl::OkStatus();
  }
}

}  // namespace hsm
