#include "common/crypto_streams.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "hsm/v1/crypto.grpc.pb.h"

namespace hsm {
namespace {

using Calls = grpc::ClientReaderWriterInterface<v1::CryptoBatch, v1::CryptoBatchResult>;

constexpr absl::Duration kWatchdogTick = absl::Milliseconds(25);
constexpr int kWatchdogTicksIdle = 40;  // before it sleeps until the next batch
constexpr int64_t kIdle = 0;
constexpr int64_t kOverran = -1;

struct Stream {
  grpc::ClientContext context;
  std::unique_ptr<Calls> calls;
  // When the batch in flight must be answered, in nanoseconds of uptime; the watchdog replaces it by kOverran
  // before it cancels, so that it can never hit the batch after.
  std::atomic<int64_t> due_ns{kIdle};
};

}  // namespace

class CryptoStreams::Impl {
 public:
  Impl(std::shared_ptr<grpc::Channel> channel, Options options, Clock& clock)
      : options_(std::move(options)),
        clock_(clock),
        crypto_(v1::CryptoService::NewStub(channel)),
        watchdog_("watch-" + options_.name, [this] { Watch(); }) {}

  ~Impl() {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      for (auto& [stream, owned] : streams_) stream->context.TryCancel();
      changed_.NotifyAll();
      wake_watchdog_.NotifyAll();
      clock_.Await(
          mutex_, changed_, [this]() HSM_NO_ANALYSIS { return idle_.size() == streams_.size(); },
          absl::InfiniteDuration());
    }
    watchdog_.Join();
    DropIdle();
  }

  absl::Status RoundTrip(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result,
                         absl::Duration timeout) {
    Deadline deadline(clock_, timeout);
    for (bool again = false;; again = true) {
      bool fresh = false;
      HSM_ASSIGN_OR_RETURN(Stream * stream, Take(deadline, fresh));
      absl::Status status = Exchange(*stream, batch, result, deadline);
      if (status.ok()) {
        PutBack(stream);
        return status;
      }
      Drop(stream);
      if (fresh || again || ReasonOf(status) != v1::REASON_UNREACHABLE) return status;
      DropIdle();  // they are of the same connection
    }
  }

 private:
  absl::StatusOr<Stream*> Take(const Deadline& deadline, bool& fresh) {
    {
      MutexLock lock(mutex_);
      auto ready = [this]() HSM_NO_ANALYSIS {
        return stopping_ || !idle_.empty() || streams_.size() + opening_ < options_.streams_max;
      };
      if (!ready() && !clock_.Await(mutex_, changed_, ready, deadline.Left())) {
        return BusyError(50, "all streams to " + options_.name + " are in use");
      }
      if (stopping_)
        return Error(v1::REASON_CANCELLED, "the connection to " + options_.name + " is being closed");
      if (!idle_.empty()) {
        Stream* stream = idle_.back();  // the one used last: its memory is warm
        idle_.pop_back();
        return stream;
      }
      ++opening_;
    }
    fresh = true;
    return Open(deadline);
  }

  absl::StatusOr<Stream*> Open(const Deadline& deadline) {
    auto owned = std::make_unique<Stream>();
    Stream* stream = owned.get();
    {
      MutexLock lock(mutex_);
      --opening_;
      if (stopping_)
        return Error(v1::REASON_CANCELLED, "the connection to " + options_.name + " is being closed");
      streams_.emplace(stream, std::move(owned));
    }
    // Opening waits for the connection, which a stopped peer never completes: it is under the watchdog too.
    Arm(*stream, deadline);
    stream->calls = crypto_->Stream(&stream->context);
    absl::Status status = CheckPeer(*stream);
    if (status.ok()) return stream;
    Drop(stream);
    return status;
  }

  absl::Status CheckPeer(Stream& stream) {
    if (options_.check_peer == nullptr) return absl::OkStatus();
    std::shared_ptr<const grpc::AuthContext> peer = stream.context.auth_context();
    if (peer == nullptr || !peer->IsPeerAuthenticated()) return Failure(stream);
    return options_.check_peer(*peer);
  }

