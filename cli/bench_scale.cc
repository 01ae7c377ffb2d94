#include "cli/bench_scale.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <vector>

#include "absl/time/clock.h"
#include "cli/bench_cluster.h"
#include "common/error.h"
#include "common/mutex.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr uint32_t kMakers = 32;
constexpr absl::Duration kPoll = absl::Milliseconds(20);

// Watches a job until it has ended; `seen` gets each state of it.
absl::StatusOr<v1::Job> Follow(Client& client, const std::string& id,
                               const std::function<void(const v1::Job&)>& seen) {
  v1::GetJobRequest request;
  request.set_id(id);
  while (true) {
    HSM_ASSIGN_OR_RETURN(v1::Job job, client.GetJob(request));
    seen(job);
    if (job.status() == v1::JOB_STATUS_SUCCEEDED) return job;
    if (job.status() == v1::JOB_STATUS_FAILED || job.status() == v1::JOB_STATUS_CANCELLED)
      return Error(job.error());
    absl::SleepFor(kPoll);
  }
}

}  // namespace

std::string ScaleKeys::Name(uint64_t number) const {
  return fmt::format("scale-{}-{:06}", BenchKeyName(kind_), number);
}

std::string ScaleKeys::RandomName() const { return Name(SystemRandom().Below(count_)); }

absl::Status ScaleKeys::Make() {
  v1::GetKeyRequest last;
  last.set_name(Name(count_ - 1));
  if (client_.GetKey(last).ok()) return absl::OkStatus();
  std::atomic<uint64_t> next{0};
  Mutex mutex;
  absl::Status failed;
  {
    std::vector<Thread> makers;
    for (uint32_t i = 0; i < kMakers; ++i) {
      makers.emplace_back("maker", [&] {
        for (uint64_t number; (number = next.fetch_add(1)) < count_;) {
          absl::Status status = client_.CreateKey(NewBenchKey(kind_, Name(number))).status();
          if (status.ok() || ReasonOf(status) == v1::REASON_KEY_EXISTS) continue;
          next = count_;
          MutexLock lock(mutex);
          failed = status;
        }
      });
    }
  }
  return failed;
}

Operation ScaleKeys::List() const {
  return [this](uint32_t) -> absl::Status {
    v1::ListKeysRequest request;
    request.set_page_token(RandomName());
    return client_.ListKeys(request).status();
  };
}

Operation ScaleKeys::Get() const {
  return [this](uint32_t) -> absl::Status {
    v1::GetKeyRequest request;
    request.set_name(RandomName());
    return client_.GetKey(request).status();
  };
}

absl::StatusOr<v1::Job> ScaleKeys::RunBackup(const std::string& target) const {
  v1::StartBackupRequest request;
  request.mutable_target()->set_directory(target);
  HSM_ASSIGN_OR_RETURN(v1::StartJobResponse started, client_.StartBackup(request));
  return Follow(client_, started.job_id(), [](const v1::Job&) {});
}

absl::StatusOr<LoadResult> ScaleKeys::Backup(const std::string& target) const {
  HSM_ASSIGN_OR_RETURN(v1::Job job, RunBackup(target));
  LoadResult result;
  result.operations = job.backup().versions();
  result.seconds = job.backup().measured().seconds();
  return result;
}

absl::StatusOr<LoadResult> ScaleKeys::Restore(const std::string& target) const {
  HSM_ASSIGN_OR_RETURN(v1::Job backup, RunBackup(target));
  v1::StartRestoreRequest request;
  request.mutable_target()->set_directory(target);
  request.set_folder(backup.backup().folder());
  HSM_ASSIGN_OR_RETURN(v1::StartJobResponse started, client_.StartRestore(request));
  absl::Time first = absl::InfiniteFuture(), last;
  HSM_ASSIGN_OR_RETURN(v1::Job job, Follow(client_, started.job_id(), [&](const v1::Job& now) {
                         if (now.step() != "load" && now.step() != "compare") return;
                         if (now.step() == "load") first = std::min(first, absl::Now());
                         last = absl::Now();
                       }));
  LoadResult result;
  result.operations = job.restore().versions_restored();
  if (last > first) result.seconds = absl::ToDoubleSeconds(last - first);
  return result;
}

}  // namespace hsm::cli
