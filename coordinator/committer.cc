#include "coordinator/committer.h"

#include <algorithm>
#include <set>

#include "common/aead.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"

namespace hsm {
namespace {

// Leaves room for the change counter, and for an engine's own guard.
constexpr size_t kGroupOpsMax = limits::kStoreOpsMax - 4;
constexpr size_t kGroupBytesMax = limits::kStoreTransactionBytesMax - 64 * 1024;
constexpr size_t kAuditEntryBytes = 512;
constexpr uint32_t kDeniedPerSecond = 100;
constexpr size_t kQueueMax = 4096;
constexpr absl::Duration kRetryPause = absl::Milliseconds(50);

// What of a change counts against the limits of a transaction.
struct Weight {
  size_t ops = 0, guards = 0, bytes = 0;
  explicit Weight(const Change& change) {
    ops = change.ops.size() + (change.audit.has_value() ? 1 : 0);
    guards = change.guards.size();
    for (const StoreOp& op : change.ops) bytes += op.key.size() + op.value.size();
    if (change.audit.has_value()) bytes += kAuditEntryBytes;
  }
};

}  // namespace

AuditFields AuditOf(const Caller& caller, std::string_view operation, std::string_view object) {
  AuditFields fields;
  fields.principal = GuidText(caller.principal);
  fields.operation = operation;
  fields.object = object;
  fields.correlation = caller.correlation;
  return fields;
}

AuditFields AuditOfSystem(std::string_view operation, std::string_view object) {
  AuditFields fields;
  fields.principal = "system";
  fields.operation = operation;
  fields.object = object;
  return fields;
}

Committer::Committer(FencedStore& store, Clock& clock, Random& random, Epoch epoch)
    : store_(store), clock_(clock), random_(random), epoch_(epoch) {}

Committer::~Committer() { Stop(); }

absl::Status Committer::ReadHead() {
  const std::string key = store_key::Commit();
  HSM_ASSIGN_OR_RETURN(std::vector<StoreRecord> found, store_.Get(std::span(&key, 1)));
  if (found.empty()) {
    head_.Clear();
    head_revision_ = 0;
  } else {
    HSM_ASSIGN_OR_RETURN(auto row, ParseRow<rpc::StoredCommit>(found[0]));
    head_ = std::move(row.value);
    head_revision_ = row.mod_revision;
  }
  commit_.store(head_.commit(), std::memory_order_release);
  return absl::OkStatus();
}

absl::Status Committer::Start() {
  HSM_RETURN_IF_ERROR(ReadHead());
  MutexLock lock(mutex_);
  running_ = true;
  thread_ = Thread("committer", [this] { Run(); });
  return absl::OkStatus();
}

void Committer::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.Join();
}

ChangeResult Committer::Commit(Change change) {
  Pending pending;
  pending.change = std::move(change);
  MutexLock lock(mutex_);
  if (stopping_ || !running_) {
    pending.result.status = Error(v1::REASON_NOT_ACTIVE, "the coordinator is stopping");
    return std::move(pending.result);
  }
  if (queue_.size() >= kQueueMax) {
    pending.result.status = BusyError(200, "too many changes are waiting for the store");
    return std::move(pending.result);
  }
  queue_.push_back(&pending);
  changed_.NotifyAll();
  while (!pending.done) changed_.Wait(mutex_);
  return std::move(pending.result);
}

void Committer::Denied(AuditFields audit) {
  MutexLock lock(mutex_);
  absl::Duration now = clock_.Uptime();
  if (now - denied_window_ >= absl::Seconds(1)) {
    denied_window_ = now;
    denied_in_window_ = 0;
  }
  if (++denied_in_window_ > kDeniedPerSecond) {
    ++denied_uncounted_;
    return;
  }
  denied_.push_back(std::move(audit));
  changed_.NotifyAll();
}

