#include "node/blob_store.h"

#include <sys/stat.h>

#include <set>
#include <utility>

#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"
#include "node/blob_schema.h"

namespace hsm {
namespace {

// Rows in quarantine are evidence of something that must not happen; they are kept for so long.
constexpr int64_t kQuarantineSeconds = 90 * 86'400;

// Parameter order of an upsert of a head: 1 data_set, 2 attempt, 3 uid, 4 incarnation, 5 revision, 6 state, 7
// body, 8 mac, 9 mac_generation.
constexpr std::string_view kPutHead =
    "INSERT INTO heads(data_set, attempt, uid, incarnation, revision, state, body, mac, mac_generation) "
    "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 "
    "WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE uid = ?3 AND incarnation >= ?4) "
    "ON CONFLICT(data_set, uid, attempt) DO UPDATE SET incarnation = excluded.incarnation, "
    "revision = excluded.revision, state = excluded.state, body = excluded.body, mac = excluded.mac, "
    "mac_generation = excluded.mac_generation "
    "WHERE excluded.incarnation > incarnation OR "
    "(excluded.incarnation = incarnation AND excluded.revision > revision)";
constexpr std::string_view kActivateHeads =
    "INSERT INTO heads(data_set, attempt, uid, incarnation, revision, state, body, mac, mac_generation) "
    "SELECT data_set, x'', uid, incarnation, revision, state, body, mac, mac_generation FROM heads AS staged "
    "WHERE attempt = ?1 AND attempt <> x'' AND NOT EXISTS (SELECT 1 FROM tombstones "
    "WHERE tombstones.uid = staged.uid AND tombstones.incarnation >= staged.incarnation) "
    "ON CONFLICT(data_set, uid, attempt) DO UPDATE SET incarnation = excluded.incarnation, "
    "revision = excluded.revision, state = excluded.state, body = excluded.body, mac = excluded.mac, "
    "mac_generation = excluded.mac_generation "
    "WHERE excluded.incarnation > incarnation OR "
    "(excluded.incarnation = incarnation AND excluded.revision > revision)";
constexpr std::string_view kPutVersion =
    "INSERT INTO versions(data_set, attempt, uid, incarnation, version, ordinal, proved, check_value, body, "
    "mac, "
    "mac_generation) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 "
    "WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE uid = ?3 AND incarnation >= ?4) "
    "ON CONFLICT(data_set, uid, version) DO UPDATE SET attempt = excluded.attempt, "
    "proved = max(proved, excluded.proved), check_value = CASE WHEN length(excluded.check_value) > 0 THEN "
    "excluded.check_value ELSE check_value END, body = excluded.body, mac = excluded.mac, "
    "mac_generation = excluded.mac_generation WHERE attempt <> x''";

std::string_view IdView(const std::array<uint8_t, 16>& id) {
  return {reinterpret_cast<const char*>(id.data()), id.size()};
}
std::string_view AttemptView(const AttemptId& attempt) {
  return attempt.IsZero() ? std::string_view() : IdView(attempt.value);
}

}  // namespace

struct BlobStore::Waiter {
  const BlobBatch* batch;
  absl::Status status;
  bool done = false;
};

// The connection that changes things, with its statements. Used by one leader at a time.
struct BlobStore::Writer {
  sqlite::Database database;
  sqlite::Statement set_state, raise_state, put_head, put_version, set_proved, activate_heads,
      activate_versions, drop_staged_heads, drop_staged_versions, tombstone, tombstone_head,
      tombstone_versions, tombstone_staged, tombstone_quarantined, quarantine_heads, quarantine_versions,
      forget_quarantined, remove_heads, remove_versions, clear_proved, drop_heads, drop_versions;

  std::vector<const sqlite::Statement*> all;

