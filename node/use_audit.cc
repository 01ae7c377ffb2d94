#include "node/use_audit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/aead.h"
#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

// File: "QHUA1\n", u16 length and node name, 32 bytes hash of the block before this file, u64 sequence before
// it. Block: u32 'QHUB', u32 count, count entries of kEntryBytes, 32 bytes hash = SHA-256(previous hash ||
// entries).
constexpr std::string_view kFileMagic = "QHUA1\n";
constexpr uint32_t kBlockMagic = 0x51485542;
constexpr size_t kEntryBytes = 8 + 8 + 16 + 16 + 16 + 1 + 1 + 2 + 8;
constexpr size_t kHashBytes = 32;
constexpr size_t kBlockEntriesMax = 64 * 1024;
constexpr size_t kFileBytesCap = 1ull << 30;  // more than any Options::file_bytes_max

void AppendBig(Bytes& out, uint64_t value, int size) {
  for (int shift = (size - 1) * 8; shift >= 0; shift -= 8)
    out.push_back(static_cast<uint8_t>(value >> shift & 255));
}
uint64_t ReadBig(ByteView in, size_t at, int size) {
  uint64_t value = 0;
  for (int i = 0; i < size; ++i) value = value << 8 | in[at + static_cast<size_t>(i)];
  return value;
}

void AppendEntry(Bytes& out, const UseEntry& entry) {
  AppendBig(out, entry.sequence, 8);
  AppendBig(out, static_cast<uint64_t>(entry.time_us), 8);
  out.insert(out.end(), entry.principal.value.begin(), entry.principal.value.end());
  out.insert(out.end(), entry.uid.value.begin(), entry.uid.value.end());
  out.insert(out.end(), entry.version.value.begin(), entry.version.value.end());
  out.push_back(static_cast<uint8_t>(entry.operation));
  out.push_back(static_cast<uint8_t>(entry.algorithm));
  AppendBig(out, static_cast<uint64_t>(entry.outcome), 2);
  AppendBig(out, entry.correlation, 8);
}

UseEntry ReadEntry(ByteView in) {
  UseEntry entry;
  entry.sequence = ReadBig(in, 0, 8);
  entry.time_us = static_cast<int64_t>(ReadBig(in, 8, 8));
  std::copy_n(in.begin() + 16, 16, entry.principal.value.begin());
  std::copy_n(in.begin() + 32, 16, entry.uid.value.begin());
  std::copy_n(in.begin() + 48, 16, entry.version.value.begin());
  entry.operation = static_cast<v1::CryptoOperation>(in[64]);
  entry.algorithm = static_cast<v1::Algorithm>(in[65]);
  entry.outcome = static_cast<v1::Reason>(ReadBig(in, 66, 2));
  entry.correlation = ReadBig(in, 68, 8);
  return entry;
}

Bytes ChainHash(ByteView previous, ByteView entries) {
  Bytes in(previous.begin(), previous.end());
  in.insert(in.end(), entries.begin(), entries.end());
  return Sha256(in);
}

Bytes FileHeader(const std::string& node, const UseAuditHead& head) {
  Bytes out = ToBytes(kFileMagic);
  AppendBig(out, node.size(), 2);
  out.insert(out.end(), node.begin(), node.end());
  out.insert(out.end(), head.hash.begin(), head.hash.end());
  AppendBig(out, head.sequence, 8);
  return out;
}

std::string FileName(uint64_t number) {
  std::string digits = std::to_string(number);
  return "use-" + std::string(10 - std::min<size_t>(digits.size(), 10), '0') + digits + ".log";
}

std::vector<std::string> LogFiles(const std::vector<std::string>& names) {
  std::vector<std::string> out;
  for (const std::string& name : names) {
    if (name.starts_with("use-") && name.ends_with(".log")) out.push_back(name);
  }
  return out;
}

