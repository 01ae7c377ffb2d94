#include "pkcs11/softhsm_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/status/statusor.h"
#include "common/error.h"
#include "common/status_macros.h"

namespace hsm::pkcs11 {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOriginal = "token.object";
constexpr const char* kCopy = "token.object.kept";

std::string ReadWhole(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

absl::Status SyncPath(const std::string& path, int flags) {
  int fd = open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0)
    return errno == ENOENT ? absl::OkStatus() : Error(v1::REASON_TOKEN_FAILED, "cannot open " + path);
  int result = fsync(fd);
  close(fd);
  return result == 0 ? absl::OkStatus() : Error(v1::REASON_TOKEN_FAILED, "cannot sync " + path);
}

// Write beside, sync, rename, sync the directory: a reader sees the old file or the new one.
absl::Status ReplaceFile(const fs::path& path, const std::string& bytes) {
  std::string temporary = path.string() + ".new";
  int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return Error(v1::REASON_TOKEN_FAILED, "cannot write " + temporary);
  bool good = write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) && fsync(fd) == 0;
  good = close(fd) == 0 && good;
  good = good && rename(temporary.c_str(), path.c_str()) == 0;
  if (!good) return Error(v1::REASON_TOKEN_FAILED, "cannot write " + path.string());
  return SyncPath(path.parent_path().string(), O_RDONLY | O_DIRECTORY);
}

uint64_t BigEndian(const std::string& bytes, size_t at) {
  uint64_t number = 0;
  for (size_t i = 0; i < 8; ++i) number = number << 8 | static_cast<uint8_t>(bytes[at + i]);
  return number;
}

std::string TokenDirectoryIn(const fs::path& configuration) {
  std::ifstream in(configuration);
  std::string line;
  while (std::getline(in, line)) {
    size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    auto trimmed = [](std::string text) {
      size_t first = text.find_first_not_of(" \t\r");
      size_t last = text.find_last_not_of(" \t\r");
      return first == std::string::npos ? std::string() : text.substr(first, last - first + 1);
    };
    if (trimmed(line.substr(0, equals)) != "directories.tokendir") continue;
    std::string directory = trimmed(line.substr(equals + 1));
    while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
    return directory;
  }
  return "";
}

}  // namespace

bool IsCompleteTokenObject(const std::string& bytes) {
  // {u64 type, u64 kind, value}; kind 1 = one byte, 2 = u64, 3 = u64 length and bytes. Tokens have no other
  // kinds.
  constexpr uint64_t kSoPin = 0x8000534c;  // SoftHSM's vendor attributes
  constexpr uint64_t kUserPin = 0x8000534d;
  size_t at = 8;
  bool so_pin = false;
  bool user_pin = false;
  while (at < bytes.size()) {
    if (bytes.size() - at < 16) return false;
    uint64_t type = BigEndian(bytes, at);
    uint64_t kind = BigEndian(bytes, at + 8);
    at += 16;
    uint64_t value = 0;
    if (kind == 1) {
      value = 1;
    } else if (kind == 2) {
      value = 8;
    } else if (kind == 3) {
      if (bytes.size() - at < 8) return false;
      value = BigEndian(bytes, at);
      at += 8;
      so_pin = so_pin || (type == kSoPin && value > 0);
      user_pin = user_pin || (type == kUserPin && value > 0);
    } else {
      return false;
    }
    if (bytes.size() - at < value) return false;
    at += value;
  }
  return so_pin && user_pin;
}

SoftHsmFiles SoftHsmFiles::FromEnvironment() {
  const char* configuration = std::getenv("SOFTHSM2_CONF");
  return SoftHsmFiles(configuration != nullptr ? TokenDirectoryIn(configuration) : "");
}

std::vector<std::string> SoftHsmFiles::TokenDirectories() const {
  std::vector<std::string> found;
  std::error_code error;
  if (!active()) return found;
  for (const auto& entry : fs::directory_iterator(directory_, error))
    if (entry.is_directory(error)) found.push_back(entry.path().string());
  return found;
}

absl::StatusOr<int> SoftHsmFiles::RestoreTruncated() const {
  int restored = 0;
  for (const std::string& token : TokenDirectories()) {
    fs::path original = fs::path(token) / kOriginal;
    fs::path copy = fs::path(token) / kCopy;
    std::error_code error;
    if (!fs::exists(copy, error) || IsCompleteTokenObject(ReadWhole(original))) continue;
    std::string kept = ReadWhole(copy);
    if (!IsCompleteTokenObject(kept)) continue;
    HSM_RETURN_IF_ERROR(ReplaceFile(original, kept));
    ++restored;
  }
  return restored;
}

absl::Status SoftHsmFiles::KeepCopies() const {
  for (const std::string& token : TokenDirectories()) {
    std::string original = ReadWhole(fs::path(token) / kOriginal);
    fs::path copy = fs::path(token) / kCopy;
    if (!IsCompleteTokenObject(original) || ReadWhole(copy) == original) continue;
    HSM_RETURN_IF_ERROR(ReplaceFile(copy, original));
  }
  return absl::OkStatus();
}

absl::Status SoftHsmFiles::Sync() const {
  for (const std::string& token : TokenDirectories()) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(token, error))
      if (entry.is_regular_file(error)) HSM_RETURN_IF_ERROR(SyncPath(entry.path().string(), O_RDONLY));
    HSM_RETURN_IF_ERROR(SyncPath(token, O_RDONLY | O_DIRECTORY));
  }
  if (active()) return SyncPath(directory_, O_RDONLY | O_DIRECTORY);
  return absl::OkStatus();
}

}  // namespace hsm::pkcs11
