#pragma once
// A gRPC server on a CompletionLoop: mutual TLS, one port, all methods of a process. Unary calls are read on
// the loop and handled by worker threads, so handlers may block; streams of crypto batches are served on the
// loop itself, without a hand-off. Methods are bound by common/rpc_bind.h before Start.
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/completion_loop.h"
#include "common/tls.h"
#include "common/worker_pool.h"
#include "hsm/v1/crypto.pb.h"

namespace grpc {
class ByteBuffer;
class ServerContext;
class Status;
}  // namespace grpc

namespace hsm {

// The server's end of one stream of batches. All calls on the loop, one batch at a time.
class BatchSession {
 public:
  // Calls once, on any thread, when `results` is filled in: OK sends it, a failure ends the stream with that.
  using Done = std::function<void(absl::Status)>;
  virtual ~BatchSession() = default;
  // `results` comes with what it held before. Both stay until `done` was called. Must not block: long work
  // goes to a worker.
  virtual void Serve(v1::CryptoBatch& batch, v1::CryptoBatchResult& results, Done done) = 0;
};

class RpcServer {
 public:
  struct Options {
    size_t workers = 64;       // threads for unary calls
    size_t queue_max = 1'024;  // unary calls that wait for a thread; beyond: BUSY
    size_t streams_max = 512;  // open at once; beyond: BUSY
  };
  // Calls on which leases hang have threads of their own, so that no number of blocked calls delays them.
  enum class Urgency { kNormal, kUrgent };
  using Unary = std::function<grpc::Status(grpc::ServerContext&, grpc::ByteBuffer& request,
                                           grpc::ByteBuffer& response)>;
  // Who calls, once per stream. A failure refuses it.
  using OpenStream = std::function<absl::StatusOr<std::unique_ptr<BatchSession>>(grpc::ServerContext&)>;

  RpcServer(CompletionLoop& loop, Options options);
  ~RpcServer();  // drains without grace

  // `path` as on the wire, "/hsm.v1.KeyService/GetKey". Before Start.
  void AddUnary(std::string path, Unary unary, Urgency urgency = Urgency::kNormal);
  void AddStream(std::string path, OpenStream open);
  std::vector<std::string> Paths() const;  // of all calls it serves

  // CONFIG_INVALID (credentials), CONFLICT (cannot listen). Returns the port.
  absl::StatusOr<int> Start(const std::string& listen, const TlsFiles& tls);
  // No new calls; those under way have `grace` to end, then they are cancelled. Returns when the last has
  // ended. Not on the loop.
  void Drain(absl::Duration grace);

 private:
  class Call;
  struct Listener;
  struct Method {
    Unary unary;
    OpenStream open;
    Urgency urgency = Urgency::kNormal;
  };
  void Accept();

  CompletionLoop& loop_;
  const Options options_;
  std::unordered_map<std::string, Method> methods_;
  std::unique_ptr<Listener> listener_;
  WorkerPool workers_, urgent_;
};

}  // namespace hsm