absl::Status Corrupt(const std::string& file, std::string_view what) {
  return Error(v1::REASON_RECORD_CORRUPT, "use audit " + file + ": " + std::string(what));
}

struct Scan {
  UseAuditHead before, head;
  uint64_t blocks = 0;
  size_t whole_bytes = 0;  // up to the end of the last whole block
};

// Walks one file. A tail that is cut short is no error here; a block whose hash is wrong is.
absl::StatusOr<Scan> ScanFile(const std::string& name, ByteView in, std::vector<UseEntry>* entries) {
  size_t at = kFileMagic.size();
  if (in.size() < at + 2 || StringView(in.first(at)) != kFileMagic) return Corrupt(name, "not a use log");
  at += 2 + ReadBig(in, at, 2);
  if (in.size() < at + kHashBytes + 8) return Corrupt(name, "cut off in its header");
  Scan scan;
  scan.before.hash.assign(in.begin() + static_cast<ptrdiff_t>(at),
                          in.begin() + static_cast<ptrdiff_t>(at + kHashBytes));
  scan.before.sequence = ReadBig(in, at + kHashBytes, 8);
  at += kHashBytes + 8;
  scan.head = scan.before;
  scan.whole_bytes = at;
  while (at + 8 <= in.size()) {
    uint64_t count = ReadBig(in, at + 4, 4);
    if (ReadBig(in, at, 4) != kBlockMagic || count == 0 || count > kBlockEntriesMax) {
      return Corrupt(name,
                     "no block where one should begin, after entry " + std::to_string(scan.head.sequence));
    }
    size_t size = count * kEntryBytes;
    if (at + 8 + size + kHashBytes > in.size()) break;
    ByteView body = in.subspan(at + 8, size);
    Bytes hash = ChainHash(scan.head.hash, body);
    if (StringView(hash) != StringView(in.subspan(at + 8 + size, kHashBytes))) {
      return Corrupt(name, "the chain breaks after entry " + std::to_string(scan.head.sequence));
    }
    for (size_t i = 0; i < count; ++i) {
      UseEntry entry = ReadEntry(body.subspan(i * kEntryBytes, kEntryBytes));
      if (entry.sequence != scan.head.sequence + 1) return Corrupt(name, "an entry is missing");
      scan.head.sequence = entry.sequence;
      if (entries != nullptr) entries->push_back(entry);
    }
    scan.head.hash = std::move(hash);
    ++scan.blocks;
    at += 8 + size + kHashBytes;
    scan.whole_bytes = at;
  }
  return scan;
}

}  // namespace

// The file being written. One thread's alone.
class UseAudit::File {
 public:
  explicit File(const Options& options) : options_(options) {}
  ~File() { Close(); }