  void Arm(Stream& stream, const Deadline& deadline) {
    absl::Duration left = std::max(deadline.Left(), absl::ZeroDuration());
    stream.due_ns.store(absl::ToInt64Nanoseconds(clock_.Uptime() + left));
    if (watchdog_asleep_.load()) {
      MutexLock lock(mutex_);
      watchdog_asleep_.store(false);
      wake_watchdog_.NotifyAll();
    }
  }

  absl::Status Exchange(Stream& stream, const v1::CryptoBatch& batch, v1::CryptoBatchResult& result,
                        const Deadline& deadline) {
    Arm(stream, deadline);
    if (!stream.calls->Write(batch) || !stream.calls->Read(&result)) return Failure(stream);
    if (result.results_size() != batch.ops_size()) {
      return Error(v1::REASON_UNREACHABLE, options_.name + " answered another number of operations");
    }
    return absl::OkStatus();
  }

  // Why a stream broke. Ends it.
  absl::Status Failure(Stream& stream) {
    grpc::Status ended = stream.calls->Finish();  // still under the watchdog
    if (stream.due_ns.exchange(kIdle) == kOverran)
      return Error(v1::REASON_DEADLINE_EXCEEDED, options_.name + " did not answer in time");
    return StreamFailure(ended, stream.context, options_.name);
  }

  void PutBack(Stream* stream) {
    if (stream->due_ns.exchange(kIdle) == kOverran)
      return Drop(stream);  // answered as it was being cancelled
    MutexLock lock(mutex_);
    idle_.push_back(stream);
    changed_.NotifyAll();
  }

  void Drop(Stream* stream) {
    stream->context.TryCancel();
    std::unique_ptr<Stream> owned;
    MutexLock lock(mutex_);
    auto found = streams_.find(stream);
    owned = std::move(found->second);
    streams_.erase(found);
    changed_.NotifyAll();
  }

  void DropIdle() {
    std::vector<Stream*> idle;
    {
      MutexLock lock(mutex_);
      idle.swap(idle_);
    }
    for (Stream* stream : idle) Drop(stream);
  }

  void Watch() {
    int quiet = 0;
    MutexLock lock(mutex_);
    while (!stopping_) {
      int64_t now = absl::ToInt64Nanoseconds(clock_.Uptime());
      bool any = false;
      for (auto& [stream, owned] : streams_) {
        int64_t due = stream->due_ns.load();
        if (due <= 0) continue;
        any = true;
        if (due <= now && stream->due_ns.compare_exchange_strong(due, kOverran)) stream->context.TryCancel();
      }
      quiet = any ? 0 : quiet + 1;
      auto stop = [this]() HSM_NO_ANALYSIS { return stopping_; };
      if (quiet < kWatchdogTicksIdle) {
        clock_.Await(mutex_, wake_watchdog_, stop, kWatchdogTick);
        continue;
      }
      watchdog_asleep_.store(true);
      clock_.Await(
          mutex_, wake_watchdog_, [this]() HSM_NO_ANALYSIS { return stopping_ || !watchdog_asleep_.load(); },
          absl::InfiniteDuration());
      quiet = 0;
    }
  }

  const Options options_;
  Clock& clock_;
  std::unique_ptr<v1::CryptoService::Stub> crypto_;

  Mutex mutex_;
  CondVar changed_;        // a stream came back, or the end
  CondVar wake_watchdog_;  // apart, so that a returning stream does not wake it
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  size_t opening_ HSM_GUARDED_BY(mutex_) = 0;
  std::vector<Stream*> idle_ HSM_GUARDED_BY(mutex_);
  std::unordered_map<Stream*, std::unique_ptr<Stream>> streams_ HSM_GUARDED_BY(mutex_);
  std::atomic<bool> watchdog_asleep_{false};
  Thread watchdog_;  // last: it uses all of the above
};

CryptoStreams::CryptoStreams(std::shared_ptr<grpc::Channel> channel, Options options, Clock& clock)
    : impl_(std::make_unique<Impl>(std::move(channel), std::move(options), clock)) {}
CryptoStreams::~CryptoStreams() = default;

absl::Status CryptoStreams::RoundTrip(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result,
                                      absl::Duration timeout) {
  return impl_->RoundTrip(batch, result, timeout);
}

}  // namespace hsm
