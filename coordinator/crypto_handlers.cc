#include <grpcpp/grpcpp.h>

#include <atomic>

#include "common/error.h"
#include "common/rpc_status.h"
#include "coordinator/handlers.h"
#include "hsm/v1/crypto.grpc.pb.h"

namespace hsm {
namespace {

constexpr uint32_t kStreamsMax = 512;  // each has a thread of its own
constexpr uint32_t kStreamsRetryAfterMs = 500;

class CryptoHandlers final : public v1::CryptoService::Service {
 public:
  CryptoHandlers(Front& front, const std::atomic<bool>& draining) : front_(front), draining_(draining) {}

  grpc::Status Execute(grpc::ServerContext* context, const v1::CryptoRequest* request,
                       v1::CryptoResult* response) override {
    return Serve(front_, context, "CryptoService.Execute", [&](const Caller& caller) {
      return Fill(response, front_.crypto.ExecuteOne(caller, request->op()));
    });
  }

  // Who calls is found out once per stream; what they may do is decided for each operation.
  grpc::Status Stream(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::CryptoBatchResult, v1::CryptoBatch>* stream) override {
    absl::StatusOr<Caller> caller = Authenticate(front_, *context, "CryptoService.Stream");
    if (!caller.ok()) return ToGrpc(caller.status(), context);
    if (streams_.fetch_add(1) >= kStreamsMax) {
      streams_.fetch_sub(1);
      return ToGrpc(BusyError(kStreamsRetryAfterMs, "too many crypto streams are open"), context);
    }
    v1::CryptoBatch batch;  // both are used again: no allocation in the steady state
    v1::CryptoBatchResult results;
    while (!draining_.load(std::memory_order_relaxed) && stream->Read(&batch)) {
      ++caller->correlation;
      front_.crypto.Execute(*caller, batch, results);
      if (!stream->Write(results)) break;
    }
    streams_.fetch_sub(1);
    return grpc::Status::OK;
  }

 private:
  Front& front_;
  const std::atomic<bool>& draining_;
  std::atomic<uint32_t> streams_{0};
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCryptoHandlers(Front& front, const std::atomic<bool>& draining) {
  return std::make_unique<CryptoHandlers>(front, draining);
}

}  // namespace hsm
