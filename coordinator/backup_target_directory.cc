#include "coordinator/backup_target_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr size_t kFolderNameBytesMax = 160;
constexpr size_t kEntriesMax = 1'000'000;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::Status TargetError(std::string_view what, const std::string& path, int error) {
  const char* why = "";
  if (error == ENOSPC || error == EDQUOT) why = " (the target is full)";
  if (error == EACCES || error == EPERM || error == EROFS)
    why = " (the coordinator may not write or read there)";
  return Error(v1::REASON_TARGET_FAILED,
               fmt::format("cannot {} {}: {}{}", what, path, std::strerror(error), why));
}

bool IsObjectName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-';
  });
}

absl::Status CheckObjectName(const std::string& object) {
  if (IsObjectName(object)) return absl::OkStatus();
  return Error(v1::REASON_BACKUP_INVALID, "an object's name has characters it cannot have");
}

absl::StatusOr<Descriptor> OpenDirectory(const std::string& path) {
  Descriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.open()) return directory;
  if (errno == ENOENT) return Error(v1::REASON_NOT_FOUND, fmt::format("there is no directory {}", path));
  return TargetError("open", path, errno);
}

// The folder itself may not be a symbolic link; the target's own path may contain some.
absl::StatusOr<Descriptor> OpenFolder(const std::string& path, const std::string& folder) {
  HSM_RETURN_IF_ERROR(CheckFolderName(folder));
  HSM_ASSIGN_OR_RETURN(Descriptor directory, OpenDirectory(path));
  Descriptor opened(openat(directory.get(), folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (opened.open()) return opened;
  if (errno == ENOENT)
    return Error(v1::REASON_NOT_FOUND, fmt::format("there is no backup folder {}", folder));
  if (errno == ELOOP || errno == ENOTDIR) {
    return Error(v1::REASON_BACKUP_INVALID, fmt::format("{} is not a plain folder", folder));
  }
  return TargetError("open", path + "/" + folder, errno);
}

absl::StatusOr<std::vector<std::string>> NamesIn(Descriptor directory, const std::string& path) {
  DIR* stream = fdopendir(directory.get());
  if (stream == nullptr) return TargetError("list", path, errno);
  directory.Release();  // owned by the stream now
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    if (names.size() < kEntriesMax) names.emplace_back(entry->d_name);
    errno = 0;
  }
  const int error = errno;
  closedir(stream);
  if (error != 0) return TargetError("list", path, error);
  std::sort(names.begin(), names.end());
  return names;
}

// mkdir -p, each new level synced into its parent.
absl::Status MakePath(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string level = path.substr(0, end);
    if (mkdir(level.c_str(), 0700) == 0) {
      const size_t cut = level.rfind('/');
      Descriptor parent(
          open(cut == 0 ? "/" : level.substr(0, cut).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!parent.open() || fsync(parent.get()) != 0) return TargetError("sync", level, errno);
    } else if (errno != EEXIST) {
      return TargetError("make", level, errno);
    }
    if (end == std::string::npos) return absl::OkStatus();
  }
}

absl::Status WriteAll(int fd, ByteView bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return TargetError("write", path, errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckFolderName(const std::string& folder) {
  const bool plain = !folder.empty() && folder.size() <= kFolderNameBytesMax && folder.front() != '-' &&
                     std::all_of(folder.begin(), folder.end(),
                                 [](unsigned char c) { return c < 128 && (std::isalnum(c) || c == '-'); });
  if (plain) return absl::OkStatus();
  return Error(v1::REASON_INVALID_ARGUMENT, "a backup folder is a bare name of letters, digits and '-'");
}

absl::StatusOr<std::unique_ptr<BackupStorage>> OpenBackupTarget(const v1::BackupTarget& target) {
  std::string path = target.directory();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.empty() || path.front() != '/' || path == "/" || path.size() > 4000 ||
      path.find('\0') != std::string::npos) {
    return Error(v1::REASON_INVALID_ARGUMENT,
                 "the backup target must be an absolute path on the coordinator's host");
  }
  if ((path + "/").find("/../") != std::string::npos) {
    return Error(v1::REASON_INVALID_ARGUMENT, "the backup target's path may not contain '..'");
  }
  return std::make_unique<DirectoryBackupTarget>(path);
}

absl::StatusOr<std::vector<std::string>> DirectoryBackupTarget::ListFolders() {
  HSM_ASSIGN_OR_RETURN(Descriptor directory, OpenDirectory(path_));
  HSM_ASSIGN_OR_RETURN(std::vector<std::string> names, NamesIn(std::move(directory), path_));
  std::erase_if(names, [](const std::string& name) {
    return !CheckFolderName(name).ok() || !name.starts_with("mhsm-");
  });
  return names;
}

absl::Status DirectoryBackupTarget::MakeFolder(const std::string& folder) {
  HSM_RETURN_IF_ERROR(CheckFolderName(folder));
  HSM_RETURN_IF_ERROR(MakePath(path_));
  HSM_ASSIGN_OR_RETURN(Descriptor directory, OpenDirectory(path_));
  if (mkdirat(directory.get(), folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return TargetError("make", path_ + "/" + folder, errno);
  }
  if (fsync(directory.get()) != 0) return TargetError("sync", path_, errno);
  return OpenFolder(path_, folder).status();
}

absl::StatusOr<std::vector<std::string>> DirectoryBackupTarget::ListObjects(const std::string& folder) {
  HSM_ASSIGN_OR_RETURN(Descriptor opened, OpenFolder(path_, folder));
  HSM_ASSIGN_OR_RETURN(std::vector<std::string> names, NamesIn(std::move(opened), path_ + "/" + folder));
  std::erase_if(names, [](const std::string& name) { return !IsObjectName(name); });
  return names;
}

absl::Status DirectoryBackupTarget::Create(const std::string& folder, const std::string& object,
                                           ByteView bytes) {
  HSM_RETURN_IF_ERROR(CheckObjectName(object));
  HSM_ASSIGN_OR_RETURN(Descriptor opened, OpenFolder(path_, folder));
  const std::string path = fmt::format("{}/{}/{}", path_, folder, object);
  // The dot keeps an unfinished file out of every listing; a later attempt at the same object may replace it.
  const std::string temporary = "." + object + ".tmp";
  if (unlinkat(opened.get(), temporary.c_str(), 0) != 0 && errno != ENOENT)
    return TargetError("replace", path, errno);
  Descriptor file(
      openat(opened.get(), temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.open()) return TargetError("create", path, errno);
  absl::Status status = WriteAll(file.get(), bytes, path);
  if (status.ok() && fsync(file.get()) != 0) status = TargetError("sync", path, errno);
  if (status.ok() && linkat(opened.get(), temporary.c_str(), opened.get(), object.c_str(), 0) != 0) {
    status = errno == EEXIST ? Error(v1::REASON_CONFLICT, fmt::format("{} exists already", path))
                             : TargetError("create", path, errno);
  }
  unlinkat(opened.get(), temporary.c_str(), 0);
  if (status.ok() && fsync(opened.get()) != 0) status = TargetError("sync", path, errno);
  return status;
}

absl::StatusOr<Bytes> DirectoryBackupTarget::Read(const std::string& folder, const std::string& object,
                                                  size_t bytes_max) {
  HSM_RETURN_IF_ERROR(CheckObjectName(object));
  HSM_ASSIGN_OR_RETURN(Descriptor opened, OpenFolder(path_, folder));
  const std::string path = fmt::format("{}/{}/{}", path_, folder, object);
  // Not blocking: a FIFO in the place of an object must not hang the coordinator.
  Descriptor file(openat(opened.get(), object.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file.open()) {
    if (errno == ENOENT) return Error(v1::REASON_NOT_FOUND, fmt::format("there is no {}", path));
    if (errno == ELOOP) return Error(v1::REASON_BACKUP_INVALID, fmt::format("{} is a symbolic link", path));
    return TargetError("open", path, errno);
  }
  struct stat info;
  if (fstat(file.get(), &info) != 0) return TargetError("read", path, errno);
  if (!S_ISREG(info.st_mode))
    return Error(v1::REASON_BACKUP_INVALID, fmt::format("{} is not a plain file", path));
  if (info.st_size < 0 || static_cast<uint64_t>(info.st_size) > bytes_max) {
    return Error(v1::REASON_BACKUP_INVALID,
                 fmt::format("{} has {} bytes, at most {} are possible", path, info.st_size, bytes_max));
  }
  Bytes bytes(static_cast<size_t>(info.st_size));
  size_t got = 0;
  while (got < bytes.size()) {
    const ssize_t part = read(file.get(), bytes.data() + got, bytes.size() - got);
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return TargetError("read", path, errno);
    if (part == 0) break;
    got += static_cast<size_t>(part);
  }
  bytes.resize(got);
  return bytes;
}

}  // namespace hsm
