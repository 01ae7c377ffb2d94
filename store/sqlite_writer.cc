#include "store/sqlite_writer.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr StoreRevision kForgetStep = 1'000;  // changes are forgotten in lots of this many
constexpr int kLongLog = 4;  // checkpoints that readers spoiled before the writer waits for them
constexpr size_t kGroupBytesMax = 2 * limits::kStoreTransactionBytesMax;
constexpr char kGiveBackSome[] = "PRAGMA incremental_vacuum(256)";    // 1 MiB
constexpr char kGiveBackMuch[] = "PRAGMA incremental_vacuum(16384)";  // 64 MiB

StoreCommit Refused(absl::Status why) { return {StoreOutcome::kRefused, 0, {}, std::move(why)}; }

size_t BytesOf(const StoreTransaction& transaction) {
  size_t bytes = 0;
  for (const StoreOp& op : transaction.ops) bytes += op.key.size() + op.value.size();
  return bytes;
}

}  // namespace

bool SqliteWriter::Request::Deletes() const {
  return system || std::any_of(transaction->ops.begin(), transaction->ops.end(),
                               [](const StoreOp& op) { return op.kind == StoreOp::Kind::kDelete; });
}

SqliteWriter::SqliteWriter(const StoreSqliteOptions& options, SqliteDisk* disk, SqliteReaders& readers)
    : options_(options), disk_(disk), readers_(readers) {}

SqliteWriter::~SqliteWriter() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    arrived_.NotifyAll();
  }
  thread_.Join();
  readers_.Close();
}

absl::Status SqliteWriter::Start() {
  HSM_RETURN_IF_ERROR(OpenTables());
  {
    MutexLock lock(mutex_);
    revision_ = committed_;
  }
  LookAtDisk();
  thread_ = Thread("store-writer", [this] { Run(); });
  return absl::OkStatus();
}

StoreCommit SqliteWriter::Commit(const StoreTransaction& transaction, bool system) {
  auto request = std::make_shared<Request>();
  request->transaction = &transaction;
  request->system = system;
  return Submit(request);
}

absl::Status SqliteWriter::Compact(StoreRevision keep_from) {
  auto request = std::make_shared<Request>();
  request->compact_from = keep_from;
  return Submit(request).status;
}

StoreCommit SqliteWriter::Submit(const std::shared_ptr<Request>& request) {
  MutexLock lock(mutex_);
  if (queue_.size() >= options_.queue_transactions_max)
    return Refused(BusyError(50, "store: too many writes wait"));
  queue_.push_back(request);
  if (queue_.size() == 1) arrived_.NotifyAll();
  while (!request->done) request->answered.Wait(mutex_);
  return std::move(request->answer);
}

bool SqliteWriter::AwaitRevisionAbove(StoreRevision revision, absl::Duration timeout) {
  MutexLock lock(mutex_);
  return options_.clock->Await(
      mutex_, changed_, [&]() HSM_NO_ANALYSIS { return revision_ > revision; }, timeout);
}

void SqliteWriter::Run() {
  while (true) {
    std::vector<std::shared_ptr<Request>> group;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) arrived_.Wait(mutex_);
      if (queue_.empty()) break;
      group = TakeGroup();
    }
    Serve(group);
    {
      MutexLock lock(mutex_);
      if (revision_ != committed_) {
        revision_ = committed_;
        changed_.NotifyAll();
      }
      for (const auto& request : group) request->done = true;
    }
    // Without the lock, which those who wake would only wait for; they own their request together with us.
    for (const auto& request : group) request->answered.NotifyAll();
    TendLog();
  }
  readers_.Close();  // before the writer, so that closing the last connection empties the log
  tables_.reset();
}

std::vector<std::shared_ptr<SqliteWriter::Request>> SqliteWriter::TakeGroup() {
  std::vector<std::shared_ptr<Request>> group;
  size_t bytes = 0;
  while (!queue_.empty() && group.size() < options_.group_transactions_max && bytes < kGroupBytesMax) {
    const StoreTransaction* transaction = queue_.front()->transaction;
    bool compacts = transaction == nullptr;  // is a group of its own
    if (compacts && !group.empty()) break;
    group.push_back(queue_.front());
    queue_.pop_front();
    if (compacts) break;
    bytes += BytesOf(*transaction);
  }
  return group;
}