  // Opens the newest file behind its last whole block.
  absl::StatusOr<UseAuditHead> Resume() {
    UseAuditHead none{Bytes(kHashBytes), 0};
    if (options_.directory.empty()) return none;
    HSM_RETURN_IF_ERROR(MakeDirectories(options_.directory));
    HSM_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDirectory(options_.directory));
    std::vector<std::string> files = LogFiles(names);
    // A file whose header was cut off by a crash holds nothing.
    while (!files.empty()) {
      std::string path = JoinPath(options_.directory, files.back());
      HSM_ASSIGN_OR_RETURN(Bytes content, ReadFile(path, kFileBytesCap));
      number_ = std::stoull(files.back().substr(4));
      absl::StatusOr<Scan> scan = ScanFile(files.back(), content, nullptr);
      if (!scan.ok() && content.size() < kFileMagic.size() + 2 + options_.node.size() + kHashBytes + 8) {
        HSM_RETURN_IF_ERROR(RemoveFile(path));
        files.pop_back();
        continue;
      }
      if (!scan.ok()) return scan.status();
      if (scan->whole_bytes < content.size()) {
        LogWarning("use audit: a block cut short by a crash was removed",
                   {{"file", files.back()}, {"bytes", content.size() - scan->whole_bytes}});
      }
      descriptor_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
      if (descriptor_ < 0 || ftruncate(descriptor_, static_cast<off_t>(scan->whole_bytes)) != 0 ||
          lseek(descriptor_, 0, SEEK_END) < 0) {
        return Failure("resuming");
      }
      bytes_ = good_ = scan->whole_bytes;
      return scan->head;
    }
    return none;
  }

  absl::Status Append(const Bytes& block, const UseAuditHead& before) {
    if (options_.directory.empty()) return absl::OkStatus();
    if (descriptor_ < 0 || bytes_ >= options_.file_bytes_max) HSM_RETURN_IF_ERROR(Next(before));
    if (bytes_ != good_) {  // what an earlier failure left behind
      if (ftruncate(descriptor_, static_cast<off_t>(good_)) != 0 || lseek(descriptor_, 0, SEEK_END) < 0) {
        return Failure("cutting");
      }
      bytes_ = good_;
    }
    HSM_RETURN_IF_ERROR(WriteAll(block));
    if (fdatasync(descriptor_) != 0) {
      // Never sync the same pages twice: cut off what may or may not be there, and go on in a new file.
      absl::Status failure = Failure("syncing");
      if (ftruncate(descriptor_, static_cast<off_t>(good_)) != 0)
        LogWarning("use audit: a bad block stays behind");
      Close();
      return failure;
    }
    good_ = bytes_;
    return absl::OkStatus();
  }

 private:
  absl::Status Next(const UseAuditHead& before) {
    Close();
    std::string path = JoinPath(options_.directory, FileName(number_ + 1));
    descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (descriptor_ < 0) return Failure("making");
    ++number_;
    bytes_ = good_ = 0;
    HSM_RETURN_IF_ERROR(WriteAll(FileHeader(options_.node, before)));
    good_ = bytes_;
    HSM_RETURN_IF_ERROR(SyncDirectory(options_.directory));
    HSM_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDirectory(options_.directory));
    std::vector<std::string> files = LogFiles(names);
    for (size_t i = 0; i + options_.files_max < files.size(); ++i) {
      HSM_RETURN_IF_ERROR(RemoveFile(JoinPath(options_.directory, files[i])));
    }
    return absl::OkStatus();
  }

  absl::Status WriteAll(const Bytes& bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
      ssize_t written = write(descriptor_, bytes.data() + done, bytes.size() - done);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return Failure("writing");
      done += static_cast<size_t>(written);
      bytes_ += static_cast<size_t>(written);
    }
    return absl::OkStatus();
  }

  absl::Status Failure(std::string_view doing) const {
    return Error(v1::REASON_AUDIT_FAILED, std::string(doing) + " the use audit: " + strerror(errno));
  }

  void Close() {
    if (descriptor_ >= 0) close(descriptor_);
    descriptor_ = -1;
  }

  const Options& options_;
  int descriptor_ = -1;
  uint64_t number_ = 0;
  size_t bytes_ = 0;  // in the file
  size_t good_ = 0;   // up to the last whole block
};

absl::StatusOr<std::unique_ptr<UseAudit>> UseAudit::Open(Options options, Clock& clock) {
  std::unique_ptr<UseAudit> audit(new UseAudit(std::move(options), clock));
  audit->file_ = std::make_unique<File>(audit->options_);
  HSM_ASSIGN_OR_RETURN(UseAuditHead head, audit->file_->Resume());
  {
    MutexLock lock(audit->mutex_);
    audit->next_sequence_ = head.sequence + 1;
    audit->head_ = std::move(head);
    audit->ring_.reserve(1024);
  }
  UseAudit* self = audit.get();
  audit->writer_ = Thread("use-audit", [self] { self->WriteLoop(); });
  return audit;
}

UseAudit::UseAudit(Options options, Clock& clock) : options_(std::move(options)), clock_(clock) {}

