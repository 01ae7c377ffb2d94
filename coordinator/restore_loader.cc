#include "coordinator/restore_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <deque>

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/replica.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "coordinator/job_calls.h"
#include "coordinator/proof_check.h"
#include "coordinator/quorum.h"

namespace hsm {
// One version to prove. `answers` by partition index: each is written by that partition's lanes alone.
struct RestoreSubject {
  KeyHead head;
  VersionRecord version;
  Bytes nonce;
  struct Answer {
    v1::ProofResult result = v1::PROOF_RESULT_UNREACHABLE;
    std::string comparison;
  };
  std::vector<Answer> answers;
};

namespace {

constexpr absl::Duration kImportTimeout = absl::Seconds(60);
constexpr absl::Duration kPutTimeout = absl::Seconds(30);
constexpr absl::Duration kProveTimeout = absl::Seconds(15);  // kProofsPerCall RSA keys at worst
constexpr uint32_t kImportLanes = 2;
constexpr uint32_t kProveLanes = 4;        // proofs that come together share a transaction in the node
constexpr size_t kOpsPerTransaction = 90;  // the committer adds its own few
constexpr int kTriesMax = 4;

// In the lane that asked, so that signatures are verified while the partitions go on proving.
void Judge(const rpc::ProveAnswer& answer, const std::string& partition, RestoreSubject& subject,
           RestoreSubject::Answer& judged) {
  if (!answer.has_proof()) return;
  const Challenge challenge{subject.head.hsm,        subject.head.uid,  subject.head.incarnation,
                            subject.version.version, subject.head.spec, subject.head.operations,
                            subject.version.spki,    subject.nonce,     partition};
  judged.result = CheckProof(challenge, answer.proof());
  if (judged.result == v1::PROOF_RESULT_SELF_CHECKED) judged.comparison = answer.proof().comparison();
}

// Symmetric keys are judged by each other.
void Compare(RestoreSubject& subject) {
  if (!subject.version.spki.empty()) return;
  std::vector<std::string> comparisons;
  for (const RestoreSubject::Answer& answer : subject.answers) comparisons.push_back(answer.comparison);
  const std::vector<v1::ProofResult> results = CompareAnswers(comparisons);
  for (size_t i = 0; i < results.size(); ++i) subject.answers[i].result = results[i];
}

// Splits what one Import call may take; a key with more versions goes in several parts.
struct ImportPart {
  size_t item = 0;
  int first = 0, count = 0;
};
std::vector<std::vector<ImportPart>> PlanImports(const std::vector<RestoreLoader::Item>& items) {
  std::vector<std::vector<ImportPart>> calls;
  size_t room = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const int versions = items[i].key.versions_size();
    for (int first = 0; first < versions || first == 0;) {
      if (room == 0) {
        calls.emplace_back();
        room = limits::kExportVersionsPerCall;
      }
      const int count = std::min(static_cast<int>(room), versions - first);
      calls.back().push_back({i, first, count});
      room -= static_cast<size_t>(std::max(count, 1));
      first += std::max(count, 1);
    }
  }
  return calls;
}

}  // namespace

rpc::Fence RestoreLoader::NewFence() const {
  rpc::Fence fence = core_.Fence();
  fence.set_data_set(into_);
  return fence;
}

