#include "coordinator/partition_streams.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/mutex.h"
#include "common/rpc_status.h"

namespace hsm {
namespace {

constexpr char kMethod[] = "/hsm.internal.v1.Partition/Crypto";
constexpr uint32_t kBusyRetryAfterMs = 50;

struct Exchange {
  grpc::ByteBuffer request;
  int operations = 0;
  absl::Duration due;  // on Clock::Uptime()
  PartitionStreams::Done done;
  bool tried = false;  // on an old stream, which broke
};

}  // namespace

// Everything but the constructor runs on the loop. Its streams and its tick keep it alive.
class PartitionStreams::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<grpc::Channel> channel, Options options, CompletionLoop& loop, Clock& clock)
      : stub_(std::move(channel)), options_(std::move(options)), loop_(loop), clock_(clock) {}

  void Begin(Exchange exchange);
  // From a stream that ended its exchange well, or from one that is gone.
  void PutBack(Stream* stream);
  void Remove(Stream* stream);
  void DropIdle();
  void Close();
  void WaitClosed();

  absl::Duration Due(absl::Duration timeout) const {  // any thread
    return clock_.Uptime() + std::max(timeout, absl::ZeroDuration());
  }
  grpc::GenericStub& stub() { return stub_; }
  const Options& options() const { return options_; }
  grpc::CompletionQueue* queue() { return loop_.queue(); }

 private:
  void Launch(Exchange exchange);
  void ServeWaiting();
  bool Tick();
  void NoteClosed();

  grpc::GenericStub stub_;
  const Options options_;
  CompletionLoop& loop_;
  Clock& clock_;
  std::unordered_map<Stream*, std::unique_ptr<Stream>> streams_;
  std::vector<Stream*> idle_;
  std::deque<Exchange> waiting_;
  bool ticking_ = false;
  bool closing_ = false;
  Mutex mutex_;
  CondVar changed_;
  bool closed_ HSM_GUARDED_BY(mutex_) = false;
};

// One stream; alive until gRPC has said the last word about it.
class PartitionStreams::Stream {
 public:
  explicit Stream(Core& core) : core_(core) {}

  void Open(Exchange exchange) {
    exchange_ = std::move(exchange);
    busy_ = fresh_ = true;
    call_ = core_.stub().PrepareCall(&context_, kMethod, core_.queue());
    call_->StartCall(&opened_);
  }

  void Send(Exchange exchange) {
    exchange_ = std::move(exchange);
    busy_ = true;
    fresh_ = false;
    Exchanging();
  }

  bool busy() const { return busy_; }
  void CancelIfOverdue(absl::Duration now) {
    if (!busy_ || overdue_ || now < exchange_.due) return;
    overdue_ = true;
    context_.TryCancel();
  }
  // Ends it, whatever it does.
  void Cancel() {
    context_.TryCancel();
    if (!busy_) Finish();
  }

 private:
  template <void (Stream::*kMethod)(bool)>
  using Tag = CompletionLoop::MemberTag<Stream, kMethod>;

  void OnOpened(bool ok) {
    if (!ok) return Finish();
    if (core_.options().check_peer != nullptr) {
      std::shared_ptr<const grpc::AuthContext> peer = context_.auth_context();
      if (peer == nullptr || !peer->IsPeerAuthenticated()) {
        verdict_ = Error(v1::REASON_UNREACHABLE, core_.options().name + " did not authenticate itself");
      } else {
        verdict_ = core_.options().check_peer(*peer);
      }
      if (!verdict_.ok()) {
        context_.TryCancel();
        return Finish();
      }
    }
    Exchanging();
  }

  void Exchanging() {
    writing_ = reading_ = true;
    call_->Write(exchange_.request, &written_);
    call_->Read(&answer_, &read_);
  }

  void OnWritten(bool) {
    writing_ = false;
    if (broken_) return Finish();
    if (!reading_) Complete();  // the answer was faster than the word that the request is gone
  }

  void OnRead(bool ok) {
    reading_ = false;
    if (!ok || overdue_) return Break();
    if (!writing_) Complete();
  }

  // Read and written: the stream is free for the next exchange.
  void Complete() {
    v1::CryptoBatchResult result;
    if (!grpc::SerializationTraits<v1::CryptoBatchResult>::Deserialize(&answer_, &result).ok() ||
        result.results_size() != exchange_.operations) {
      verdict_ =
          Error(v1::REASON_UNREACHABLE, core_.options().name + " answered another number of operations");
      return Break();
    }
    Done done = std::move(exchange_.done);
    busy_ = false;
    core_.PutBack(this);
    done(std::move(result));
  }

  void Break() {
    broken_ = true;
    context_.TryCancel();
    Finish();
  }

  void Finish() {
    broken_ = true;
    if (writing_ || reading_ || finishing_) return;
    finishing_ = true;
    call_->Finish(&status_, &finished_);
  }

  void OnFinished(bool) {
    Core& core = core_;
    bool failed = busy_;
    Exchange exchange = std::move(exchange_);
    absl::Status status = failed ? Failure() : absl::OkStatus();
    bool again = !fresh_ && !exchange.tried && ReasonOf(status) == v1::REASON_UNREACHABLE;
    core.Remove(this);  // `this` is gone
    if (!failed) return;
    if (!again) return exchange.done(status);
    core.DropIdle();  // they are of the same connection
    exchange.tried = true;
    core.Begin(std::move(exchange));
  }