UseAudit::~UseAudit() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  writer_.Join();
}

absl::Status UseAudit::Append(const UseEntry& entry) {
  MutexLock lock(mutex_);
  if (!failure_.ok()) return failure_;
  if (ring_.size() >= options_.ring_entries_max) {
    return Error(v1::REASON_AUDIT_FAILED, "the use audit does not keep up");
  }
  ring_.push_back(entry);
  ring_.back().sequence = next_sequence_++;
  if (ring_.size() == 1) changed_.NotifyAll();
  return absl::OkStatus();
}

absl::Status UseAudit::Flush() {
  MutexLock lock(mutex_);
  uint64_t want = next_sequence_ - 1;
  while (head_.sequence < want) {
    if (!failure_.ok()) return failure_;
    flush_ = true;
    changed_.NotifyAll();
    changed_.WaitFor(mutex_, options_.batch);
  }
  return absl::OkStatus();
}

UseAuditHead UseAudit::Head() const {
  MutexLock lock(mutex_);
  return head_;
}

void UseAudit::WriteLoop() {
  std::vector<UseEntry> taken;
  while (true) {
    {
      MutexLock lock(mutex_);
      while (ring_.empty() && taken.empty() && !stop_) changed_.Wait(mutex_);
      // Lets a batch gather; an idle log sleeps above.
      absl::Duration batch = options_.batch;
      clock_.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stop_ || flush_; }, batch);
      flush_ = false;
      if (ring_.empty() && taken.empty()) return;  // only when stopped
      if (taken.empty()) {
        taken.swap(ring_);
        ring_.reserve(std::min(taken.size() * 2, options_.ring_entries_max));
      }
    }
    absl::Status status = WriteBlock(taken);
    MutexLock lock(mutex_);
    if (status.ok()) {
      if (!failure_.ok()) LogInfo("the use audit can be written again");
      taken.clear();
    } else if (failure_.ok()) {
      LogError("the use audit cannot be written: keys are not used until it can", {{"error", status}});
    }
    failure_ = status;
    changed_.NotifyAll();
    if (stop_ && (!status.ok() || ring_.empty())) return;
  }
}

absl::Status UseAudit::WriteBlock(std::vector<UseEntry>& entries) {
  UseAuditHead before = Head();
  Bytes block;
  block.reserve(8 + entries.size() * kEntryBytes + kHashBytes);
  AppendBig(block, kBlockMagic, 4);
  AppendBig(block, entries.size(), 4);
  for (const UseEntry& entry : entries) AppendEntry(block, entry);
  Bytes hash = ChainHash(before.hash, ByteView(block).subspan(8));
  block.insert(block.end(), hash.begin(), hash.end());
  HSM_RETURN_IF_ERROR(file_->Append(block, before));
  MutexLock lock(mutex_);
  head_ = {std::move(hash), entries.back().sequence};
  return absl::OkStatus();
}

absl::StatusOr<UseAuditSummary> VerifyUseAudit(const std::string& directory, std::vector<UseEntry>* entries) {
  HSM_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDirectory(directory));
  std::vector<std::string> files = LogFiles(names);
  UseAuditSummary summary;
  for (size_t i = 0; i < files.size(); ++i) {
    HSM_ASSIGN_OR_RETURN(Bytes content, ReadFile(JoinPath(directory, files[i]), kFileBytesCap));
    HSM_ASSIGN_OR_RETURN(Scan scan, ScanFile(files[i], content, entries));
    if (i == 0) {
      summary.first_sequence = scan.before.sequence + 1;
    } else if (scan.before != summary.head) {
      return Corrupt(files[i], "does not follow the file before it");
    }
    summary.torn_bytes = content.size() - scan.whole_bytes;
    summary.head = scan.head;
    summary.blocks += scan.blocks;
    ++summary.files;
  }
  return summary;
}

}  // namespace hsm
