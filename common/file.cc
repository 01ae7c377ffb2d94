#include "common/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  int get() const { return value_; }
  int Release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

absl::Status FileError(std::string_view what, const std::string& path, int error) {
  v1::Reason reason = v1::REASON_STORE_FAILED;
  if (error == ENOENT || error == ENOTDIR) reason = v1::REASON_NOT_FOUND;
  if (error == EEXIST) reason = v1::REASON_CONFLICT;
  if (error == ENOSPC || error == EDQUOT) reason = v1::REASON_STORE_FULL;
  return Error(reason, "cannot " + std::string(what) + " " + path + ": " + std::strerror(error));
}

std::string DirectoryOf(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status WriteAll(int descriptor, ByteView content, const std::string& path) {
  while (!content.empty()) {
    ssize_t wrote = write(descriptor, content.data(), content.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return FileError("write", path, errno);
    content = content.subspan(static_cast<size_t>(wrote));
  }
  if (!HSM_MUTANT("file-no-fsync") && fsync(descriptor) != 0) return FileError("sync", path, errno);
  return absl::OkStatus();
}

// A synced file under a name of its own beside `path`, so that one rename or link publishes it.
absl::StatusOr<std::string> WriteBeside(const std::string& path, ByteView content, mode_t mode) {
  std::string name = path + ".XXXXXX";
  Descriptor file(mkostemp(name.data(), O_CLOEXEC));
  if (file.get() < 0) return FileError("create a file beside", path, errno);
  absl::Status status = fchmod(file.get(), mode) == 0 ? WriteAll(file.get(), content, name)
                                                      : FileError("set the mode of", name, errno);
  if (status.ok() && close(file.Release()) != 0) status = FileError("close", name, errno);
  if (!status.ok()) {
    unlink(name.c_str());
    return status;
  }
  return name;
}

absl::StatusOr<Bytes> ReadDescriptor(int descriptor, const std::string& path, size_t bytes_max) {
  Bytes content;
  while (true) {
    size_t have = content.size();
    size_t step = std::min<size_t>(64 * 1024, bytes_max + 1 - have);
    content.resize(have + step);
    ssize_t got = read(descriptor, content.data() + have, step);
    if (got < 0 && errno == EINTR)
      got = 0;
    else if (got < 0)
      return FileError("read", path, errno);
    else if (got == 0) {
      content.resize(have);
      return content;
    }
    content.resize(have + static_cast<size_t>(got));
    if (content.size() > bytes_max) {
      return Error(v1::REASON_LIMIT_EXCEEDED,
                   path + " is larger than " + std::to_string(bytes_max) + " bytes");
    }
  }
}

}  // namespace

absl::StatusOr<Bytes> ReadFile(const std::string& path, size_t bytes_max) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return FileError("open", path, errno);
  return ReadDescriptor(file.get(), path, bytes_max);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max) {
  HSM_ASSIGN_OR_RETURN(Bytes content, ReadFile(path, bytes_max));
  return ToString(content);
}

absl::StatusOr<SecretBytes> ReadSecretFile(const std::string& path, size_t bytes_max) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return FileError("open", path, errno);
  // A fixed buffer: growing would leave copies of the secret in freed memory.
  SecretBytes buffer(bytes_max + 1);
  size_t size = 0;
  while (size < buffer.size()) {
    ssize_t got = read(file.get(), buffer.ExposeForWriting().data() + size, buffer.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError("read", path, errno);
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  if (size > bytes_max) return Error(v1::REASON_LIMIT_EXCEEDED, path + " is larger than a secret may be");
  ByteView content = buffer.Expose().first(size);
  while (!content.empty() && (content.back() == '\n' || content.back() == '\r')) {
    content = content.first(content.size() - 1);
  }
  if (content.empty()) return Error(v1::REASON_INVALID_ARGUMENT, path + " is empty");
  SecretBytes secret(content.size());
  std::copy(content.begin(), content.end(), secret.ExposeForWriting().begin());
  return secret;
}

absl::Status WriteFileAtomic(const std::string& path, ByteView content, mode_t mode) {
  HSM_ASSIGN_OR_RETURN(std::string written, WriteBeside(path, content, mode));
  if (rename(written.c_str(), path.c_str()) != 0) {
    absl::Status status = FileError("replace", path, errno);
    unlink(written.c_str());
    return status;
  }
  return SyncDirectory(DirectoryOf(path));
}

absl::Status CreateFileDurable(const std::string& path, ByteView content, mode_t mode) {
  HSM_ASSIGN_OR_RETURN(std::string written, WriteBeside(path, content, mode));
  absl::Status status = absl::OkStatus();
  if (link(written.c_str(), path.c_str()) != 0) status = FileError("create", path, errno);
  unlink(written.c_str());
  HSM_RETURN_IF_ERROR(status);
  return SyncDirectory(DirectoryOf(path));
}

absl::Status RemoveFile(const std::string& path) {
  if (unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return FileError("remove", path, errno);
  }
  return SyncDirectory(DirectoryOf(path));
}

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), mode) == 0) {
      HSM_RETURN_IF_ERROR(SyncDirectory(DirectoryOf(part)));
    } else if (errno != EEXIST) {
      return FileError("make directory", part, errno);
    }
    if (end == std::string::npos) break;
  }
  struct stat found;
  if (stat(path.c_str(), &found) != 0) return FileError("look at", path, errno);
  if (!S_ISDIR(found.st_mode)) return FileError("use as a directory", path, ENOTDIR);
  return absl::OkStatus();
}

absl::Status SyncDirectory(const std::string& path) {
  Descriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return FileError("open", path, errno);
  if (fsync(directory.get()) != 0) return FileError("sync", path, errno);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), &closedir);
  if (directory == nullptr) return FileError("list", path, errno);
  std::vector<std::string> names;
  errno = 0;
  while (dirent* entry = readdir(directory.get())) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  if (errno != 0) return FileError("list", path, errno);
  std::sort(names.begin(), names.end());
  return names;
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string JoinPath(std::string_view directory, std::string_view name) {
  if (name.starts_with('/') || directory.empty()) return std::string(name);
  return std::string(directory) + (directory.ends_with('/') ? "" : "/") + std::string(name);
}

absl::StatusOr<DirectoryLock> DirectoryLock::Take(const std::string& directory) {
  std::string path = JoinPath(directory, "lock");
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (file.get() < 0) return FileError("open", path, errno);
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return Error(v1::REASON_LOCKED, directory + " is used by another process");
    return FileError("lock", path, errno);
  }
  return DirectoryLock(file.Release());
}

DirectoryLock::DirectoryLock(DirectoryLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ >= 0) close(descriptor_);  // lets go of the lock
}

}  // namespace hsm
