#include "store/store_model.h"

#include <utility>

#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "store/change_feed.h"
#include "store/term_keeper.h"

namespace hsm {
namespace {

using Records = std::map<std::string, StoreRecord>;

void SwitchPoint() {
  if (SchedulerHooks* scheduler = CurrentScheduler()) scheduler->Yield();
}

StorePage ScanRecords(const Records& records, StoreRevision revision, const std::string& prefix,
                      const std::string& after, size_t limit) {
  StorePage page;
  page.revision = revision;
  size_t bytes = 0;
  auto at = after > prefix ? records.upper_bound(after) : records.lower_bound(prefix);
  if (at != records.end() && at->first == after) ++at;
  for (; at != records.end() && at->first.starts_with(prefix); ++at) {
    if (!AppendToPage(at->second, limit, bytes, page)) break;
  }
  return page;
}

bool Holds(const StoreGuard& guard, const Records& records) {
  auto found = records.find(guard.key);
  bool exists = found != records.end();
  switch (guard.kind) {
    case StoreGuard::Kind::kAbsent:
      return !exists;
    case StoreGuard::Kind::kModRevisionIs:
      return exists && found->second.mod_revision == guard.revision;
    case StoreGuard::Kind::kCreateRevisionIs:
      return exists && found->second.create_revision == guard.revision;
  }
  return false;
}

}  // namespace

// Records are shared with snapshots and saved states, and copied by the first write after that.
struct StoreModel::State {
  std::shared_ptr<Records> records = std::make_shared<Records>();
  StoreRevision revision = 0;
  std::map<StoreRevision, std::vector<std::string>> changes;
  StoreRevision floor = 0;
};

struct StoreModel::Shared final : ChangeSource {
  explicit Shared(Clock& clock_in) : clock(clock_in), terms(clock_in) {}

  absl::StatusOr<StoreChanges> ChangesAfter(StoreRevision revision) override {
    SwitchPoint();
    MutexLock lock(mutex);
    StoreChanges out{state.floor, state.revision, {}};
    for (auto at = state.changes.upper_bound(revision); at != state.changes.end() && out.changes.size() < 100;
         ++at) {
      out.changes.push_back({at->first, at->second});
    }
    return out;
  }

  bool AwaitChange(StoreRevision revision, absl::Duration timeout) override {
    MutexLock lock(mutex);
    return clock.Await(mutex, changed, [&]() HSM_NO_ANALYSIS { return state.revision != revision; }, timeout);
  }

  Clock& clock;
  TermKeeper terms;
  Mutex mutex;
  CondVar changed;
  State state HSM_GUARDED_BY(mutex);
  FaultHook faults HSM_GUARDED_BY(mutex);
};

class StoreModel::Frozen final : public StoreSnapshot {
 public:
  Frozen(std::shared_ptr<Shared> shared, std::shared_ptr<const Records> records, StoreRevision revision)
      : shared_(std::move(shared)), records_(std::move(records)), revision_(revision) {}
  ~Frozen() override {
    MutexLock lock(shared_->mutex);  // the next write looks at who else has the records
    records_.reset();
  }
  StoreRevision revision() const override { return revision_; }
  absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after, size_t limit) override {
    SwitchPoint();
    HSM_RETURN_IF_ERROR(CheckScan(prefix, after, limit));
    return ScanRecords(*records_, revision_, prefix, after, limit);
  }

 private:
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<const Records> records_;
  StoreRevision revision_;
};

class StoreModel::Feed final : public StoreFeed {
 public:
  Feed(std::shared_ptr<Shared> shared, const std::string& prefix, StoreRevision from)
      : shared_(std::move(shared)), feed_(*shared_, shared_->clock, prefix, from) {}
  std::optional<Event> Next(absl::Duration timeout) override { return feed_.Next(timeout); }

 private:
  std::shared_ptr<Shared> shared_;
  ChangeFeed feed_;
};

StoreModel::StoreModel(Clock& clock) : shared_(std::make_shared<Shared>(clock)) {}
StoreModel::~StoreModel() = default;

StoreModel::Fault StoreModel::Strike(const StoreTransaction* transaction) {
  SwitchPoint();
  FaultHook hook;
  {
    MutexLock lock(shared_->mutex);
    hook = shared_->faults;
  }
  return hook ? hook(transaction) : Fault::kNone;
}

StoreCommit StoreModel::Commit(const StoreTransaction& transaction) {
  Fault fault = Strike(&transaction);
  if (absl::Status status = CheckTransaction(transaction); !status.ok()) {
    return {StoreOutcome::kRefused, 0, {}, std::move(status)};
  }
  absl::Status unknown = Error(v1::REASON_OUTCOME_UNKNOWN, "store: injected");
  switch (fault) {
    case Fault::kNone:
      return Apply(transaction);
    case Fault::kRefused:
      return {StoreOutcome::kRefused, 0, {}, Error(v1::REASON_STORE_FAILED, "store: injected")};
    case Fault::kFull:
      return {StoreOutcome::kRefused, 0, {}, Error(v1::REASON_STORE_FULL, "store: injected")};
    case Fault::kUnknownAfter:
      Apply(transaction);
      [[fallthrough]];
    case Fault::kUnknownBefore:
      return {StoreOutcome::kUnknown, 0, {}, unknown};
  }
  return {StoreOutcome::kUnknown, 0, {}, unknown};
}

