#include "store/sqlite_tables.h"

#include <algorithm>

#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr int64_t kApplicationId = 0x5148534d;  // "QHSM"
constexpr int64_t kFormat = 1;
constexpr size_t kChangesPerRead = 100;

// Rowid tables with a unique index: kilobyte values in a WITHOUT ROWID table cost three times the space.
constexpr char kSchema[] = R"(
  CREATE TABLE record(
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL,
    create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL);
  CREATE TABLE change(revision INTEGER PRIMARY KEY, keys BLOB NOT NULL);
  CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
  INSERT INTO meta VALUES('revision', 0), ('floor', 0);
)";

absl::Status SetUpWriter(sqlite::Database& database) {
  HSM_RETURN_IF_ERROR(database.Exec("PRAGMA auto_vacuum = INCREMENTAL"));  // before the first table, or never
  HSM_ASSIGN_OR_RETURN(std::string mode, database.QueryText("PRAGMA journal_mode = WAL"));
  if (mode != "wal") return Error(v1::REASON_STORE_FAILED, "store: no write-ahead log on this file system");
  HSM_RETURN_IF_ERROR(
      database.Exec("PRAGMA secure_delete = ON; PRAGMA cell_size_check = ON;"
                    "PRAGMA journal_size_limit = 16777216; PRAGMA cache_size = -16384"));
  HSM_RETURN_IF_ERROR(database.Exec(HSM_MUTANT("store-sync-normal") ? "PRAGMA synchronous = NORMAL"
                                                                    : "PRAGMA synchronous = FULL"));
  return absl::OkStatus();
}

