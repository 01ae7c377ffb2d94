#pragma once
// Who used which key: one hash-chained log per node. Callers append to a bounded ring; one thread writes it
// out in blocks, one hash and one fdatasync a block, every Options::batch. What is in the ring when the
// machine dies is lost: that is the declared loss window. If a block cannot be written, every operation fails
// until one can (AUDIT_FAILED): no use without its entry. Format: docs/node.md, "Use audit".
// Thread-safe.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/thread.h"
#include "hsm/v1/crypto.pb.h"

namespace hsm {

struct UseEntry {
  uint64_t sequence = 0;  // given by the log: 1, 2, 3 ... without gaps
  int64_t time_us = 0;    // since 1970 UTC
  PrincipalId principal;
  KeyUid uid;  // zero for RANDOM
  KeyVersion version;
  v1::CryptoOperation operation = v1::CRYPTO_OPERATION_UNSPECIFIED;
  v1::Algorithm algorithm = v1::ALGORITHM_UNSPECIFIED;
  v1::Reason outcome = v1::REASON_UNSPECIFIED;  // unspecified = done
  uint64_t correlation = 0;
  bool operator==(const UseEntry&) const = default;
};

struct UseAuditHead {
  Bytes hash;             // of the newest block on disk; 32 zero bytes before the first
  uint64_t sequence = 0;  // of its last entry
  bool operator==(const UseAuditHead&) const = default;
};

class UseAudit {
 public:
  struct Options {
    std::string directory;  // "" = nothing is written, the chain is kept in memory
    std::string node;
    absl::Duration batch = absl::Milliseconds(100);
    size_t ring_entries_max = 64 * 1024;
    uint64_t file_bytes_max = 64ull << 20;  // then the next file begins
    size_t files_max = 64;                  // then the oldest is removed
  };
  // Goes on after the last whole block of the newest file; cuts off a torn tail. RECORD_CORRUPT when the
  // chain is broken.
  static absl::StatusOr<std::unique_ptr<UseAudit>> Open(Options options, Clock& clock);
  ~UseAudit();  // writes what is left

  // AUDIT_FAILED while blocks cannot be written or the ring is full. About 100 ns.
  absl::Status Append(const UseEntry& entry);
  absl::Status Flush();  // returns when everything appended before is on disk
  UseAuditHead Head() const;

 private:
  class File;
  UseAudit(Options options, Clock& clock);
  void WriteLoop();
  absl::Status WriteBlock(std::vector<UseEntry>& entries);

  const Options options_;
  Clock& clock_;
  std::unique_ptr<File> file_;  // the writer thread's alone
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<UseEntry> ring_ HSM_GUARDED_BY(mutex_);
  UseAuditHead head_ HSM_GUARDED_BY(mutex_);
  uint64_t next_sequence_ HSM_GUARDED_BY(mutex_) = 1;
  absl::Status failure_ HSM_GUARDED_BY(mutex_);
  bool flush_ HSM_GUARDED_BY(mutex_) = false;
  bool stop_ HSM_GUARDED_BY(mutex_) = false;
  Thread writer_;  // last: starts when all else is there
};

struct UseAuditSummary {
  UseAuditHead head;
  uint64_t first_sequence = 0;
  uint64_t blocks = 0;
  uint64_t files = 0;
  uint64_t torn_bytes = 0;  // after the last whole block of the newest file: a crash, not a forgery
};
// Offline: reads every file of `directory` and checks the chain: order, gaps, hashes. RECORD_CORRUPT says
// where it breaks. `entries` may be null.
absl::StatusOr<UseAuditSummary> VerifyUseAudit(const std::string& directory, std::vector<UseEntry>* entries);

}  // namespace hsm
