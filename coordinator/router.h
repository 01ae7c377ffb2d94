#pragma once
// Carries allowed operations to a partition and judges what comes back. A batch goes to one partition where
// possible. The caller's mistakes are final; a partition's failures (device, connection, hang, a key it does
// not hold) are tried on another one while the operation's time lasts. Thread-safe.
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/limits.h"
#include "common/worker_pool.h"
#include "coordinator/core.h"
#include "hsm/v1/crypto.pb.h"

namespace hsm {

class Router {
 public:
  explicit Router(Core& core);

  // Decides again whether an operation may be done, and renews its route: called before an operation is tried
  // again, for the key may have changed meanwhile.
  using Decide = std::function<absl::Status(v1::CryptoOp&)>;

  // Answers the operations of `batch` at `wanted` (ascending); the other results stay as they are. Blocks.
  void Run(v1::CryptoBatch& batch, std::vector<int> wanted, v1::CryptoBatchResult& results, Decide decide);
  // The same without blocking: the first try is sent at once, and when it answers all, which is the usual
  // case, no other thread is woken; whatever is left is done by a thread that may block. Calls `done` once,
  // on any thread, also before it returns; `batch` and `results` stay until then.
  void Start(v1::CryptoBatch& batch, std::vector<int> wanted, v1::CryptoBatchResult& results, Decide decide,
             std::function<void()> done);

 private:
  struct Work;
  enum class Verdict { kFinal, kElsewhere, kDeviceElsewhere };

  using WorkPtr = std::shared_ptr<Work>;

  WorkPtr MakeWork(v1::CryptoBatch& batch, std::vector<int> wanted, v1::CryptoBatchResult& results,
                   Decide decide);
  void Finish(const WorkPtr& work, const std::function<void()>& done);
  void Round(Work& work);
  int Choose(Work& work);
  bool WaitForPartition(Work& work);
  void ExpireAndDecide(Work& work);
  const v1::CryptoBatch& Prepare(Work& work, size_t index);
  void Take(Work& work, size_t index, absl::StatusOr<v1::CryptoBatchResult> answer);
  void Judge(Work& work, size_t index, v1::CryptoBatchResult& answer);
  Verdict JudgeOne(size_t index, const v1::CryptoOp& op, const v1::CryptoResult& result);
  absl::Duration HangLimit(const Work& work, size_t index) const;
  void Observe(size_t index, absl::Duration took);
  uint64_t DrawBits();

  Core& core_;
  // Smoothed time of a batch, per partition, in microseconds; what is far beyond it is a hang.
  std::array<std::atomic<int64_t>, limits::kPartitionsMax> usual_us_{};
  std::atomic<uint64_t> draws_;
  WorkerPool retries_;  // of what Start could not finish at once; last, for it uses the rest
};

void SetFailure(v1::CryptoResult& result, const absl::Status& status);

}  // namespace hsm