  absl::Status Prepare();
  absl::Status Apply(const BlobBatch::SetStateOp& op);
  absl::Status Apply(const BlobBatch::RaiseStateOp& op);
  absl::Status Apply(const HeadRow& row);
  absl::Status Apply(const VersionRow& row);
  absl::Status Apply(const BlobBatch::ProvedOp& op);
  absl::Status Apply(const BlobBatch::AttemptOp& op);
  absl::Status Apply(const BlobBatch::TombstoneOp& op);
  absl::Status Apply(const BlobBatch::QuarantineOp& op);
  absl::Status Apply(const BlobBatch::ClearProvedOp&) { return clear_proved.Reset().Run(); }
  absl::Status Apply(const BlobBatch::DropDataSetOp& op);
};

struct BlobStore::Reader {
  sqlite::Database database;
  sqlite::Statement head, version;
};

// `attempt <> x''` is said again wherever an attempt is looked for: without it SQLite does not see that the
// partial index will do, and reads the whole table.
absl::Status BlobStore::Writer::Prepare() {
  const std::pair<sqlite::Statement*, std::string_view> statements[] = {
      {&set_state,
       "INSERT INTO node_state(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = "
       "excluded.value"},
      {&raise_state,
       "INSERT INTO node_state(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = "
       "excluded.value "
       "WHERE CAST(CAST(excluded.value AS TEXT) AS INTEGER) > CAST(CAST(value AS TEXT) AS INTEGER)"},
      {&put_head, kPutHead},
      {&put_version, kPutVersion},
      {&set_proved,
       "UPDATE versions SET proved = ?4, check_value = ?5 WHERE data_set = ?1 AND uid = ?2 AND version = ?3"},
      {&activate_heads, kActivateHeads},
      {&activate_versions, "UPDATE versions SET attempt = x'' WHERE attempt = ?1 AND attempt <> x''"},
      {&drop_staged_heads, "DELETE FROM heads WHERE attempt = ?1 AND attempt <> x''"},
      {&drop_staged_versions, "DELETE FROM versions WHERE attempt = ?1 AND attempt <> x''"},
      {&tombstone,
       "INSERT INTO tombstones(uid, incarnation) VALUES(?1, ?2) ON CONFLICT(uid) DO UPDATE SET incarnation = "
       "max(incarnation, excluded.incarnation)"},
      {&tombstone_head,
       "INSERT INTO heads(data_set, attempt, uid, incarnation, revision, state, body, mac, mac_generation) "
       "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(data_set, uid, attempt) DO UPDATE SET "
       "incarnation = excluded.incarnation, revision = excluded.revision, state = excluded.state, "
       "body = excluded.body, mac = excluded.mac, mac_generation = excluded.mac_generation "
       "WHERE excluded.incarnation > incarnation OR "
       "(excluded.incarnation = incarnation AND excluded.revision > revision)"},
      {&tombstone_versions, "DELETE FROM versions WHERE uid = ?1 AND incarnation <= ?2"},
      {&tombstone_staged,
       "DELETE FROM heads WHERE uid = ?1 AND incarnation <= ?2 AND (attempt <> x'' OR state <> 3)"},
      {&tombstone_quarantined, "DELETE FROM quarantine WHERE uid = ?1"},
      {&forget_quarantined, "DELETE FROM quarantine WHERE at < ?1"},
      {&quarantine_heads,
       "INSERT INTO quarantine(data_set, uid, at, kind, body, mac, mac_generation) SELECT data_set, uid, ?3, "
       "'head', "
       "body, mac, mac_generation FROM heads WHERE data_set = ?1 AND uid = ?2"},
      {&quarantine_versions,
       "INSERT INTO quarantine(data_set, uid, at, kind, body, mac, mac_generation) SELECT data_set, uid, ?3, "
       "'version', body, mac, mac_generation FROM versions WHERE data_set = ?1 AND uid = ?2"},
      {&remove_heads, "DELETE FROM heads WHERE data_set = ?1 AND uid = ?2"},
      {&remove_versions, "DELETE FROM versions WHERE data_set = ?1 AND uid = ?2"},
      {&clear_proved, "UPDATE versions SET proved = 0"},
      {&drop_heads, "DELETE FROM heads WHERE data_set = ?1"},
      {&drop_versions, "DELETE FROM versions WHERE data_set = ?1"},
  };
  for (const auto& [statement, sql] : statements) {
    HSM_ASSIGN_OR_RETURN(*statement, database.Prepare(sql));
    all.push_back(statement);
  }
  return absl::OkStatus();
}

absl::Status BlobStore::Writer::Apply(const BlobBatch::SetStateOp& op) {
  return set_state.Reset().Blob(1, op.name).Blob(2, op.value).Run();
}

absl::Status BlobStore::Writer::Apply(const BlobBatch::RaiseStateOp& op) {
  std::string number = std::to_string(op.number);
  return raise_state.Reset().Blob(1, op.name).Blob(2, number).Run();
}

absl::Status BlobStore::Writer::Apply(const HeadRow& row) {
  return put_head.Reset()
      .Int(1, static_cast<int64_t>(row.data_set))
      .Blob(2, AttemptView(row.attempt))
      .Blob(3, IdView(row.uid.value))
      .Int(4, row.incarnation)
      .Int(5, static_cast<int64_t>(row.revision))
      .Int(6, static_cast<int64_t>(row.state))
      .Blob(7, row.sealed.body())
      .Blob(8, row.sealed.mac())
      .Int(9, row.sealed.mac_generation())
      .Run();
}

absl::Status BlobStore::Writer::Apply(const VersionRow& row) {
  return put_version.Reset()
      .Int(1, static_cast<int64_t>(row.data_set))
      .Blob(2, AttemptView(row.attempt))
      .Blob(3, IdView(row.uid.value))
      .Int(4, row.incarnation)
      .Blob(5, IdView(row.version.value))
      .Int(6, row.ordinal)
      .Int(7, row.proved)
      .Blob(8, row.check_value)
      .Blob(9, row.sealed.body())
      .Blob(10, row.sealed.mac())
      .Int(11, row.sealed.mac_generation())
      .Run();
}

absl::Status BlobStore::Writer::Apply(const BlobBatch::ProvedOp& op) {
  return set_proved.Reset()
      .Int(1, static_cast<int64_t>(op.data_set))
      .Blob(2, IdView(op.uid.value))
      .Blob(3, IdView(op.version.value))
      .Int(4, op.proved)
      .Blob(5, op.check_value)
      .Run();
}

absl::Status BlobStore::Writer::Apply(const BlobBatch::AttemptOp& op) {
  std::string_view attempt = AttemptView(op.attempt);
  if (op.activate) {
    HSM_RETURN_IF_ERROR(activate_heads.Reset().Blob(1, attempt).Run());
    HSM_RETURN_IF_ERROR(activate_versions.Reset().Blob(1, attempt).Run());
  } else {
    HSM_RETURN_IF_ERROR(drop_staged_versions.Reset().Blob(1, attempt).Run());
  }
  return drop_staged_heads.Reset().Blob(1, attempt).Run();
}

absl::Status BlobStore::Writer::Apply(const BlobBatch::TombstoneOp& op) {
  const HeadRow& row = op.head;
  std::string_view uid = IdView(row.uid.value);
  HSM_RETURN_IF_ERROR(tombstone.Reset().Blob(1, uid).Int(2, row.incarnation).Run());
  HSM_RETURN_IF_ERROR(tombstone_versions.Reset().Blob(1, uid).Int(2, row.incarnation).Run());
  HSM_RETURN_IF_ERROR(tombstone_staged.Reset().Blob(1, uid).Int(2, row.incarnation).Run());
  HSM_RETURN_IF_ERROR(tombstone_quarantined.Reset().Blob(1, uid).Run());  // what is destroyed has no copies
  return tombstone_head.Reset()
      .Int(1, static_cast<int64_t>(row.data_set))
      .Blob(2, {})
      .Blob(3, uid)
      .Int(4, row.incarnation)
      .Int(5, static_cast<int64_t>(row.revision))
      .Int(6, static_cast<int64_t>(row.state))
      .Blob(7, row.sealed.body())
      .Blob(8, row.sealed.mac())
      .Int(9, row.sealed.mac_generation())
      .Run();
}

absl::Status BlobStore::Writer::Apply(const BlobBatch::QuarantineOp& op) {
  auto data_set = static_cast<int64_t>(op.data_set);
  std::string_view uid = IdView(op.uid.value);
  HSM_RETURN_IF_ERROR(quarantine_heads.Reset().Int(1, data_set).Blob(2, uid).Int(3, op.at).Run());
  HSM_RETURN_IF_ERROR(quarantine_versions.Reset().Int(1, data_set).Blob(2, uid).Int(3, op.at).Run());
  HSM_RETURN_IF_ERROR(forget_quarantined.Reset().Int(1, op.at - kQuarantineSeconds).Run());
  HSM_RETURN_IF_ERROR(remove_heads.Reset().Int(1, data_set).Blob(2, uid).Run());
  return remove_versions.Reset().Int(1, data_set).Blob(2, uid).Run();
}

absl::Status BlobStore::Writer::Apply(const BlobBatch::DropDataSetOp& op) {
  HSM_RETURN_IF_ERROR(drop_heads.Reset().Int(1, static_cast<int64_t>(op.data_set)).Run());
  return drop_versions.Reset().Int(1, static_cast<int64_t>(op.data_set)).Run();
}

BlobStore::BlobStore() = default;
BlobStore::~BlobStore() = default;

absl::StatusOr<std::unique_ptr<BlobStore>> BlobStore::Open(const Options& options) {
  HSM_ASSIGN_OR_RETURN(sqlite::Database writing,
                       sqlite::Database::Open(options.path, {.vfs = options.vfs, .create = true}));
  if (options.vfs.empty()) chmod(options.path.c_str(), 0600);
  bool lossy = HSM_MUTANT("blob-store-no-sync");
  HSM_RETURN_IF_ERROR(writing.Exec("PRAGMA journal_mode=WAL"));
  HSM_RETURN_IF_ERROR(writing.Exec(lossy ? "PRAGMA synchronous=OFF" : "PRAGMA synchronous=FULL"));
  HSM_RETURN_IF_ERROR(writing.Exec("PRAGMA secure_delete=ON; PRAGMA wal_autocheckpoint=1000"));
  HSM_ASSIGN_OR_RETURN(std::string found, writing.QueryText("PRAGMA quick_check(1)"));
  if (found != "ok") return Error(v1::REASON_RECORD_CORRUPT, "the node's record store is damaged: " + found);
  HSM_ASSIGN_OR_RETURN(int64_t format, writing.QueryInt("PRAGMA user_version"));
  if (format != 0 && format != kFormat) {
    return Error(v1::REASON_STORE_FAILED, "the node's record store has a format this version does not know");
  }
  // A store of before may lack the newest index; one that has it is not written to: the disk may be full.
  HSM_ASSIGN_OR_RETURN(int64_t complete,
                       writing.QueryInt("SELECT count(*) FROM sqlite_schema WHERE name = 'quarantine_at'"));
  if (complete == 0) {
    HSM_RETURN_IF_ERROR(
        writing.Exec("BEGIN IMMEDIATE;" + std::string(kSchema) + "PRAGMA user_version=1; COMMIT"));
  }

  std::unique_ptr<BlobStore> store(new BlobStore);
  store->writer_ = std::make_unique<Writer>(std::move(writing));
  HSM_RETURN_IF_ERROR(store->writer_->Prepare());
  HSM_ASSIGN_OR_RETURN(sqlite::Database reading, sqlite::Database::Open(options.path, {.vfs = options.vfs}));
  auto reader = std::make_unique<Reader>(std::move(reading));
  HSM_ASSIGN_OR_RETURN(
      reader->head,
      reader->database.Prepare("SELECT incarnation, revision, state, body, mac, mac_generation FROM "
                               "heads WHERE data_set = ?1 AND uid = ?2 AND attempt = ?3"));
  HSM_ASSIGN_OR_RETURN(
      reader->version,
      reader->database.Prepare(
          "SELECT attempt, incarnation, ordinal, proved, check_value, body, mac, mac_generation "
          "FROM versions WHERE data_set = ?1 AND uid = ?2 AND version = ?3"));
  HSM_ASSIGN_OR_RETURN(sqlite::Statement state,
                       reader->database.Prepare("SELECT name, value FROM node_state"));
  MutexLock lock(store->mutex_);
  while (true) {
    HSM_ASSIGN_OR_RETURN(bool row, state.Step());
    if (!row) break;
    store->state_[std::string(state.BlobAt(0))] = std::string(state.BlobAt(1));
  }
  MutexLock read_lock(store->read_mutex_);
  store->reader_ = std::move(reader);
  return store;
}

// The first caller becomes the leader and writes for all who came meanwhile.
absl::Status BlobStore::Commit(const BlobBatch& batch) {
  if (batch.empty()) return absl::OkStatus();
  Waiter waiter{&batch};
  MutexLock lock(mutex_);
  queue_.push_back(&waiter);
  while (!waiter.done) {
    if (leading_) {
      changed_.Wait(mutex_);
      continue;
    }
    leading_ = true;
    std::vector<Waiter*> taken = std::exchange(queue_, {});
    absl::Status status =
        broken_ ? Error(v1::REASON_STORE_FAILED, "the node's record store failed before") : absl::OkStatus();
    if (status.ok()) {
      mutex_.Unlock();
      status = ApplyAll(taken);
      mutex_.Lock();
    }
    if (!status.ok() && ReasonOf(status) != v1::REASON_STORE_FULL) broken_ = true;
    for (Waiter* done : taken) {
      if (status.ok()) {
        for (const BlobBatch::Op& op : done->batch->ops()) {
          if (const auto* set = std::get_if<BlobBatch::SetStateOp>(&op)) state_[set->name] = set->value;
          if (const auto* raise = std::get_if<BlobBatch::RaiseStateOp>(&op)) {
            std::string& held = state_[raise->name];
            if (held.empty() || std::stoull(held) < raise->number) held = std::to_string(raise->number);
          }
        }
      }
      done->status = status;
      done->done = true;
    }
    leading_ = false;
    changed_.NotifyAll();
  }
  return waiter.status;
}

absl::Status BlobStore::ApplyAll(const std::vector<Waiter*>& taken) {
  absl::Status status = writer_->database.Exec("BEGIN IMMEDIATE");
  for (size_t i = 0; status.ok() && i < taken.size(); ++i) {
    for (const BlobBatch::Op& op : taken[i]->batch->ops()) {
      status = std::visit([this](const auto& change) { return writer_->Apply(change); }, op);
      if (!status.ok()) break;
    }
  }
  if (status.ok()) status = writer_->database.Exec("COMMIT");
  if (!status.ok()) writer_->database.RollbackIfOpen();
  return status;
}

bool BlobStore::Broken() const {
  MutexLock lock(mutex_);
  return broken_;
}

std::string BlobStore::State(const std::string& name) const {
  MutexLock lock(mutex_);
  auto found = state_.find(name);
  return found == state_.end() ? std::string() : found->second;
}

uint64_t BlobStore::StateNumber(const std::string& name) const {
  std::string text = State(name);
  return text.empty() ? 0 : std::stoull(text);
}

absl::Status BlobStore::ForEachHead(DataSet data_set,
                                    const std::function<absl::Status(const HeadRow&)>& visit) {
  MutexLock lock(read_mutex_);
  HSM_ASSIGN_OR_RETURN(
      sqlite::Statement rows,
      reader_->database.Prepare("SELECT attempt, uid, incarnation, revision, state, body, mac, "
                                "mac_generation FROM heads WHERE data_set = ?1"));
  rows.Int(1, static_cast<int64_t>(data_set));
  while (true) {
    HSM_ASSIGN_OR_RETURN(bool more, rows.Step());
    if (!more) return absl::OkStatus();
    HeadRow row;
    row.data_set = data_set;
    row.attempt = AttemptId::From(rows.BlobAt(0)).value_or(AttemptId{});
    row.uid = KeyUid::From(rows.BlobAt(1)).value_or(KeyUid{});
    row.incarnation = static_cast<uint32_t>(rows.IntAt(2));
    row.revision = static_cast<Revision>(rows.IntAt(3));
    row.state = static_cast<KeyState>(rows.IntAt(4));
    row.sealed.set_body(std::string(rows.BlobAt(5)));
    row.sealed.set_mac(std::string(rows.BlobAt(6)));
    row.sealed.set_mac_generation(static_cast<uint32_t>(rows.IntAt(7)));
    HSM_RETURN_IF_ERROR(visit(row));
  }
}

absl::Status BlobStore::ForEachVersion(DataSet data_set,
                                       const std::function<absl::Status(const VersionRow&)>& visit) {
  MutexLock lock(read_mutex_);
  HSM_ASSIGN_OR_RETURN(
      sqlite::Statement rows,
      reader_->database.Prepare("SELECT attempt, uid, incarnation, version, ordinal, proved FROM "
                                "versions WHERE data_set = ?1"));
  rows.Int(1, static_cast<int64_t>(data_set));
  while (true) {
    HSM_ASSIGN_OR_RETURN(bool more, rows.Step());
    if (!more) return absl::OkStatus();
    VersionRow row;
    row.data_set = data_set;
    row.attempt = AttemptId::From(rows.BlobAt(0)).value_or(AttemptId{});
    row.uid = KeyUid::From(rows.BlobAt(1)).value_or(KeyUid{});
    row.incarnation = static_cast<uint32_t>(rows.IntAt(2));
    row.version = KeyVersion::From(rows.BlobAt(3)).value_or(KeyVersion{});
    row.ordinal = static_cast<uint32_t>(rows.IntAt(4));
    row.proved = rows.IntAt(5) != 0;
    HSM_RETURN_IF_ERROR(visit(row));
  }
}

absl::StatusOr<std::vector<TombstoneRow>> BlobStore::Tombstones() {
  MutexLock lock(read_mutex_);
  HSM_ASSIGN_OR_RETURN(sqlite::Statement rows,
                       reader_->database.Prepare("SELECT uid, incarnation FROM tombstones"));
  std::vector<TombstoneRow> out;
  while (true) {
    HSM_ASSIGN_OR_RETURN(bool more, rows.Step());
    if (!more) return out;
    out.push_back({KeyUid::From(rows.BlobAt(0)).value_or(KeyUid{}), static_cast<uint32_t>(rows.IntAt(1))});
  }
}

absl::StatusOr<std::vector<DataSet>> BlobStore::DataSets() {
  MutexLock lock(read_mutex_);
  HSM_ASSIGN_OR_RETURN(sqlite::Statement rows,
                       reader_->database.Prepare("SELECT DISTINCT data_set FROM heads ORDER BY data_set"));
  std::vector<DataSet> out;
  while (true) {
    HSM_ASSIGN_OR_RETURN(bool more, rows.Step());
    if (!more) return out;
    out.push_back(static_cast<DataSet>(rows.IntAt(0)));
  }
}

int64_t BlobStore::FullScanStepsForTest() const {
  int64_t steps = 0;
  for (const sqlite::Statement* statement : writer_->all) steps += statement->FullScanSteps();
  return steps;
}

absl::StatusOr<uint64_t> BlobStore::QuarantinedCount() {
  MutexLock lock(read_mutex_);
  HSM_ASSIGN_OR_RETURN(int64_t count,
                       reader_->database.QueryInt("SELECT count(DISTINCT uid) FROM quarantine"));
  return static_cast<uint64_t>(count);
}

absl::StatusOr<HeadRow> BlobStore::ReadHead(DataSet data_set, const KeyUid& uid, const AttemptId& attempt) {
  MutexLock lock(read_mutex_);
  sqlite::Statement& query = reader_->head.Reset();
  query.Int(1, static_cast<int64_t>(data_set)).Blob(2, IdView(uid.value)).Blob(3, AttemptView(attempt));
  HSM_ASSIGN_OR_RETURN(bool there, query.Step());
  if (!there) {
    query.Reset();
    return Error(v1::REASON_NOT_FOUND, "this partition holds no such key head");
  }
  HeadRow row;
  row.data_set = data_set;
  row.attempt = attempt;
  row.uid = uid;
  row.incarnation = static_cast<uint32_t>(query.IntAt(0));
  row.revision = static_cast<Revision>(query.IntAt(1));
  row.state = static_cast<KeyState>(query.IntAt(2));
  row.sealed.set_body(std::string(query.BlobAt(3)));
  row.sealed.set_mac(std::string(query.BlobAt(4)));
  row.sealed.set_mac_generation(static_cast<uint32_t>(query.IntAt(5)));
  query.Reset();  // ends the read transaction, so that the log can be checkpointed
  return row;
}

absl::StatusOr<VersionRow> BlobStore::ReadVersion(DataSet data_set, const KeyUid& uid,
                                                  const KeyVersion& version) {
  MutexLock lock(read_mutex_);
  sqlite::Statement& query = reader_->version.Reset();
  query.Int(1, static_cast<int64_t>(data_set)).Blob(2, IdView(uid.value)).Blob(3, IdView(version.value));
  HSM_ASSIGN_OR_RETURN(bool there, query.Step());
  if (!there) {
    query.Reset();
    return Error(v1::REASON_NOT_FOUND, "this partition holds no such key version");
  }
  VersionRow row;
  row.data_set = data_set;
  row.uid = uid;
  row.version = version;
  row.attempt = AttemptId::From(query.BlobAt(0)).value_or(AttemptId{});
  row.incarnation = static_cast<uint32_t>(query.IntAt(1));
  row.ordinal = static_cast<uint32_t>(query.IntAt(2));
  row.proved = query.IntAt(3) != 0;
  row.check_value = std::string(query.BlobAt(4));
  row.sealed.set_body(std::string(query.BlobAt(5)));
  row.sealed.set_mac(std::string(query.BlobAt(6)));
  row.sealed.set_mac_generation(static_cast<uint32_t>(query.IntAt(7)));
  query.Reset();
  return row;
}

}  // namespace hsm