void SqliteWriter::Serve(Group group) {
  LookAtDisk();
  if (group.front()->transaction == nullptr) {
    absl::Status status = CompactNow(group.front()->compact_from);
    group.front()->answer = {status.ok() ? StoreOutcome::kCommitted : StoreOutcome::kRefused, 0, {}, status};
    return;
  }
  // A group that met an error before its commit left nothing behind; it is taken apart, so that one
  // transaction too large for the disk does not fail its neighbours.
  if (group.size() > 1 && OpenTables().ok() && Attempt(group).ok()) return;
  for (const auto& request : group) Alone(request);
}

void SqliteWriter::Alone(const std::shared_ptr<Request>& shared) {
  Request& request = *shared;
  const Group alone(&shared, 1);
  absl::Status status = OpenTables();
  if (status.ok()) status = Attempt(alone);
  bool full = ReasonOf(status) == v1::REASON_STORE_FULL;
  if (full && request.Deletes() && ReleaseReserve()) {
    status = OpenTables();
    if (status.ok()) status = Attempt(alone);
  }
  if (!status.ok()) request.answer = Refused(std::move(status));
}

// OK: every request has its answer. Otherwise nothing was done and no answer holds.
absl::Status SqliteWriter::Attempt(Group group) {
  StoreRevision revision = committed_, floor = floor_;
  absl::Status status = tables_->Begin();
  for (const auto& request : group) {
    if (status.ok()) status = Judge(*request, revision);
  }
  if (status.ok() && revision == committed_) {  // nothing to write
    tables_->Rollback();
    return status;
  }
  if (status.ok() && revision - floor > options_.change_revisions_max + kForgetStep) {
    floor = revision - options_.change_revisions_max;
    status = tables_->Forget(floor);
  }
  if (status.ok()) status = tables_->SetRevision(revision);
  if (!status.ok()) {
    tables_->Rollback();
    if (ReasonOf(status) != v1::REASON_STORE_FULL) CloseTables(status);
    return status;
  }
  status = tables_->Commit();
  if (status.ok()) {
    committed_ = revision;
    floor_ = floor;
    return status;
  }
  tables_->Rollback();
  // Full while the log was written: the frame that commits is the last one, so nothing is committed.
  if (ReasonOf(status) == v1::REASON_STORE_FULL) return status;
  AnswerUnknown(group, status);
  CloseTables(status);
  return absl::OkStatus();
}

absl::Status SqliteWriter::Judge(Request& request, StoreRevision& revision) {
  if (read_only_ && request.Writes() && !request.Deletes()) {
    request.answer =
        Refused(Error(v1::REASON_STORE_FULL, "store: only deletes are taken until there is space"));
    return absl::OkStatus();
  }
  const StoreTransaction& transaction = *request.transaction;
  for (const StoreGuard& guard : transaction.guards) {
    HSM_ASSIGN_OR_RETURN(bool holds, tables_->Holds(guard));
    if (holds || HSM_MUTANT("store-guard-unchecked")) continue;
    request.answer = {StoreOutcome::kConflict, revision, {}, absl::OkStatus()};
    for (const std::string& key : transaction.read_on_conflict) {
      HSM_ASSIGN_OR_RETURN(std::optional<StoreRecord> record, tables_->Find(key));
      if (record) request.answer.found.push_back(*std::move(record));
    }
    return absl::OkStatus();
  }
  if (request.Writes()) HSM_RETURN_IF_ERROR(tables_->Apply(transaction.ops, ++revision));
  request.answer = {StoreOutcome::kCommitted, revision, {}, absl::OkStatus()};
  return absl::OkStatus();
}

// The sync of the group failed. What only looked at the state is refused instead: it may have looked at
// writes of the group that will turn out never to have happened.
void SqliteWriter::AnswerUnknown(Group group, const absl::Status& why) {
  for (const auto& request : group) {
    if (request->answer.outcome == StoreOutcome::kRefused) continue;
    if (request->Writes() && request->answer.outcome == StoreOutcome::kCommitted) {
      request->answer = {
          StoreOutcome::kUnknown, 0, {}, Error(v1::REASON_OUTCOME_UNKNOWN, std::string(why.message()))};
    } else {
      request->answer = Refused(why);
    }
  }
}

