#include "common/rpc_server.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <unordered_set>
#include <utility>

#include "common/error.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr int kAcceptsAhead = 8;
constexpr size_t kUrgentWorkers = 16;
constexpr size_t kUrgentQueueMax = 256;
constexpr uint32_t kBusyRetryAfterMs = 500;

}  // namespace

struct RpcServer::Listener {
  grpc::AsyncGenericService service;
  std::unique_ptr<grpc::Server> server;
  // The loop's own.
  std::unordered_set<Call*> calls;  // accepted and not yet ended
  size_t streams = 0;
  bool draining = false;
  bool ending = false;  // no call will come any more
  // Told when the last call has ended then.
  Mutex mutex;
  CondVar changed;
  bool quiet HSM_GUARDED_BY(mutex) = false;

  void SetQuiet() {
    MutexLock lock(mutex);
    quiet = true;
    changed.NotifyAll();
  }
};

// One call, from before it arrives until its status is on the way. Owns itself. Everything happens on the
// loop, but a unary handler: that has the call to itself, and ends it from its worker thread.
class RpcServer::Call {
 public:
  explicit Call(RpcServer& server) : server_(server) {
    Listener& listener = *server_.listener_;
    grpc::ServerCompletionQueue* queue = server_.loop_.queue();
    listener.service.RequestCall(&context_, &rw_, queue, queue, &accepted_);
  }

  // A stream between two batches ends now, the others after the batch they serve.
  void Drain() {
    if (session_ != nullptr && reading_) context_.TryCancel();
  }

 private:
  template <void (Call::*kMethod)(bool)>
  using Tag = CompletionLoop::MemberTag<Call, kMethod>;

  void OnAccepted(bool ok) {
    Listener& listener = *server_.listener_;
    if (!ok) {  // the server ends, and may be gone already
      delete this;
      return;
    }
    server_.Accept();
    listener.calls.insert(this);
    auto method = server_.methods_.find(context_.method());
    if (method == server_.methods_.end()) {
      return End(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "there is no method " + context_.method()));
    }
    method_ = &method->second;
    if (method_->open != nullptr) {
      if (absl::Status status = Open(); !status.ok()) return End(ToGrpc(status, &context_));
    }
    Read();
  }

  absl::Status Open() {
    Listener& listener = *server_.listener_;
    if (listener.draining) return Error(v1::REASON_UNREACHABLE, "the server is ending");
    if (listener.streams >= server_.options_.streams_max) {
      return BusyError(kBusyRetryAfterMs, "too many streams are open");
    }
    HSM_ASSIGN_OR_RETURN(session_, method_->open(context_));
    ++listener.streams;
    return absl::OkStatus();
  }

  void Read() {
    reading_ = true;
    rw_.Read(&in_, &read_);
  }

  void OnRead(bool ok) {
    reading_ = false;
    if (!ok || ended_) return End(grpc::Status::OK);  // the client is done, or gone
    if (session_ == nullptr) return Submit();
    if (!grpc::SerializationTraits<v1::CryptoBatch>::Deserialize(&in_, &batch_).ok()) {
      return End(
          ToGrpc(Error(v1::REASON_INVALID_ARGUMENT, "the message is no batch of operations"), &context_));
    }
    serving_ = true;
    session_->Serve(batch_, results_, [this](absl::Status status) {
      if (server_.loop_.OnLoop()) return OnServed(status);
      server_.loop_.Post([this, status] { OnServed(status); });
    });
  }

  void OnServed(const absl::Status& status) {
    serving_ = false;
    if (ended_ || !status.ok()) return End(ToGrpc(status, &context_));
    if (writing_) {
      answer_waits_ = true;
    } else {
      Answer();
    }
  }

  void Answer() {
    bool own = false;
    grpc::ByteBuffer out;
    grpc::Status status = grpc::SerializationTraits<v1::CryptoBatchResult>::Serialize(results_, &out, &own);
    if (!status.ok()) return End(status);
    writing_ = true;
    rw_.Write(out, &written_);
    if (!server_.listener_->draining) Read();
  }

  void OnWritten(bool ok) {
    writing_ = false;
    if (ended_ || !ok) return End(grpc::Status::OK);
    if (std::exchange(answer_waits_, false)) return Answer();
    if (!reading_ && !serving_) End(ToGrpc(Error(v1::REASON_UNREACHABLE, "the server is ending"), &context_));
  }

  // Unary: a worker handles it, and ends it. From Finish on it may be gone.
  void Submit() {
    WorkerPool& pool = method_->urgency == Urgency::kUrgent ? server_.urgent_ : server_.workers_;
    serving_ = true;
    bool taken = pool.Submit([this] {
      grpc::ByteBuffer out;
      grpc::Status status = method_->unary(context_, in_, out);
      serving_ = false;
      ended_ = finishing_ = true;
      if (status.ok()) {
        rw_.WriteAndFinish(out, grpc::WriteOptions(), status, &finished_);
      } else {
        rw_.Finish(status, &finished_);
      }
    });
    if (taken) return;
    serving_ = false;
    End(ToGrpc(BusyError(kBusyRetryAfterMs, "too many calls wait"), &context_));
  }

  void End(const grpc::Status& status) {
    if (!ended_) {
      ended_ = true;
      status_ = status;
    }
    Settle();
  }

  // The status goes out when nothing else is on its way out; the call is gone when nothing refers to it any
  // more.
  void Settle() {
    if (writing_ || serving_) return;
    if (!finishing_) {
      finishing_ = true;
      rw_.Finish(status_, &finished_);
    } else if (gone_ && !reading_) {
      Forget();
    }
  }

  void OnFinished(bool) {
    gone_ = true;
    Settle();
  }

  void Forget() {
    Listener& listener = *server_.listener_;
    if (session_ != nullptr) --listener.streams;
    listener.calls.erase(this);
    if (listener.ending && listener.calls.empty()) listener.SetQuiet();
    delete this;
  }

  RpcServer& server_;
  const Method* method_ = nullptr;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter rw_{&context_};
  Tag<&Call::OnAccepted> accepted_{this};
  Tag<&Call::OnRead> read_{this};
  Tag<&Call::OnWritten> written_{this};
  Tag<&Call::OnFinished> finished_{this};
  grpc::ByteBuffer in_;
  std::unique_ptr<BatchSession> session_;
  v1::CryptoBatch batch_;  // both are used again: no allocation in the steady state
  v1::CryptoBatchResult results_;
  grpc::Status status_;
  bool reading_ = false, writing_ = false, serving_ = false, answer_waits_ = false;
  bool ended_ = false, finishing_ = false, gone_ = false;
};