// Takes members from the front while they fit one transaction and touch different rows.
std::vector<Committer::Pending*> Committer::TakeGroup() {
  std::vector<Pending*> group;
  size_t ops = 0, guards = 0, bytes = 0;
  std::set<std::string_view> written;
  std::set<std::string_view> guarded;
  while (!queue_.empty()) {
    Pending* next = queue_.front();
    Weight weight(next->change);
    bool clash = false;
    for (const StoreOp& op : next->change.ops) clash |= written.contains(op.key) || guarded.contains(op.key);
    for (const StoreGuard& guard : next->change.guards) clash |= written.contains(guard.key);
    bool full = ops + weight.ops > kGroupOpsMax || guards + weight.guards > kGroupOpsMax ||
                bytes + weight.bytes > kGroupBytesMax;
    if (!group.empty() && (clash || full)) break;
    for (const StoreOp& op : next->change.ops) written.insert(op.key);
    for (const StoreGuard& guard : next->change.guards) guarded.insert(guard.key);
    ops += weight.ops;
    guards += weight.guards;
    bytes += weight.bytes;
    group.push_back(next);
    queue_.pop_front();
  }
  return group;
}

void Committer::Run() {
  while (true) {
    std::vector<Pending*> group;
    Pending denied;  // at most one transaction of refusals, after the changes
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && denied_.empty() && !stopping_) changed_.Wait(mutex_);
      if (queue_.empty() && (stopping_ || denied_.empty())) break;
      if (!queue_.empty()) {
        group = TakeGroup();
      } else {
        denied.change.audit = std::move(denied_.front());
        denied_.pop_front();
        if (denied_.empty() && denied_uncounted_ != 0) {
          denied.change.audit->object +=
              " (and " + std::to_string(denied_uncounted_) + " more refused calls)";
          denied_uncounted_ = 0;
        }
        group.push_back(&denied);
      }
    }
    CommitGroup(group);
    MutexLock lock(mutex_);
    for (Pending* member : group) member->done = true;
    changed_.NotifyAll();
  }
  MutexLock lock(mutex_);
  running_ = false;
}

void Committer::CommitGroup(const std::vector<Pending*>& group) {
  if (TryCommit(group)) return;
  if (group.size() == 1) return;  // its result says conflict
  for (Pending* member : group) TryCommit({member});
}

// One transaction for the whole group: their rows, an audit entry each, and the row that says what happened.
Committer::Plan Committer::Build(const std::vector<Pending*>& group) {
  Plan plan;
  plan.next = head_;
  StoreTransaction& transaction = plan.transaction;
  std::set<std::string> guarded;
  for (const Pending* member : group) {
    const Change& change = member->change;
    for (const StoreGuard& guard : change.guards) {
      // Members may share a guard (the HSM's row); the same one twice says nothing more.
      if (guarded.insert(guard.key + "#" + std::to_string(guard.revision)).second)
        transaction.guards.push_back(guard);
    }
    transaction.ops.insert(transaction.ops.end(), change.ops.begin(), change.ops.end());
    for (const std::string& key : change.read_on_conflict) {
      auto& reads = transaction.read_on_conflict;
      if (reads.size() + 2 < limits::kStoreOpsMax &&
          std::find(reads.begin(), reads.end(), key) == reads.end()) {
        reads.push_back(key);
      }
    }
    if (change.audit.has_value()) AppendAudit(*change.audit, plan);
    plan.counters.push_back(plan.next.commit());
  }
  // The change counter is in every transaction, also of bookkeeping: its `attempt` settles an unknown
  // outcome.
  const std::string commit_key = store_key::Commit();
  plan.next.set_epoch(epoch_);
  plan.next.set_attempt(random_.NewId<JobId>().Raw());
  transaction.guards.push_back(head_revision_ == 0 ? StoreGuard::Absent(commit_key)
                                                   : StoreGuard::ModRevisionIs(commit_key, head_revision_));
  transaction.ops.push_back(StoreOp::Put(commit_key, plan.next.SerializeAsString()));
  transaction.read_on_conflict.push_back(commit_key);
  return plan;
}

