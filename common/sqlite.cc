#include "common/sqlite.h"

#include <sqlite3.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/error.h"
#include "common/status_macros.h"

namespace hsm::sqlite {
namespace {

constexpr int kCheckpointWaitMs = 250;
constexpr size_t kRewriteBytes = 64 * 1024;  // the system VFS silently writes nothing of 128 KiB and more

absl::Status Failed(int code, std::string_view doing, std::string_view why) {
  v1::Reason reason = (code & 0xff) == SQLITE_FULL ? v1::REASON_STORE_FULL : v1::REASON_STORE_FAILED;
  return Error(reason, std::string(doing) + ": " + std::string(why) + " (" + std::to_string(code) + ")");
}

// What would end the path of a URI is written as its code.
std::string UriPath(const std::string& path) {
  std::string out;
  for (char c : path) {
    if (c == '?' || c == '#' || c == '%') {
      out += '%' + Hex({reinterpret_cast<const uint8_t*>(&c), 1});
    } else {
      out += c;
    }
  }
  return out;
}

// sqlite3_vfs::xOpen wants names that end in two zero bytes: parameters could follow the first.
std::vector<char> VfsName(const std::string& path) {
  std::vector<char> name(path.begin(), path.end());
  name.insert(name.end(), 4, '\0');
  return name;
}

}  // namespace

Statement::Statement(Statement&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

Statement& Statement::operator=(Statement&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

Statement::~Statement() { sqlite3_finalize(handle_); }

Statement& Statement::Reset() {
  sqlite3_reset(handle_);
  return *this;
}

Statement& Statement::Blob(int index, std::string_view value) {
  // A null pointer would bind NULL, which is not an empty blob.
  const char* data = value.data() != nullptr ? value.data() : "";
  sqlite3_bind_blob64(handle_, index, data, value.size(), SQLITE_STATIC);
  return *this;
}

Statement& Statement::Text(int index, std::string_view value) {
  sqlite3_bind_text64(handle_, index, value.data(), value.size(), SQLITE_STATIC, SQLITE_UTF8);
  return *this;
}

Statement& Statement::Int(int index, int64_t value) {
  sqlite3_bind_int64(handle_, index, value);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  int code = sqlite3_step(handle_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  sqlite3* database = sqlite3_db_handle(handle_);
  return Failed(sqlite3_extended_errcode(database), "sqlite step", sqlite3_errmsg(database));
}

absl::Status Statement::Run() {
  absl::StatusOr<bool> row = true;
  while (row.ok() && *row) row = Step();
  sqlite3_reset(handle_);
  return row.status();
}

std::string_view Statement::BlobAt(int column) const {
  const void* data = sqlite3_column_blob(handle_, column);
  return {static_cast<const char*>(data), static_cast<size_t>(sqlite3_column_bytes(handle_, column))};
}

int64_t Statement::IntAt(int column) const { return sqlite3_column_int64(handle_, column); }

int64_t Statement::Steps() const { return sqlite3_stmt_status(handle_, SQLITE_STMTSTATUS_VM_STEP, 0); }

int64_t Statement::FullScanSteps() const {
  return sqlite3_stmt_status(handle_, SQLITE_STMTSTATUS_FULLSCAN_STEP, 0);
}

absl::StatusOr<Database> Database::Open(const std::string& path, const OpenOptions& options) {
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  flags |= options.read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  if (options.create) flags |= SQLITE_OPEN_CREATE;
  std::string name = path;
  if (options.read_only) {
    // Immutable files are read without locks; the URI form is the only way to say so.
    name = "file:" + UriPath(path);
    name += "?immutable=1";
    flags |= SQLITE_OPEN_URI;
  }
  sqlite3* handle = nullptr;
  int code =
      sqlite3_open_v2(name.c_str(), &handle, flags, options.vfs.empty() ? nullptr : options.vfs.c_str());
  Database database(handle);
  if (code != SQLITE_OK) {
    return Failed(code, "sqlite open " + path,
                  handle != nullptr ? sqlite3_errmsg(handle) : sqlite3_errstr(code));
  }
  database.busy_timeout_ms_ = options.busy_timeout_ms;
  sqlite3_busy_timeout(handle, options.busy_timeout_ms);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  return database;
}

Database::Database(Database&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)),
      busy_timeout_ms_(other.busy_timeout_ms_),
      log_pages_(std::move(other.log_pages_)) {}

Database& Database::operator=(Database&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(busy_timeout_ms_, other.busy_timeout_ms_);
  std::swap(log_pages_, other.log_pages_);
  return *this;
}

Database::~Database() { sqlite3_close_v2(handle_); }

absl::Status Database::Failure(std::string_view doing) const {
  return Failed(sqlite3_extended_errcode(handle_), doing, sqlite3_errmsg(handle_));
}

absl::StatusOr<Statement> Database::Prepare(std::string_view sql) {
  Statement statement;
  int code = sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                                &statement.handle_, nullptr);
  if (code != SQLITE_OK) return Failure("sqlite prepare");
  return statement;
}

absl::Status Database::Exec(const std::string& sql) {
  if (sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK) return absl::OkStatus();
  return Failure("sqlite " + sql.substr(0, 40));
}

absl::StatusOr<int64_t> Database::QueryInt(std::string_view sql) {
  HSM_ASSIGN_OR_RETURN(Statement statement, Prepare(sql));
  HSM_ASSIGN_OR_RETURN(bool row, statement.Step());
  return row ? statement.IntAt(0) : 0;
}

absl::StatusOr<std::string> Database::QueryText(std::string_view sql) {
  HSM_ASSIGN_OR_RETURN(Statement statement, Prepare(sql));
  HSM_ASSIGN_OR_RETURN(bool row, statement.Step());
  return row ? std::string(statement.BlobAt(0)) : std::string();
}

bool Database::InTransaction() const { return sqlite3_get_autocommit(handle_) == 0; }

void Database::RollbackIfOpen() {
  if (InTransaction()) sqlite3_exec(handle_, "ROLLBACK", nullptr, nullptr, nullptr);
}

void Database::CheckpointByHand() {
  auto count = [](void* pages, sqlite3*, const char*, int in_log) {
    *static_cast<int*>(pages) = in_log;
    return SQLITE_OK;
  };
  sqlite3_wal_hook(handle_, count, log_pages_.get());
}

absl::Status Database::Checkpoint(bool truncate) {
  int mode = truncate ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;
  sqlite3_busy_timeout(handle_, kCheckpointWaitMs);
  int code = sqlite3_wal_checkpoint_v2(handle_, nullptr, mode, nullptr, nullptr);
  sqlite3_busy_timeout(handle_, busy_timeout_ms_);
  if (code != SQLITE_OK && (code & 0xff) != SQLITE_BUSY) return Failure("sqlite checkpoint");
  if (truncate && code == SQLITE_OK) *log_pages_ = 0;
  return absl::OkStatus();
}

void Database::KeepLogOnClose() { sqlite3_db_config(handle_, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr); }

absl::Status RewriteLog(const std::string& path, const std::string& vfs_name) {
  sqlite3_vfs* vfs = sqlite3_vfs_find(vfs_name.empty() ? nullptr : vfs_name.c_str());
  if (vfs == nullptr) return Error(v1::REASON_STORE_FAILED, "no such vfs: " + vfs_name);
  std::vector<char> name = VfsName(path + "-wal");
  int exists = 0;
  int code = vfs->xAccess(vfs, name.data(), SQLITE_ACCESS_EXISTS, &exists);
  if (code != SQLITE_OK) return Failed(code, "look for the log", sqlite3_errstr(code));
  if (exists == 0) return absl::OkStatus();

  std::vector<uint64_t> space(static_cast<size_t>(vfs->szOsFile) / sizeof(uint64_t) + 1);
  sqlite3_file* file = reinterpret_cast<sqlite3_file*>(space.data());
  code = vfs->xOpen(vfs, name.data(), file, SQLITE_OPEN_READWRITE | SQLITE_OPEN_WAL, nullptr);
  if (code != SQLITE_OK) return Failed(code, "open the log", sqlite3_errstr(code));
  sqlite3_int64 size = 0;
  code = file->pMethods->xFileSize(file, &size);
  std::vector<char> piece(kRewriteBytes);
  for (sqlite3_int64 at = 0; code == SQLITE_OK && at < size; at += static_cast<sqlite3_int64>(piece.size())) {
    int length =
        static_cast<int>(std::min<sqlite3_int64>(size - at, static_cast<sqlite3_int64>(piece.size())));
    code = file->pMethods->xRead(file, piece.data(), length, at);
    if (code == SQLITE_OK) code = file->pMethods->xWrite(file, piece.data(), length, at);
  }
  if (code == SQLITE_OK) code = file->pMethods->xSync(file, SQLITE_SYNC_FULL);
  file->pMethods->xClose(file);
  return code == SQLITE_OK ? absl::OkStatus() : Failed(code, "rewrite the log", sqlite3_errstr(code));
}

void RemoveDatabase(const std::string& path, const std::string& vfs_name) {
  sqlite3_vfs* vfs = sqlite3_vfs_find(vfs_name.empty() ? nullptr : vfs_name.c_str());
  if (vfs == nullptr) return;
  for (const char* suffix : {"-wal", "-shm", "-journal", ""}) {
    vfs->xDelete(vfs, VfsName(path + suffix).data(), 0);  // most do not exist
  }
}

std::string_view Version() { return sqlite3_libversion(); }

}  // namespace hsm::sqlite
