#include <grpcpp/grpcpp.h>

#include "coordinator/handlers.h"
#include "hsm/v1/key.grpc.pb.h"

namespace hsm {
namespace {

class KeyHandlers final : public v1::KeyService::Service {
 public:
  explicit KeyHandlers(Front& front) : front_(front) {}

#define HSM_KEY_CALL(Method, Request, Response)                                                         \
  grpc::Status Method(grpc::ServerContext* context, const v1::Request* request, v1::Response* response) \
      override {                                                                                        \
    return Serve(front_, context, "KeyService." #Method, [&](const Caller& caller) {                    \
      return Fill(response, front_.coordinator.Method(caller, *request));                               \
    });                                                                                                 \
  }
  HSM_KEY_CALL(CreateKey, CreateKeyRequest, Key)
  HSM_KEY_CALL(GetKey, GetKeyRequest, Key)
  HSM_KEY_CALL(ListKeys, ListKeysRequest, ListKeysResponse)
  HSM_KEY_CALL(ListKeyVersions, ListKeyVersionsRequest, ListKeysResponse)
  HSM_KEY_CALL(SetKeyAttributes, SetKeyAttributesRequest, Key)
  HSM_KEY_CALL(RotateKey, RotateKeyRequest, Key)
  HSM_KEY_CALL(DeleteKey, DeleteKeyRequest, DeleteKeyResponse)
  HSM_KEY_CALL(ProveKey, ProveKeyRequest, ProveKeyResponse)
#undef HSM_KEY_CALL

 private:
  Front& front_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeKeyHandlers(Front& front) { return std::make_unique<KeyHandlers>(front); }

}  // namespace hsm