RpcServer::RpcServer(CompletionLoop& loop, Options options)
    : loop_(loop),
      options_(options),
      listener_(std::make_unique<Listener>()),
      workers_("call", options.workers, options.queue_max),
      urgent_("urgent", kUrgentWorkers, kUrgentQueueMax) {}

RpcServer::~RpcServer() { Drain(absl::ZeroDuration()); }

void RpcServer::AddUnary(std::string path, Unary unary, Urgency urgency) {
  methods_[std::move(path)] = Method{.unary = std::move(unary), .open = nullptr, .urgency = urgency};
}

std::vector<std::string> RpcServer::Paths() const {
  std::vector<std::string> paths;
  for (const auto& [path, method] : methods_) paths.push_back(path);
  return paths;
}

void RpcServer::AddStream(std::string path, OpenStream open) {
  methods_[std::move(path)] = Method{.unary = nullptr, .open = std::move(open)};
}

absl::StatusOr<int> RpcServer::Start(const std::string& listen, const TlsFiles& tls) {
  HSM_ASSIGN_OR_RETURN(auto credentials, MakeServerCredentials(tls));
  grpc::ServerBuilder& builder = loop_.builder();
  SetServerArguments(builder);
  int port = 0;
  builder.AddListeningPort(listen, credentials, &port);
  builder.RegisterAsyncGenericService(&listener_->service);
  listener_->server = builder.BuildAndStart();
  if (listener_->server == nullptr || port == 0) {
    listener_->server.reset();
    return Error(v1::REASON_CONFLICT, "cannot listen on " + listen);
  }
  for (int i = 0; i < kAcceptsAhead; ++i) Accept();
  return port;
}

void RpcServer::Accept() { new Call(*this); }

void RpcServer::Drain(absl::Duration grace) {
  if (listener_->server == nullptr) return;
  Listener& listener = *listener_;
  loop_.PostAndWait([&listener] {
    listener.draining = true;
    for (Call* call : listener.calls) call->Drain();
  });
  listener.server->Shutdown(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(grace));
  workers_.Stop();
  urgent_.Stop();
  loop_.PostAndWait([&listener] {
    listener.ending = true;
    if (listener.calls.empty()) listener.SetQuiet();
  });
  {
    MutexLock lock(listener.mutex);
    while (!listener.quiet) listener.changed.Wait(listener.mutex);
  }
  listener.server.reset();
}

}  // namespace hsm