  absl::Status Failure() const {
    const std::string& name = core_.options().name;
    if (overdue_) return Error(v1::REASON_DEADLINE_EXCEEDED, name + " did not answer in time");
    if (!verdict_.ok()) return verdict_;
    return StreamFailure(status_, context_, name);
  }

  Core& core_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  Tag<&Stream::OnOpened> opened_{this};
  Tag<&Stream::OnWritten> written_{this};
  Tag<&Stream::OnRead> read_{this};
  Tag<&Stream::OnFinished> finished_{this};
  Exchange exchange_;
  grpc::ByteBuffer answer_;
  grpc::Status status_;
  absl::Status verdict_;  // ours about the peer or its answer
  bool busy_ = false;     // with exchange_
  bool fresh_ = true;     // nothing was exchanged on it before
  bool writing_ = false, reading_ = false, overdue_ = false, broken_ = false, finishing_ = false;
};

void PartitionStreams::Core::Begin(Exchange exchange) {
  if (closing_) {
    return exchange.done(
        Error(v1::REASON_CANCELLED, "the connection to " + options_.name + " is being closed"));
  }
  if (!ticking_) {
    ticking_ = true;
    loop_.Tick([self = shared_from_this()] { return self->Tick(); });
  }
  if (!waiting_.empty() || (idle_.empty() && streams_.size() >= options_.streams_max)) {
    if (waiting_.size() < options_.waiting_max) return waiting_.push_back(std::move(exchange));
    return exchange.done(BusyError(kBusyRetryAfterMs, "too much waits for " + options_.name));
  }
  Launch(std::move(exchange));
}

void PartitionStreams::Core::Launch(Exchange exchange) {
  if (!idle_.empty()) {
    Stream* stream = idle_.back();  // the one used last: its memory is warm
    idle_.pop_back();
    return stream->Send(std::move(exchange));
  }
  auto owned = std::make_unique<Stream>(*this);
  Stream* stream = owned.get();
  streams_.emplace(stream, std::move(owned));
  stream->Open(std::move(exchange));
}

void PartitionStreams::Core::PutBack(Stream* stream) {
  if (closing_) return stream->Cancel();
  idle_.push_back(stream);
  ServeWaiting();
}

void PartitionStreams::Core::Remove(Stream* stream) {
  std::erase(idle_, stream);
  streams_.erase(stream);
  ServeWaiting();
  NoteClosed();
}

void PartitionStreams::Core::ServeWaiting() {
  while (!waiting_.empty() && (!idle_.empty() || streams_.size() < options_.streams_max)) {
    Exchange next = std::move(waiting_.front());
    waiting_.pop_front();
    Launch(std::move(next));
  }
}

void PartitionStreams::Core::DropIdle() {
  std::vector<Stream*> idle;
  idle.swap(idle_);
  for (Stream* stream : idle) stream->Cancel();
}

// Ends what overran its time: a read has no timeout of its own, and a stopped process never answers.
bool PartitionStreams::Core::Tick() {
  absl::Duration now = clock_.Uptime();
  std::deque<Exchange> waiting;
  waiting.swap(waiting_);
  for (Exchange& exchange : waiting) {
    if (now < exchange.due) {
      waiting_.push_back(std::move(exchange));
    } else {
      exchange.done(BusyError(kBusyRetryAfterMs, "all streams to " + options_.name + " are in use"));
    }
  }
  bool any = !waiting_.empty();
  for (auto& [stream, owned] : streams_) {
    any |= stream->busy();
    stream->CancelIfOverdue(now);
  }
  ticking_ = any;
  return any;
}

void PartitionStreams::Core::Close() {
  closing_ = true;
  std::deque<Exchange> waiting;
  waiting.swap(waiting_);
  for (Exchange& exchange : waiting) {
    exchange.done(Error(v1::REASON_CANCELLED, "the connection to " + options_.name + " is being closed"));
  }
  idle_.clear();
  for (auto& [stream, owned] : streams_) stream->Cancel();
  NoteClosed();
}

void PartitionStreams::Core::NoteClosed() {
  if (!closing_ || !streams_.empty()) return;
  MutexLock lock(mutex_);
  closed_ = true;
  changed_.NotifyAll();
}

void PartitionStreams::Core::WaitClosed() {
  MutexLock lock(mutex_);
  while (!closed_) changed_.Wait(mutex_);
}

PartitionStreams::PartitionStreams(std::shared_ptr<grpc::Channel> channel, Options options,
                                   CompletionLoop& loop, Clock& clock)
    : loop_(loop), core_(std::make_shared<Core>(std::move(channel), std::move(options), loop, clock)) {}

PartitionStreams::~PartitionStreams() {
  loop_.PostAndWait([this] { core_->Close(); });
  core_->WaitClosed();
}

void PartitionStreams::Start(const v1::CryptoBatch& batch, absl::Duration timeout, Done done) {
  Exchange exchange;
  bool own = false;
  if (!grpc::SerializationTraits<v1::CryptoBatch>::Serialize(batch, &exchange.request, &own).ok()) {
    return done(Error(v1::REASON_INTERNAL, "a batch that cannot be encoded"));
  }
  exchange.operations = batch.ops_size();
  exchange.due = core_->Due(timeout);
  exchange.done = std::move(done);
  if (loop_.OnLoop()) return core_->Begin(std::move(exchange));
  loop_.Post([core = core_, exchange = std::make_shared<Exchange>(std::move(exchange))]() mutable {
    core->Begin(std::move(*exchange));
  });
}

}  // namespace hsm
