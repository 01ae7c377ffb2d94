#include <grpcpp/grpcpp.h>

#include <utility>

#include "common/rpc_bind.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "coordinator/handlers.h"
#include "hsm/v1/crypto.grpc.pb.h"

namespace hsm {
namespace {

// One stream: who calls is found out once, what they may do is decided for each operation.
class CryptoSession final : public BatchSession {
 public:
  CryptoSession(Crypto& crypto, Caller caller) : crypto_(crypto), caller_(std::move(caller)) {}

  void Serve(v1::CryptoBatch& batch, v1::CryptoBatchResult& results, Done done) override {
    ++caller_.correlation;
    crypto_.Start(caller_, batch, results, [done = std::move(done)] { done(absl::OkStatus()); });
  }

 private:
  Crypto& crypto_;
  Caller caller_;
};

class CryptoHandlers final : public v1::CryptoService::Service {
 public:
  explicit CryptoHandlers(Front& front) : front_(front) {}

  grpc::Status Execute(grpc::ServerContext* context, const v1::CryptoRequest* request,
                       v1::CryptoResult* response) override {
    return hsm::Serve(front_, context, "CryptoService.Execute", [&](const Caller& caller) {
      return Fill(response, front_.crypto.ExecuteOne(caller, request->op()));
    });
  }

  absl::StatusOr<std::unique_ptr<BatchSession>> Open(grpc::ServerContext& context) {
    HSM_ASSIGN_OR_RETURN(Caller caller, Authenticate(front_, context, "CryptoService.Stream"));
    return std::make_unique<CryptoSession>(front_.crypto, std::move(caller));
  }

 private:
  Front& front_;
};

}  // namespace

void BindCryptoHandlers(Front& front, RpcServer& server) {
  RpcBinder<v1::CryptoService, CryptoHandlers>(server, std::make_shared<CryptoHandlers>(front))
      .Unary("Execute", &CryptoHandlers::Execute)
      .Stream("Stream",
              [](CryptoHandlers& handlers, grpc::ServerContext& context) { return handlers.Open(context); });
}

}  // namespace hsm