absl::Status SqliteWriter::CompactNow(StoreRevision keep_from) {
  HSM_RETURN_IF_ERROR(OpenTables());
  StoreRevision floor = std::max(floor_, std::min(keep_from - 1, committed_));
  absl::Status status = ForgetTo(floor);
  if (ReasonOf(status) == v1::REASON_STORE_FULL && ReleaseReserve()) status = ForgetTo(floor);
  if (status.ok()) status = tables_->database().Exec(kGiveBackMuch);
  if (status.ok()) status = tables_->database().Checkpoint(true);
  if (!status.ok() && ReasonOf(status) != v1::REASON_STORE_FULL) CloseTables(status);
  return status;
}

absl::Status SqliteWriter::ForgetTo(StoreRevision floor) {
  if (floor == floor_) return absl::OkStatus();
  absl::Status status = tables_->Begin();
  if (status.ok()) status = tables_->Forget(floor);
  if (status.ok()) status = tables_->Commit();
  tables_->Rollback();
  if (status.ok()) floor_ = floor;
  return status;
}

bool SqliteWriter::ReleaseReserve() {
  if (disk_ == nullptr || !disk_->ReleaseReserve()) return false;
  read_only_ = true;
  LogWarning("store: disk full, the reserve is released for deletes", {{"path", options_.path}});
  // First the log moves into the database, which may need the room, and gives its own back.
  if (tables_ != nullptr) tables_->database().Checkpoint(true).IgnoreError();
  return true;
}

void SqliteWriter::LookAtDisk() {
  if (disk_ == nullptr) return;
  bool is_short = disk_->ShortOfSpace();
  if (is_short != read_only_.exchange(is_short)) {
    LogWarning(is_short ? "store: short of space, only deletes are taken"
                        : "store: space again, all writes are taken",
               {{"path", options_.path}, {"bytes_free", disk_->FreeBytes()}});
  }
}

void SqliteWriter::TendLog() {
  absl::Status status = OpenTables();  // after a disk error; if it fails, the next write tries again
  if (!status.ok()) return;
  if (read_only_) {  // what deletes have freed goes back to the disk, until there is enough again
    status = tables_->database().Exec(kGiveBackSome);
    if (status.ok()) status = tables_->database().Checkpoint(true);
  } else if (int pages = tables_->database().LogPages(); pages >= options_.checkpoint_pages) {
    status = tables_->database().Checkpoint(pages >= kLongLog * options_.checkpoint_pages);
  }
  if (!status.ok() && ReasonOf(status) != v1::REASON_STORE_FULL) CloseTables(status);
}

absl::Status SqliteWriter::OpenTables() {
  if (tables_ != nullptr) return absl::OkStatus();
  // Also at start: the process before this one may have died of the disk error that left the log in doubt.
  if (!HSM_MUTANT("store-log-trusted")) HSM_RETURN_IF_ERROR(sqlite::RewriteLog(options_.path, options_.vfs));
  HSM_ASSIGN_OR_RETURN(auto tables, SqliteTables::Open(options_.path, SqliteTables::Role::kWriter, options_));
  tables->database().CheckpointByHand();
  HSM_ASSIGN_OR_RETURN(committed_, tables->Revision());
  HSM_ASSIGN_OR_RETURN(floor_, tables->Floor());
  HSM_RETURN_IF_ERROR(readers_.Open());
  tables_ = std::move(tables);
  return absl::OkStatus();
}

// After a disk error nothing in memory is trusted: everything is closed, without touching the log, and opened
// again.
void SqliteWriter::CloseTables(const absl::Status& why) {
  LogError("store: disk error, reopening", {{"path", options_.path}, {"error", why}});
  if (tables_ == nullptr) return;
  tables_->database().KeepLogOnClose();
  readers_.Close();
  tables_.reset();
}

}  // namespace hsm