StoreCommit StoreModel::Apply(const StoreTransaction& transaction) {
  MutexLock lock(shared_->mutex);
  State& state = shared_->state;
  for (const StoreGuard& guard : transaction.guards) {
    if (Holds(guard, *state.records)) continue;
    StoreCommit conflict{StoreOutcome::kConflict, state.revision, {}, absl::OkStatus()};
    for (const std::string& key : transaction.read_on_conflict) {
      if (auto found = state.records->find(key); found != state.records->end())
        conflict.found.push_back(found->second);
    }
    return conflict;
  }
  if (transaction.ops.empty()) return {StoreOutcome::kCommitted, state.revision, {}, absl::OkStatus()};

  if (state.records.use_count() > 1) state.records = std::make_shared<Records>(*state.records);
  StoreRevision revision = ++state.revision;
  std::vector<std::string>& changed = state.changes[revision];
  for (const StoreOp& op : transaction.ops) {
    changed.push_back(op.key);
    if (op.kind == StoreOp::Kind::kDelete) {
      state.records->erase(op.key);
      continue;
    }
    StoreRecord& record = (*state.records)[op.key];
    if (record.create_revision == 0) record = {op.key, {}, revision, 0};
    record.value = op.value;
    record.mod_revision = revision;
  }
  shared_->changed.NotifyAll();
  return {StoreOutcome::kCommitted, revision, {}, absl::OkStatus()};
}

absl::StatusOr<std::vector<StoreRecord>> StoreModel::Get(std::span<const std::string> keys) {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  HSM_RETURN_IF_ERROR(CheckKeys(keys));
  MutexLock lock(shared_->mutex);
  std::vector<StoreRecord> out;
  for (const std::string& key : keys) {
    auto found = shared_->state.records->find(key);
    if (found != shared_->state.records->end()) out.push_back(found->second);
  }
  return out;
}

absl::StatusOr<StorePage> StoreModel::Scan(const std::string& prefix, const std::string& after,
                                           size_t limit) {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  HSM_RETURN_IF_ERROR(CheckScan(prefix, after, limit));
  MutexLock lock(shared_->mutex);
  return ScanRecords(*shared_->state.records, shared_->state.revision, prefix, after, limit);
}

absl::StatusOr<std::unique_ptr<StoreSnapshot>> StoreModel::Snapshot() {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  MutexLock lock(shared_->mutex);
  return std::make_unique<Frozen>(shared_, shared_->state.records, shared_->state.revision);
}

absl::StatusOr<std::unique_ptr<StoreFeed>> StoreModel::Follow(const std::string& prefix, StoreRevision from) {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  HSM_RETURN_IF_ERROR(CheckScan(prefix, "", 1));
  return std::make_unique<Feed>(shared_, prefix, from);
}

absl::StatusOr<StoreTerm> StoreModel::Campaign(const std::string& holder, absl::Duration ttl) {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  return shared_->terms.Campaign(holder, ttl, [this]() -> absl::StatusOr<Epoch> {
    std::string value;
    {
      MutexLock lock(shared_->mutex);
      auto found = shared_->state.records->find(std::string(kEpochKey));
      if (found != shared_->state.records->end()) value = found->second.value;
    }
    HSM_ASSIGN_OR_RETURN(Epoch epoch, NextEpoch(value));
    Apply({{}, {StoreOp::Put(std::string(kEpochKey), std::to_string(epoch))}, {}});
    return epoch;
  });
}

absl::StatusOr<StoreTerm> StoreModel::Renew(const std::string& holder, Epoch epoch, absl::Duration ttl) {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  return shared_->terms.Renew(holder, epoch, ttl);
}

absl::Status StoreModel::Resign(const std::string& holder, Epoch epoch) {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  return shared_->terms.Resign(holder, epoch);
}

absl::Status StoreModel::Compact(StoreRevision keep_from) {
  if (Strike(nullptr) != Fault::kNone) return Error(v1::REASON_STORE_FAILED, "store: injected");
  MutexLock lock(shared_->mutex);
  State& state = shared_->state;
  state.floor = std::max(state.floor, std::min(keep_from - 1, state.revision));
  state.changes.erase(state.changes.begin(), state.changes.upper_bound(state.floor));
  return absl::OkStatus();
}

StoreHealth StoreModel::Health() {
  MutexLock lock(shared_->mutex);
  StoreHealth health{"model", 0, UINT64_MAX, false};
  for (const auto& [key, record] : *shared_->state.records)
    health.bytes_used += key.size() + record.value.size();
  return health;
}

void StoreModel::SetFaults(FaultHook hook) {
  MutexLock lock(shared_->mutex);
  shared_->faults = std::move(hook);
}

std::shared_ptr<const StoreModel::State> StoreModel::Save() {
  MutexLock lock(shared_->mutex);
  return std::make_shared<const State>(shared_->state);
}

void StoreModel::RollBack(std::shared_ptr<const State> state) {
  shared_->terms.End();
  MutexLock lock(shared_->mutex);
  shared_->state = *state;
  shared_->changed.NotifyAll();
}

StoreRevision StoreModel::revision() {
  MutexLock lock(shared_->mutex);
  return shared_->state.revision;
}

}  // namespace hsm