absl::Status CreateOrCheck(sqlite::Database& database, const std::string& path) {
  HSM_ASSIGN_OR_RETURN(int64_t tables, database.QueryInt("SELECT count(*) FROM sqlite_schema"));
  HSM_ASSIGN_OR_RETURN(int64_t application, database.QueryInt("PRAGMA application_id"));
  if (tables == 0 && application == 0) {
    return database.Exec("BEGIN IMMEDIATE; PRAGMA application_id = " + std::to_string(kApplicationId) +
                         "; PRAGMA user_version = " + std::to_string(kFormat) + ";" + kSchema + "COMMIT");
  }
  HSM_ASSIGN_OR_RETURN(int64_t format, database.QueryInt("PRAGMA user_version"));
  if (application != kApplicationId || format != kFormat) {
    return Error(v1::REASON_CONFIG_INVALID, "store: " + path + " is not a store of this version");
  }
  HSM_ASSIGN_OR_RETURN(std::string check, database.QueryText("PRAGMA quick_check(1)"));
  if (check != "ok") return Error(v1::REASON_STORE_FAILED, "store: " + path + " is damaged: " + check);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteTables>> SqliteTables::Open(const std::string& path, Role role,
                                                                 const StoreSqliteOptions& options) {
  sqlite::OpenOptions open{options.vfs, role == Role::kWriter, role == Role::kSnapshot};
  HSM_ASSIGN_OR_RETURN(sqlite::Database database, sqlite::Database::Open(path, open));
  auto tables = std::unique_ptr<SqliteTables>(new SqliteTables(std::move(database)));
  if (role == Role::kWriter) {
    HSM_RETURN_IF_ERROR(SetUpWriter(tables->database_));
    HSM_RETURN_IF_ERROR(CreateOrCheck(tables->database_, path));
  } else {
    tables->database_.KeepLogOnClose();  // the writer does that
    HSM_RETURN_IF_ERROR(tables->database_.Exec("PRAGMA cache_size = -4096"));
  }
  HSM_RETURN_IF_ERROR(tables->Prepare(role == Role::kWriter));
  return tables;
}

absl::Status SqliteTables::Prepare(bool writes) {
  struct Text {
    sqlite::Statement* statement;
    const char* sql;
    bool write;
  };
  const Text texts[] = {
      {&begin_, writes ? "BEGIN IMMEDIATE" : "BEGIN", false},
      {&commit_, "COMMIT", false},
      {&meta_, "SELECT value FROM meta WHERE name = ?1", false},
      {&find_, "SELECT value, create_revision, mod_revision FROM record WHERE key = ?1", false},
      {&revisions_, "SELECT create_revision, mod_revision FROM record WHERE key = ?1", false},
      {&scan_,
       "SELECT key, value, create_revision, mod_revision FROM record "
       "WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
       false},
      {&changes_, "SELECT revision, keys FROM change WHERE revision > ?1 ORDER BY revision LIMIT ?2", false},
      {&put_,
       "INSERT INTO record(key, value, create_revision, mod_revision) VALUES(?1, ?2, ?3, ?3) "
       "ON CONFLICT(key) DO UPDATE SET value = ?2, mod_revision = ?3",
       true},
      {&delete_, "DELETE FROM record WHERE key = ?1", true},
      {&add_change_, "INSERT INTO change(revision, keys) VALUES(?1, ?2)", true},
      {&set_meta_, "UPDATE meta SET value = ?2 WHERE name = ?1", true},
      {&forget_, "DELETE FROM change WHERE revision <= ?1", true},
  };
  for (const Text& text : texts) {
    if (text.write && !writes) continue;
    HSM_ASSIGN_OR_RETURN(*text.statement, database_.Prepare(text.sql));
  }
  return absl::OkStatus();
}

absl::Status SqliteTables::Begin() { return begin_.Run(); }
absl::Status SqliteTables::Commit() { return commit_.Run(); }

absl::StatusOr<StoreRevision> SqliteTables::Revision() {
  HSM_ASSIGN_OR_RETURN(bool row, meta_.Reset().Text(1, "revision").Step());
  StoreRevision revision = row ? meta_.IntAt(0) : 0;
  meta_.Reset();
  return revision;
}

absl::StatusOr<StoreRevision> SqliteTables::Floor() {
  HSM_ASSIGN_OR_RETURN(bool row, meta_.Reset().Text(1, "floor").Step());
  StoreRevision floor = row ? meta_.IntAt(0) : 0;
  meta_.Reset();
  return floor;
}

absl::StatusOr<std::optional<StoreRecord>> SqliteTables::Find(const std::string& key) {
  HSM_ASSIGN_OR_RETURN(bool row, find_.Reset().Blob(1, key).Step());
  std::optional<StoreRecord> record;
  if (row) record = StoreRecord{key, std::string(find_.BlobAt(0)), find_.IntAt(1), find_.IntAt(2)};
  find_.Reset();
  return record;
}

absl::StatusOr<bool> SqliteTables::Holds(const StoreGuard& guard) {
  HSM_ASSIGN_OR_RETURN(bool exists, revisions_.Reset().Blob(1, guard.key).Step());
  StoreRevision created = exists ? revisions_.IntAt(0) : 0;
  StoreRevision modified = exists ? revisions_.IntAt(1) : 0;
  revisions_.Reset();
  switch (guard.kind) {
    case StoreGuard::Kind::kAbsent:
      return !exists;
    case StoreGuard::Kind::kModRevisionIs:
      return exists && modified == guard.revision;
    case StoreGuard::Kind::kCreateRevisionIs:
      return exists && created == guard.revision;
  }
  return false;
}

absl::StatusOr<StorePage> SqliteTables::Scan(const std::string& prefix, const std::string& after,
                                             size_t limit) {
  StorePage page;
  HSM_ASSIGN_OR_RETURN(page.revision, Revision());
  std::string end = prefix + '\x7f';  // behind every printable character
  size_t bytes = 0;
  // One lower bound: of two, SQLite looks up the first and walks to the second, row by row.
  const std::string begin = after < prefix ? prefix : after + '\0';
  scan_.Reset().Blob(1, begin).Blob(2, end).Int(3, static_cast<int64_t>(limit) + 1);
  while (true) {
    absl::StatusOr<bool> row = scan_.Step();
    if (!row.ok()) {
      scan_.Reset();
      return row.status();
    }
    if (!*row) break;
    StoreRecord record{std::string(scan_.BlobAt(0)), std::string(scan_.BlobAt(1)), scan_.IntAt(2),
                       scan_.IntAt(3)};
    if (!AppendToPage(std::move(record), limit, bytes, page)) break;
  }
  scan_.Reset();
  return page;
}

absl::StatusOr<StoreChanges> SqliteTables::ChangesAfter(StoreRevision revision) {
  StoreChanges out;
  HSM_ASSIGN_OR_RETURN(out.latest, Revision());
  HSM_ASSIGN_OR_RETURN(out.floor, Floor());
  changes_.Reset().Int(1, revision).Int(2, kChangesPerRead);
  absl::StatusOr<bool> row = changes_.Step();
  for (; row.ok() && *row; row = changes_.Step()) {
    StoreChange change{changes_.IntAt(0), {}};
    std::string_view keys = changes_.BlobAt(1);
    while (!keys.empty()) {
      size_t end = std::min(keys.find('\n'), keys.size());
      change.keys.emplace_back(keys.substr(0, end));
      keys.remove_prefix(std::min(end + 1, keys.size()));
    }
    out.changes.push_back(std::move(change));
  }
  changes_.Reset();
  HSM_RETURN_IF_ERROR(row.status());
  return out;
}

absl::Status SqliteTables::Apply(const std::vector<StoreOp>& ops, StoreRevision revision) {
  std::string keys;
  for (const StoreOp& op : ops) {
    keys += op.key;
    keys += '\n';
    if (op.kind == StoreOp::Kind::kPut) {
      HSM_RETURN_IF_ERROR(put_.Reset().Blob(1, op.key).Blob(2, op.value).Int(3, revision).Run());
    } else {
      HSM_RETURN_IF_ERROR(delete_.Reset().Blob(1, op.key).Run());
    }
  }
  return add_change_.Reset().Int(1, revision).Blob(2, keys).Run();
}

absl::Status SqliteTables::SetRevision(StoreRevision revision) {
  return set_meta_.Reset().Text(1, "revision").Int(2, revision).Run();
}

absl::Status SqliteTables::Forget(StoreRevision up_to) {
  HSM_RETURN_IF_ERROR(forget_.Reset().Int(1, up_to).Run());
  return set_meta_.Reset().Text(1, "floor").Int(2, up_to).Run();
}

absl::Status SqliteTables::CopyInto(const std::string& file) {
  HSM_ASSIGN_OR_RETURN(sqlite::Statement copy, database_.Prepare("VACUUM INTO ?1"));
  return copy.Text(1, file).Run();
}

}  // namespace hsm
