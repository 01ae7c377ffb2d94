#pragma once
// Keeps the partitions of a backup at work: a few Export calls under way to each, results in the order they
// were asked for. Its threads are its own, so that a long export never holds up the lanes of management
// calls. Add and Take are called by one thread.
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "coordinator/core.h"

namespace hsm {

struct ExportedBatch {
  std::vector<rpc::BackupKey> keys;
  std::string receipt;
  std::string hash;  // of the keys, as the receipt covers them
};

class ExportPool {
 public:
  // `pause` says how long a worker rests after a call that took so long (thread-safe); may be null.
  ExportPool(Core& core, std::string backup_id, const std::vector<size_t>& partitions,
             uint32_t calls_per_partition, std::function<absl::Duration(absl::Duration)> pause);
  ~ExportPool();  // drops what was not taken; returns when the calls under way have ended

  void Add(std::vector<rpc::KeyRecords> records);
  // The oldest batch that was added and not taken. Waits for it. At least one must be open.
  absl::StatusOr<ExportedBatch> Take();
  size_t open() const { return batches_.size(); }
  size_t workers() const { return workers_.size(); }

 private:
  struct Batch {
    std::vector<rpc::KeyRecords> records;
    bool done = false;
    absl::StatusOr<ExportedBatch> result = ExportedBatch{};
  };
  void Work(size_t partition);
  absl::StatusOr<ExportedBatch> Export(size_t partition, const std::vector<rpc::KeyRecords>& records);
  absl::StatusOr<rpc::ExportResponse> ExportElsewhere(size_t partition, const rpc::ExportRequest& request,
                                                      absl::StatusOr<rpc::ExportResponse> answer);
  void Rest(absl::Duration length);

  Core& core_;
  const std::string backup_id_;
  const std::function<absl::Duration(absl::Duration)> pause_;
  std::deque<std::shared_ptr<Batch>> batches_;  // the owner's view

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  std::deque<std::shared_ptr<Batch>> waiting_ HSM_GUARDED_BY(mutex_);
  std::vector<Thread> workers_;
};

// The hash of exported keys that a receipt covers: SHA-256 over each key's bytes with their length before it.
std::string ExportedHash(const std::vector<rpc::BackupKey>& keys);

}  // namespace hsm
