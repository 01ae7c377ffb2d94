#include "node/core.h"

#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {

absl::Status NodeCore::CheckReady() const {
  if (ready.load()) return absl::OkStatus();
  return Error(v1::REASON_NOT_ACTIVE, "the partition has no domain in use");
}

absl::Status NodeCore::CheckFence(const internal::v1::Fence& fence_of_call) {
  HSM_RETURN_IF_ERROR(CheckReady());
  return fence.Check(fence_of_call);
}

absl::StatusOr<std::shared_ptr<KeyIndex>> NodeCore::IndexFor(DataSet data_set, bool loading) {
  DataSet serving = fence.data_set();
  MutexLock lock(mutex_);
  auto found = indexes_.find(data_set);
  if (found != indexes_.end() && (loading || data_set == serving)) return found->second;
  return Error(v1::REASON_FENCED, "data set " + std::to_string(data_set) + " does not serve here, but " +
                                      std::to_string(serving));
}

std::shared_ptr<KeyIndex> NodeCore::Serving() {
  DataSet serving = fence.data_set();
  MutexLock lock(mutex_);
  auto found = indexes_.find(serving);
  return found == indexes_.end() ? nullptr : found->second;
}

absl::StatusOr<std::shared_ptr<KeyIndex>> NodeCore::OpenIndex(DataSet data_set) {
  {
    MutexLock lock(mutex_);
    if (auto found = indexes_.find(data_set); found != indexes_.end()) return found->second;
  }
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, KeyIndex::Load(blobs, data_set));
  MutexLock lock(mutex_);
  return indexes_.emplace(data_set, std::move(index)).first->second;  // the first of two loaders wins
}

void NodeCore::DropIndexesBut(DataSet data_set) {
  std::map<DataSet, std::shared_ptr<KeyIndex>> dropped;
  MutexLock lock(mutex_);
  for (auto each = indexes_.begin(); each != indexes_.end();) {
    auto next = std::next(each);
    if (each->first != data_set) dropped.insert(indexes_.extract(each));
    each = next;
  }
}

absl::Status NodeCore::LoadTombstones() {
  HSM_ASSIGN_OR_RETURN(std::vector<TombstoneRow> rows, blobs.Tombstones());
  for (const TombstoneRow& row : rows) AddTombstone(row.uid, row.incarnation);
  return absl::OkStatus();
}

uint32_t NodeCore::TombstonedIncarnation(const KeyUid& uid) const {
  MutexLock lock(mutex_);
  auto found = tombstones_.find(uid);
  return found == tombstones_.end() ? 0 : found->second;
}

void NodeCore::AddTombstone(const KeyUid& uid, uint32_t incarnation) {
  MutexLock lock(mutex_);
  uint32_t& held = tombstones_[uid];
  held = std::max(held, incarnation);
}

}  // namespace hsm
