#include "coordinator/export_pool.h"

#include <algorithm>

#include "common/aead.h"
#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr absl::Duration kExportTimeout = absl::Seconds(60);
constexpr absl::Duration kRestMax = absl::Seconds(5);
constexpr int kBusyTriesMax = 60;

// What came back must be what was asked for: the same heads, the same versions, in the same order.
absl::Status CheckAnswer(const std::vector<rpc::KeyRecords>& asked, const rpc::ExportResponse& answer) {
  const absl::Status wrong =
      Error(v1::REASON_RECORD_CORRUPT, "a partition exported other keys than it was asked for");
  if (static_cast<size_t>(answer.keys_size()) != asked.size()) return wrong;
  for (size_t i = 0; i < asked.size(); ++i) {
    const rpc::BackupKey& key = answer.keys(static_cast<int>(i));
    if (key.head().body() != asked[i].head().body() || key.versions_size() != asked[i].versions_size())
      return wrong;
    for (int v = 0; v < key.versions_size(); ++v) {
      HSM_ASSIGN_OR_RETURN(const VersionRecord got, DecodeVersion(key.versions(v).record()));
      HSM_ASSIGN_OR_RETURN(const VersionRecord sent, DecodeVersion(asked[i].versions(v)));
      if (got.uid != sent.uid || got.version != sent.version || key.versions(v).wrapped().empty())
        return wrong;
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string ExportedHash(const std::vector<rpc::BackupKey>& keys) {
  Bytes text;
  for (const rpc::BackupKey& key : keys) {
    const std::string bytes = key.SerializeAsString();
    for (int shift = 24; shift >= 0; shift -= 8) text.push_back(static_cast<uint8_t>(bytes.size() >> shift));
    text.insert(text.end(), bytes.begin(), bytes.end());
  }
  return ToString(Sha256(text));
}

ExportPool::ExportPool(Core& core, std::string backup_id, const std::vector<size_t>& partitions,
                       uint32_t calls_per_partition, std::function<absl::Duration(absl::Duration)> pause)
    : core_(core), backup_id_(std::move(backup_id)), pause_(std::move(pause)) {
  for (size_t partition : partitions) {
    for (uint32_t call = 0; call < calls_per_partition; ++call) {
      workers_.emplace_back("export", [this, partition] { Work(partition); });
    }
  }
}

ExportPool::~ExportPool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  for (Thread& worker : workers_) worker.Join();
}

void ExportPool::Add(std::vector<rpc::KeyRecords> records) {
  auto batch = std::make_shared<Batch>();
  batch->records = std::move(records);
  batches_.push_back(batch);
  MutexLock lock(mutex_);
  waiting_.push_back(std::move(batch));
  changed_.NotifyAll();
}

absl::StatusOr<ExportedBatch> ExportPool::Take() {
  std::shared_ptr<Batch> batch = batches_.front();
  batches_.pop_front();
  MutexLock lock(mutex_);
  while (!batch->done) changed_.Wait(mutex_);
  return std::move(batch->result);
}

void ExportPool::Work(size_t partition) {
  for (;;) {
    std::shared_ptr<Batch> batch;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && waiting_.empty()) changed_.Wait(mutex_);
      if (stopping_) return;
      batch = std::move(waiting_.front());
      waiting_.pop_front();
    }
    const absl::Duration began = core_.clock.Uptime();
    absl::StatusOr<ExportedBatch> result = Export(partition, batch->records);
    const bool ok = result.ok();
    {
      MutexLock lock(mutex_);
      batch->result = std::move(result);
      batch->done = true;
      changed_.NotifyAll();
    }
    if (ok && pause_ != nullptr) Rest(pause_(core_.clock.Uptime() - began));
  }
}

absl::StatusOr<ExportedBatch> ExportPool::Export(size_t partition,
                                                 const std::vector<rpc::KeyRecords>& records) {
  rpc::ExportRequest request;
  *request.mutable_fence() = core_.Fence();
  request.set_backup_id(backup_id_);
  for (const rpc::KeyRecords& key : records) *request.add_records() = key;
  for (int tries = 1;; ++tries) {
    absl::StatusOr<rpc::ExportResponse> answer =
        core_.cluster.client(partition).Export(request, kExportTimeout);
    if (ReasonOf(answer.status()) == v1::REASON_BUSY && tries < kBusyTriesMax) {
      Rest(absl::Milliseconds(std::max<uint32_t>(DetailOf(answer.status()).retry_after_ms(), 20)));
      MutexLock lock(mutex_);
      if (stopping_) return Error(v1::REASON_CANCELLED, "the backup stopped");
      continue;
    }
    if (!answer.ok() && records.size() == 1 && IsDeviceFailure(ReasonOf(answer.status()))) {
      answer = ExportElsewhere(partition, request, std::move(answer));
    }
    if (!answer.ok()) return answer.status();
    HSM_RETURN_IF_ERROR(CheckAnswer(records, *answer));
    ExportedBatch batch;
    batch.keys.assign(std::make_move_iterator(answer->mutable_keys()->begin()),
                      std::make_move_iterator(answer->mutable_keys()->end()));
    batch.receipt = answer->receipt();
    batch.hash = ExportedHash(batch.keys);
    return batch;
  }
}

// One key that its partition could not export: the fault may be the partition's, not the key's.
absl::StatusOr<rpc::ExportResponse> ExportPool::ExportElsewhere(size_t partition,
                                                                const rpc::ExportRequest& request,
                                                                absl::StatusOr<rpc::ExportResponse> answer) {
  for (size_t i = 0; i < core_.cluster.size() && !answer.ok(); ++i) {
    if (i == partition || !core_.cluster.IsReady(i)) continue;
    absl::StatusOr<rpc::ExportResponse> other = core_.cluster.client(i).Export(request, kExportTimeout);
    if (other.ok()) answer = std::move(other);
  }
  return answer;
}

void ExportPool::Rest(absl::Duration length) {
  if (length <= absl::ZeroDuration()) return;
  MutexLock lock(mutex_);
  core_.clock.Await(
      mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stopping_; }, std::min(length, kRestMax));
}

}  // namespace hsm