void Committer::AppendAudit(const AuditFields& fields, Plan& plan) {
  v1::AuditEntry entry;
  entry.set_sequence(plan.next.audit_sequence() + 1);
  entry.set_previous(plan.next.audit_hash());
  entry.set_time_ms(absl::ToUnixMillis(clock_.Now()));
  entry.set_principal(fields.principal);
  entry.set_operation(fields.operation);
  entry.set_object(fields.object);
  entry.set_outcome(fields.outcome);
  entry.set_request_hash(fields.request_hash);
  entry.set_correlation(fields.correlation);
  std::string bytes = entry.SerializeAsString();
  plan.next.set_audit_sequence(entry.sequence());
  plan.next.set_audit_hash(ToString(Sha256(View(bytes))));
  plan.next.set_commit(plan.next.commit() + 1);
  if (HSM_MUTANT("forget-audit-entry")) return;
  plan.transaction.ops.push_back(StoreOp::Put(store_key::Audit(entry.sequence()), std::move(bytes)));
}

// Submits until the outcome is known, or this object is stopped.
StoreCommit Committer::Submit(const Plan& plan) {
  const std::string commit_key = store_key::Commit();
  bool unknown_before = false;
  while (true) {
    StoreCommit commit = store_.Commit(plan.transaction);
    switch (commit.outcome) {
      case StoreOutcome::kCommitted:
        return commit;
      case StoreOutcome::kConflict: {
        StoreRevision found_revision = 0;
        for (const StoreRecord& record : commit.found) {
          rpc::StoredCommit found;
          if (record.key != commit_key || !found.ParseFromString(record.value)) continue;
          found_revision = record.mod_revision;
          if (found.attempt() == plan.next.attempt()) {  // ours, by an earlier try
            commit.outcome = StoreOutcome::kCommitted;
            commit.revision = record.mod_revision;
            return commit;
          }
        }
        if (found_revision != head_revision_) {  // somebody else wrote, or the store went back in time
          commit.outcome = StoreOutcome::kRefused;
          commit.status = Error(v1::REASON_STORE_ROLLED_BACK, "the catalogue is not as this leader left it");
        }
        return commit;
      }
      case StoreOutcome::kRefused:
        if (!unknown_before) return commit;
        // The last try was refused, which says nothing about the one before.
        commit.outcome = StoreOutcome::kUnknown;
        if (ReasonOf(commit.status) == v1::REASON_FENCED) return commit;
        break;
      case StoreOutcome::kUnknown:
        if (HSM_MUTANT("unknown-is-refused")) {
          commit.outcome = StoreOutcome::kRefused;
          commit.status = Error(v1::REASON_STORE_FAILED, "the store did not answer");
          return commit;
        }
        break;
    }
    unknown_before = true;
    MutexLock lock(mutex_);
    if (stopping_) return commit;
    clock_.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stopping_; }, kRetryPause);
  }
}

bool Committer::TryCommit(const std::vector<Pending*>& group) {
  Plan plan = Build(group);
  StoreCommit commit = Submit(plan);
  if (commit.outcome == StoreOutcome::kCommitted) {
    head_ = plan.next;
    head_revision_ = commit.revision;
    commit_.store(head_.commit(), std::memory_order_release);
    for (size_t i = 0; i < group.size(); ++i) {
      group[i]->result = {StoreOutcome::kCommitted, commit.revision, plan.counters[i], {}, absl::OkStatus()};
      if (group[i]->change.applied) group[i]->change.applied(commit.revision);
    }
    return true;
  }
  v1::Reason reason = ReasonOf(commit.status);
  for (Pending* member : group) {
    ChangeResult& result = member->result;
    result.outcome = commit.outcome;
    result.found = commit.found;
    if (commit.outcome == StoreOutcome::kUnknown) {
      result.status = Error(v1::REASON_OUTCOME_UNKNOWN, "the store did not say whether the change was made");
    } else if (commit.outcome == StoreOutcome::kConflict) {
      result.status = Error(v1::REASON_CONFLICT, "the catalogue changed meanwhile");
    } else {
      result.status = commit.status;
    }
  }
  if ((reason == v1::REASON_FENCED || reason == v1::REASON_STORE_ROLLED_BACK) && fenced_)
    fenced_(commit.status);
  return commit.outcome != StoreOutcome::kConflict;
}

}  // namespace hsm