absl::Status RestoreLoader::ShareOut(const std::vector<size_t>& partitions, uint32_t lanes, size_t items,
                                     const std::function<absl::Status(size_t, size_t)>& work) {
  struct Shared {
    Mutex mutex;
    std::deque<std::pair<size_t, int>> open HSM_GUARDED_BY(mutex);  // item, tries so far
    absl::Status failed HSM_GUARDED_BY(mutex);
  } shared;
  {
    MutexLock lock(shared.mutex);
    for (size_t i = 0; i < items; ++i) shared.open.emplace_back(i, 0);
  }
  {
    std::vector<Thread> threads;
    for (size_t partition : partitions) {
      for (uint32_t lane = 0; lane < lanes; ++lane) {
        threads.emplace_back("restore", [&shared, &work, partition] {
          for (;;) {
            std::pair<size_t, int> item;
            {
              MutexLock lock(shared.mutex);
              if (!shared.failed.ok() || shared.open.empty()) return;
              item = shared.open.front();
              shared.open.pop_front();
            }
            const absl::Status status = work(partition, item.first);
            if (status.ok()) continue;
            MutexLock lock(shared.mutex);
            if (IsPassing(ReasonOf(status)) && item.second + 1 < kTriesMax) {
              shared.open.emplace_back(item.first, item.second + 1);
              return;  // leave it to the others: this partition has trouble
            }
            if (shared.failed.ok()) shared.failed = status;
          }
        });
      }
    }
  }
  MutexLock lock(shared.mutex);
  HSM_RETURN_IF_ERROR(shared.failed);
  if (!shared.open.empty())
    return Error(v1::REASON_NO_PARTITION, "no partition could do its part of the restore");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<rpc::KeyRecords>> RestoreLoader::Import(const std::vector<Item>& items) {
  const std::vector<std::vector<ImportPart>> calls = PlanImports(items);
  std::vector<rpc::ImportResponse> answers(calls.size());
  HSM_RETURN_IF_ERROR(ShareOut(
      Workers(core_), kImportLanes, calls.size(), [&](size_t partition, size_t call) -> absl::Status {
        rpc::ImportRequest request;
        *request.mutable_fence() = core_.Fence();
        request.set_backup_id(backup_id_);
        request.set_data_set(into_);
        request.set_now(core_.RetentionNow());
        for (const ImportPart& part : calls[call]) {
          rpc::BackupKey& key = *request.add_keys();
          *key.mutable_head() = items[part.item].key.head();
          for (int v = 0; v < part.count; ++v)
            *key.add_versions() = items[part.item].key.versions(part.first + v);
          request.add_incarnations(items[part.item].incarnation);
          *request.add_narrowed_by() = items[part.item].narrowed_by;
        }
        HSM_ASSIGN_OR_RETURN(answers[call], core_.cluster.client(partition).Import(request, kImportTimeout));
        if (static_cast<size_t>(answers[call].records_size()) != calls[call].size()) {
          return Error(v1::REASON_RECORD_CORRUPT, "a partition opened other keys than it was given");
        }
        return absl::OkStatus();
      }));
  std::vector<rpc::KeyRecords> keys(items.size());
  for (size_t call = 0; call < calls.size(); ++call) {
    for (size_t p = 0; p < calls[call].size(); ++p) {
      rpc::KeyRecords& part = *answers[call].mutable_records(static_cast<int>(p));
      rpc::KeyRecords& key = keys[calls[call][p].item];
      if (key.has_head() && key.head().body() != part.head().body()) {
        return Error(v1::REASON_RECORD_CORRUPT, "two partitions sealed the same key differently");
      }
      *key.mutable_head() = std::move(*part.mutable_head());
      for (rpc::SealedRecord& version : *part.mutable_versions()) *key.add_versions() = std::move(version);
    }
  }
  return keys;
}

absl::Status RestoreLoader::PutAll(size_t partition, const std::vector<rpc::KeyRecords>& keys) {
  rpc::PutRecordsRequest request;
  auto send = [&]() -> absl::Status {
    *request.mutable_fence() = NewFence();
    request.set_staging_data_set(true);
    request.set_into(into_);
    return core_.cluster.client(partition).PutRecords(request, kPutTimeout).status();
  };
  size_t records = 0;
  for (const rpc::KeyRecords& key : keys) {
    *request.add_records() = key;
    records += 1 + static_cast<size_t>(key.versions_size());
    if (records < limits::kSyncRecordsPerCall) continue;
    HSM_RETURN_IF_ERROR(send());
    request.Clear();
    records = 0;
  }
  return records == 0 ? absl::OkStatus() : send();
}

void RestoreLoader::ProveAll(size_t partition, std::vector<RestoreSubject>& subjects) {
  std::atomic<size_t> next{0};
  auto prove = [&] {
    for (;;) {
      const size_t first = next.fetch_add(limits::kProofsPerCall);
      if (first >= subjects.size()) return;
      const size_t end = std::min(subjects.size(), first + limits::kProofsPerCall);
      rpc::ProveRequest request;
      *request.mutable_fence() = NewFence();
      for (size_t i = first; i < end; ++i) {
        rpc::ProveItem& subject = *request.add_items();
        subject.set_uid(subjects[i].head.uid.Raw());
        subject.set_version(subjects[i].version.version.Raw());
        subject.set_nonce(ToString(subjects[i].nonce));
      }
      const auto response = core_.cluster.client(partition).Prove(request, kProveTimeout);
      if (!response.ok() || static_cast<size_t>(response->answers_size()) != end - first) return;
      for (size_t i = first; i < end; ++i) {
        Judge(response->answers(static_cast<int>(i - first)), core_.cluster.name(partition), subjects[i],
              subjects[i].answers[partition]);
      }
    }
  };
  std::vector<Thread> lanes;
  for (uint32_t lane = 0; lane < kProveLanes; ++lane) lanes.emplace_back("restore-prove", prove);
}

absl::StatusOr<std::vector<size_t>> RestoreLoader::Stage(const std::vector<rpc::KeyRecords>& keys) {
  std::vector<RestoreSubject> subjects;
  const size_t partitions = core_.cluster.size();
  for (const rpc::KeyRecords& key : keys) {
    HSM_ASSIGN_OR_RETURN(const KeyHead head, DecodeHead(key.head()));
    for (const rpc::SealedRecord& record : key.versions()) {
      HSM_ASSIGN_OR_RETURN(VersionRecord version, DecodeVersion(record));
      subjects.push_back(
          {head, std::move(version), core_.random.Draw(32), std::vector<RestoreSubject::Answer>(partitions)});
    }
  }
  std::vector<bool> good(partitions, false);
  for (size_t p : Workers(core_)) good[p] = true;
  {
    // Each partition takes the records and answers for all of them; one that fails is left to the reconciler.
    std::vector<Thread> threads;
    for (size_t p = 0; p < partitions; ++p) {
      if (!good[p]) continue;
      threads.emplace_back("restore-stage", [this, p, &keys, &subjects] {
        if (PutAll(p, keys).ok()) ProveAll(p, subjects);
      });
    }
  }
  for (RestoreSubject& subject : subjects) {
    Compare(subject);
    for (size_t p = 0; p < partitions; ++p) {
      const bool proved = subject.answers[p].result == v1::PROOF_RESULT_PROVED;
      if (!proved && !HSM_MUTANT("restore-skip-proofs")) good[p] = false;
    }
  }
  std::vector<size_t> proved;
  for (size_t p = 0; p < partitions; ++p) {
    if (good[p]) proved.push_back(p);
  }
  return proved;
}

absl::Status RestoreLoader::Write(const std::vector<rpc::KeyRecords>& keys,
                                  const std::vector<size_t>& proved) {
  std::vector<std::string> names;
  for (size_t index : proved) names.push_back(core_.cluster.name(index));
  Change change;
  size_t bytes = 0;
  auto flush = [&]() -> absl::Status {
    if (change.ops.empty()) return absl::OkStatus();
    bytes = 0;
    return core_.committer.Commit(std::exchange(change, {})).status;
  };
  for (const rpc::KeyRecords& key : keys) {
    HSM_ASSIGN_OR_RETURN(std::vector<StoreOp> ops, PutKeyOps(into_, key, names));
    // The ops of one key end with its head. Keys with more ops than fit go in several transactions, in that
    // order.
    for (StoreOp& op : ops) {
      if (change.ops.size() >= kOpsPerTransaction ||
          bytes + op.value.size() > limits::kStoreTransactionBytesMax / 2) {
        HSM_RETURN_IF_ERROR(flush());
      }
      bytes += op.key.size() + op.value.size();
      change.ops.push_back(std::move(op));
    }
  }
  return flush();
}

absl::Status RestoreLoader::Load(const std::vector<Item>& items) {
  if (items.empty()) return absl::OkStatus();
  HSM_ASSIGN_OR_RETURN(const std::vector<rpc::KeyRecords> keys, Import(items));
  HSM_ASSIGN_OR_RETURN(const std::vector<size_t> proved, Stage(keys));
  if (proved.size() < core_.cluster.quorum()) {
    return Error(v1::REASON_NO_QUORUM,
                 fmt::format("{} partitions have proved the restored keys, {} are needed", proved.size(),
                             core_.cluster.quorum()));
  }
  return Write(keys, proved);
}

}  // namespace hsm
