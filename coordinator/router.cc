#include "coordinator/router.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "common/mutant.h"

namespace hsm {
namespace {

constexpr absl::Duration kHangMin = absl::Seconds(1);  // without an answer for so long, another is asked
constexpr int64_t kHangFactor = 6;                     // times the usual duration, if that is longer
constexpr double kHangShareMax = 0.45;                 // of the time left: so that another can still answer
constexpr absl::Duration kPauseFirst = absl::Milliseconds(5);
constexpr absl::Duration kPauseMax = absl::Milliseconds(100);
constexpr double kWaitShareMax = 0.6;     // of an operation's time is waited for a partition to come back
constexpr uint32_t kInFlightMax = 2'048;  // operations per partition; beyond: BUSY
constexpr uint32_t kBusyRetryAfterMs = 25;
constexpr int kNone = -1, kFull = -2;  // what Choose answers besides an index
constexpr size_t kRetryThreads = 64;   // batches that wait for another partition at once
constexpr size_t kRetriesWaitingMax = 512;

}  // namespace

void SetFailure(v1::CryptoResult& result, const absl::Status& status) {
  v1::ErrorDetail detail = DetailOf(status);
  result.set_reason(detail.reason());
  result.set_message(detail.message());
  result.set_retry_after_ms(detail.retry_after_ms());
}

// One batch: what is still open, and what has been tried.
struct Router::Work {
  v1::CryptoBatch& batch;
  v1::CryptoBatchResult& results;
  const Decide decide;
  std::vector<int> open;
  absl::Duration started;
  absl::Duration total;  // the longest timeout of the operations
  v1::CryptoBatch part;  // what is sent when not all operations of `batch` are open
  absl::Duration sent;
  uint32_t tried = 0;
  bool again = false;    // a partition was asked already
  bool all_busy = true;  // of those tried since the last pause
  absl::Duration pause = kPauseFirst;

