#pragma once
// The one writer of the catalogue. Each management change is queued here with its guards; a single thread
// puts several into one store transaction, appends their audit entries to the hash chain and raises the
// change counter in that same transaction, and resolves unknown outcomes by submitting again until the change
// counter tells. Thread-safe.
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "common/random.h"
#include "common/thread.h"
#include "coordinator/caller.h"
#include "hsm/v1/hsm.pb.h"
#include "store/catalogue.h"
#include "store/fenced_store.h"
#include "store/store.h"

namespace hsm {

// What the audit says about a change; time, sequence and chain are the committer's.
struct AuditFields {
  std::string principal;  // GUID text, or "system"
  std::string operation;  // "CreateKey" ...
  std::string object;     // key name, job id, partition
  std::string outcome = "ok";
  std::string request_hash;  // SHA-256; may be empty
  uint64_t correlation = 0;
};
AuditFields AuditOf(const Caller& caller, std::string_view operation, std::string_view object);
AuditFields AuditOfSystem(std::string_view operation, std::string_view object);

struct Change {
  std::vector<StoreGuard> guards;
  std::vector<StoreOp> ops;
  std::vector<std::string> read_on_conflict;
  // A management change: audited, raises the change counter. Without: bookkeeping (job cursors, sweeps).
  std::optional<AuditFields> audit;
  // Runs on the committer's thread, in commit order, after the commit and before Commit returns: updates
  // views. Must not block and must not call the committer. `revision` is the mod_revision of all rows
  // written.
  std::function<void(StoreRevision revision)> applied;
};

struct ChangeResult {
  // kUnknown is given up only when the committer stops or leadership is lost: the op record decides later.
  StoreOutcome outcome = StoreOutcome::kRefused;
  StoreRevision revision = 0;
  uint64_t commit = 0;             // the change counter after it
  std::vector<StoreRecord> found;  // on conflict
  absl::Status status;  // OK if committed; CONFLICT on a failed guard; OUTCOME_UNKNOWN; else why refused
};

class Committer {
 public:
  Committer(FencedStore& store, Clock& clock, Random& random, Epoch epoch);
  ~Committer();  // stops
  // Reads the audit head. Call before the first Commit.
  absl::Status Start();
  void Stop();  // queued changes end as refused

  ChangeResult Commit(Change change);
  // A call that was refused. Entries are written as time allows; beyond 100 a second they are counted, and
  // the count is the next entry.
  void Denied(AuditFields audit);

  uint64_t commit_counter() const { return commit_.load(std::memory_order_acquire); }
  // Called from the committer's thread when a commit fails because the epoch is no longer ours, or the
  // catalogue is not what this committer left. Set it before Start.
  void OnFenced(std::function<void(const absl::Status&)> fenced) { fenced_ = std::move(fenced); }

 private:
  struct Pending {
    Change change;
    ChangeResult result;
    bool done = false;
  };
  void Run();
  std::vector<Pending*> TakeGroup() HSM_REQUIRES(mutex_);
  struct Plan {
    StoreTransaction transaction;
    rpc::StoredCommit next;          // the row after it
    std::vector<uint64_t> counters;  // the change counter after each member
  };
  Plan Build(const std::vector<Pending*>& group);
  void AppendAudit(const AuditFields& fields, Plan& plan);
  StoreCommit Submit(const Plan& plan);
  void CommitGroup(const std::vector<Pending*>& group);
  bool TryCommit(const std::vector<Pending*>& group);  // false: a guard of some member failed, nothing done
  absl::Status ReadHead();

  FencedStore& store_;
  Clock& clock_;
  Random& random_;
  const Epoch epoch_;
  std::function<void(const absl::Status&)> fenced_;

  // The committer's thread only.
  rpc::StoredCommit head_;
  StoreRevision head_revision_ = 0;  // 0: the row does not exist yet

  std::atomic<uint64_t> commit_{0};
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  bool running_ HSM_GUARDED_BY(mutex_) = false;
  std::deque<Pending*> queue_ HSM_GUARDED_BY(mutex_);
  std::deque<AuditFields> denied_ HSM_GUARDED_BY(mutex_);
  uint64_t denied_uncounted_ HSM_GUARDED_BY(mutex_) = 0;
  absl::Duration denied_window_ HSM_GUARDED_BY(mutex_);
  uint32_t denied_in_window_ HSM_GUARDED_BY(mutex_) = 0;
  Thread thread_;
};

}  // namespace hsm
