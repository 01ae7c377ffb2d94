#include "store/sqlite_disk.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "common/error.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

absl::Status Failed(const std::string& doing) {
  v1::Reason reason = errno == ENOSPC ? v1::REASON_STORE_FULL : v1::REASON_STORE_FAILED;
  return Error(reason, "store: " + doing + ": " + std::strerror(errno));
}

std::string DirectoryOf(const std::string& path) {
  std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

absl::Status CreateDatabaseFile(const std::string& path) {
  // SQLite would make it readable for others; its log and shared memory take the mode from this file.
  int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0 && errno == EEXIST) {
    return chmod(path.c_str(), 0600) == 0 ? absl::OkStatus() : Failed("set the mode of " + path);
  }
  if (file < 0) return Failed("create " + path);
  close(file);
  return SyncDirectory(DirectoryOf(path));
}

absl::Status RemoveOldSnapshots(const std::string& path) {
  std::string prefix = std::filesystem::path(path).filename().string() + ".snapshot-";
  HSM_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDirectory(DirectoryOf(path)));
  for (const std::string& name : names) {
    if (name.starts_with(prefix)) HSM_RETURN_IF_ERROR(RemoveFile(JoinPath(DirectoryOf(path), name)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteDisk>> SqliteDisk::Open(const std::string& path, uint64_t reserve_bytes,
                                                             uint64_t free_bytes_min) {
  // A file of its own: closing any descriptor of the database would drop SQLite's locks on it.
  int lock = open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return Failed("open " + path + ".lock");
  auto disk = std::unique_ptr<SqliteDisk>(new SqliteDisk(path, reserve_bytes, free_bytes_min, lock));
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return Error(v1::REASON_LOCKED, "store: " + path + " is open elsewhere");
    return Failed("lock " + path);
  }
  HSM_RETURN_IF_ERROR(CreateDatabaseFile(path));
  HSM_RETURN_IF_ERROR(RemoveOldSnapshots(path));
  disk->reserve_ = FileExists(path + ".reserve");
  disk->ShortOfSpace();
  return disk;
}

SqliteDisk::~SqliteDisk() { close(lock_); }

uint64_t SqliteDisk::FreeBytes() const {
  struct statvfs space;
  if (statvfs(DirectoryOf(path_).c_str(), &space) != 0) return 0;
  return static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
}

bool SqliteDisk::ShortOfSpace() {
  uint64_t free = FreeBytes();
  if (!reserve_ && reserve_bytes_ > 0 && free >= reserve_bytes_ + free_bytes_min_) MakeReserve();
  return free < free_bytes_min_ || (reserve_bytes_ > 0 && !reserve_);
}

void SqliteDisk::MakeReserve() {
  std::string name = path_ + ".reserve";
  int file = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return;  // the next look tries again; until then the store is short of space
  reserve_ = posix_fallocate(file, 0, static_cast<off_t>(reserve_bytes_)) == 0;
  close(file);
  if (!reserve_) unlink(name.c_str());
}

bool SqliteDisk::ReleaseReserve() {
  if (!reserve_) return false;
  reserve_ = false;
  return unlink((path_ + ".reserve").c_str()) == 0;
}

absl::StatusOr<std::string> SqliteDisk::NewSnapshotFile() {
  std::string name = path_ + ".snapshot-" + std::to_string(++snapshots_);
  int file = open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return Failed("create " + name);
  close(file);
  return name;
}

}  // namespace hsm