  absl::Duration TimeoutOf(int i) const {
    uint32_t ms = batch.ops(i).timeout_ms();
    if (ms == 0) ms = limits::kCryptoTimeoutMsDefault;
    return absl::Milliseconds(std::min(ms, limits::kCryptoTimeoutMsMax));
  }
  void FailAll(const absl::Status& status) {
    for (int i : open) SetFailure(*results.mutable_results(i), status);
  }
};

Router::Router(Core& core)
    : core_(core),
      draws_(core.random.Below(UINT64_MAX)),
      retries_("retry", kRetryThreads, kRetriesWaitingMax) {}

Router::WorkPtr Router::MakeWork(v1::CryptoBatch& batch, std::vector<int> wanted,
                                 v1::CryptoBatchResult& results, Decide decide) {
  auto work = std::make_shared<Work>(Work{.batch = batch,
                                          .results = results,
                                          .decide = std::move(decide),
                                          .open = std::move(wanted),
                                          .started = core_.clock.Uptime()});
  for (int i : work->open) work->total = std::max(work->total, work->TimeoutOf(i));
  return work;
}

void Router::Run(v1::CryptoBatch& batch, std::vector<int> wanted, v1::CryptoBatchResult& results,
                 Decide decide) {
  WorkPtr work = MakeWork(batch, std::move(wanted), results, std::move(decide));
  while (!work->open.empty()) Round(*work);
}

void Router::Start(v1::CryptoBatch& batch, std::vector<int> wanted, v1::CryptoBatchResult& results,
                   Decide decide, std::function<void()> done) {
  WorkPtr work = MakeWork(batch, std::move(wanted), results, std::move(decide));
  int index = Choose(*work);
  if (index < 0) return Finish(work, done);
  auto at = static_cast<size_t>(index);
  core_.cluster.client(at).StartCrypto(
      Prepare(*work, at), HangLimit(*work, at),
      [this, work, at, done = std::move(done)](absl::StatusOr<v1::CryptoBatchResult> answer) {
        Take(*work, at, std::move(answer));
        Finish(work, done);
      });
}

void Router::Finish(const WorkPtr& work, const std::function<void()>& done) {
  if (work->open.empty()) return done();
  bool taken = retries_.Submit([this, work, done] {
    while (!work->open.empty()) Round(*work);
    done();
  });
  if (taken) return;
  work->FailAll(BusyError(kBusyRetryAfterMs, "too many operations wait for a partition"));
  done();
}

void Router::Round(Work& work) {
  if (work.again) {
    ExpireAndDecide(work);
    if (work.open.empty()) return;
  }
  int index = Choose(work);
  if (index >= 0) {
    auto at = static_cast<size_t>(index);
    const v1::CryptoBatch& outgoing = Prepare(work, at);
    return Take(work, at, core_.cluster.client(at).Crypto(outgoing, HangLimit(work, at)));
  }
  if (index == kFull || WaitForPartition(work)) return;
  // Keep what the last partition said, if one was asked; otherwise say that there is none.
  for (int i : work.open) {
    v1::CryptoResult& result = *work.results.mutable_results(i);
    if (result.reason() == v1::REASON_UNSPECIFIED) {
      SetFailure(result, Error(v1::REASON_NO_PARTITION, "no READY partition can serve this now"));
    }
  }
  work.open.clear();
}

// The partition to ask next, which counts as tried from now on; kNone, or kFull if the one chosen has as much
// as it may.
int Router::Choose(Work& work) {
  auto uid = KeyUid::From(work.batch.ops(work.open.front()).route().uid());
  int index = core_.cluster.Pick(uid ? &*uid : nullptr, work.tried, DrawBits());
  if (index < 0) return kNone;
  auto at = static_cast<size_t>(index);
  work.tried |= 1u << at;
  if (core_.cluster.InFlight(at) + work.open.size() <= kInFlightMax) return index;
  work.FailAll(BusyError(kBusyRetryAfterMs, "every partition has as much to do as it may"));
  work.again = true;
  return kFull;
}

// False: give up. All busy is not waited for: the caller is told when to come back.
bool Router::WaitForPartition(Work& work) {
  bool asked = work.tried != 0;
  if (asked && work.all_busy) return false;
  absl::Duration used = core_.clock.Uptime() - work.started;
  if (used + work.pause > work.total * kWaitShareMax) return false;
  Mutex mutex;
  CondVar never;
  {
    MutexLock lock(mutex);
    core_.clock.Await(mutex, never, [] { return false; }, work.pause);
  }
  work.pause = std::min(work.pause * 2, kPauseMax);
  work.tried = 0;
  work.all_busy = true;
  work.again = true;
  return true;
}

void Router::ExpireAndDecide(Work& work) {
  absl::Duration used = core_.clock.Uptime() - work.started;
  std::vector<int> open;
  for (int i : work.open) {
    v1::CryptoResult& result = *work.results.mutable_results(i);
    if (used >= work.TimeoutOf(i)) {
      std::string last = result.reason() == v1::REASON_UNSPECIFIED ? "" : "; last: " + result.message();
      SetFailure(result, Error(v1::REASON_DEADLINE_EXCEEDED, "no partition answered in time" + last));
      continue;
    }
    if (absl::Status status = work.decide(*work.batch.mutable_ops(i)); !status.ok()) {
      SetFailure(result, status);
      continue;
    }
    open.push_back(i);
  }
  work.open = std::move(open);
}

// What is sent of the open operations. The common case, all operations of a batch to one partition on the
// first try, copies nothing.
const v1::CryptoBatch& Router::Prepare(Work& work, size_t index) {
  HsmViewPtr view = core_.state.View();
  bool whole = work.open.size() == static_cast<size_t>(work.batch.ops_size());
  if (!whole) {
    work.part.Clear();
    for (int i : work.open) *work.part.add_ops() = work.batch.ops(i);
  }
  v1::CryptoBatch& outgoing = whole ? work.batch : work.part;
  outgoing.set_epoch(view->epoch);
  outgoing.set_data_set(view->data_set);
  work.again = true;
  core_.cluster.Begin(index, static_cast<uint32_t>(work.open.size()));
  work.sent = core_.clock.Uptime();
  return outgoing;
}

void Router::Take(Work& work, size_t index, absl::StatusOr<v1::CryptoBatchResult> answer) {
  auto count = static_cast<uint32_t>(work.open.size());
  if (answer.ok() && answer->results_size() != static_cast<int>(count)) {
    answer = Error(v1::REASON_UNREACHABLE, "an answer of another size");
  }
  if (!answer.ok()) {
    v1::Reason reason = ReasonOf(answer.status());
    core_.cluster.End(index, count, /*ok=*/!SpeaksAgainstPartition(reason));
    work.all_busy &= reason == v1::REASON_BUSY;
    return work.FailAll(answer.status());
  }
  Observe(index, core_.clock.Uptime() - work.sent);
  Judge(work, index, *answer);
}

void Router::Judge(Work& work, size_t index, v1::CryptoBatchResult& answer) {
  std::vector<int> open;
  uint32_t ill = 0;
  for (size_t n = 0; n < work.open.size(); ++n) {
    int i = work.open[n];
    v1::CryptoResult& result = *answer.mutable_results(static_cast<int>(n));
    if (result.reason() != v1::REASON_UNSPECIFIED) {
      switch (JudgeOne(index, work.batch.ops(i), result)) {
        case Verdict::kFinal:
          break;
        case Verdict::kDeviceElsewhere:
          ++ill;
          [[fallthrough]];
        case Verdict::kElsewhere:
          work.all_busy &= result.reason() == v1::REASON_BUSY;
          open.push_back(i);
          break;
      }
    }
    result.set_id(work.results.results(i).id());
    work.results.mutable_results(i)->Swap(&result);
  }
  auto count = static_cast<uint32_t>(work.open.size());
  if (count > ill) core_.cluster.End(index, count - ill, true);
  if (ill > 0) core_.cluster.End(index, ill, false);
  work.open = std::move(open);
}

Router::Verdict Router::JudgeOne(size_t index, const v1::CryptoOp& op, const v1::CryptoResult& result) {
  v1::Reason reason = result.reason();
  if (HSM_MUTANT("router-no-failover")) return Verdict::kFinal;
  // The partition lacks the key the catalogue says it holds, or cannot show that it is the right one: no
  // further operations on it there, until it is repaired.
  if (reason == v1::REASON_PROOF_FAILED || reason == v1::REASON_KEY_NOT_FOUND ||
      reason == v1::REASON_RECORD_CORRUPT) {
    if (auto uid = KeyUid::From(op.route().uid())) core_.cluster.MarkBehind(index, *uid);
    return Verdict::kElsewhere;
  }
  if (reason == v1::REASON_TOMBSTONED || reason == v1::REASON_BUSY) return Verdict::kElsewhere;
  if (reason == v1::REASON_DEADLINE_EXCEEDED)
    return Verdict::kFinal;  // the operation's own time, spent waiting there
  if (SpeaksAgainstPartition(reason)) return Verdict::kDeviceElsewhere;
  if (IsDeviceFailure(reason)) return Verdict::kElsewhere;
  return Verdict::kFinal;
}

// Until when this partition is waited for. While it is the only choice, as long as there is time.
absl::Duration Router::HangLimit(const Work& work, size_t index) const {
  absl::Duration left = work.total - (core_.clock.Uptime() - work.started);
  bool others = false;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    others |= i != index && core_.cluster.IsReady(i);
  }
  if (!others) return std::max(left, absl::Milliseconds(1));
  int64_t usual = usual_us_[index].load(std::memory_order_relaxed);
  absl::Duration limit = std::max(kHangMin, absl::Microseconds(usual * kHangFactor));
  return std::max(std::min(limit, left * kHangShareMax), absl::Milliseconds(1));
}

void Router::Observe(size_t index, absl::Duration took) {
  std::atomic<int64_t>& usual = usual_us_[index];
  int64_t before = usual.load(std::memory_order_relaxed);
  usual.store(before + (absl::ToInt64Microseconds(took) - before) / 8, std::memory_order_relaxed);
}

// Only spreads load, so it need not be hard to foresee (splitmix64).
uint64_t Router::DrawBits() {
  uint64_t bits = draws_.fetch_add(0x9e3779b97f4a7c15, std::memory_order_relaxed);
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111eb;
  return bits ^ bits >> 31;
}

}  // namespace hsm
