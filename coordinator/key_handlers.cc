#include <grpcpp/grpcpp.h>

#include "common/rpc_bind.h"
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
  HSM_KEY_CALL(DeleteKey, DeleteKeyRequest, DeletedKey)
  HSM_KEY_CALL(GetDeletedKey, GetDeletedKeyRequest, DeletedKey)
  HSM_KEY_CALL(ListDeletedKeys, ListDeletedKeysRequest, ListDeletedKeysResponse)
  HSM_KEY_CALL(RecoverDeletedKey, RecoverDeletedKeyRequest, Key)
  HSM_KEY_CALL(PurgeDeletedKey, PurgeDeletedKeyRequest, PurgeDeletedKeyResponse)
  HSM_KEY_CALL(ProveKey, ProveKeyRequest, ProveKeyResponse)
#undef HSM_KEY_CALL

 private:
  Front& front_;
};

}  // namespace

void BindKeyHandlers(Front& front, RpcServer& server) {
  RpcBinder<v1::KeyService, KeyHandlers>(server, std::make_shared<KeyHandlers>(front))
      .Unary("CreateKey", &KeyHandlers::CreateKey)
      .Unary("GetKey", &KeyHandlers::GetKey)
      .Unary("ListKeys", &KeyHandlers::ListKeys)
      .Unary("ListKeyVersions", &KeyHandlers::ListKeyVersions)
      .Unary("SetKeyAttributes", &KeyHandlers::SetKeyAttributes)
      .Unary("RotateKey", &KeyHandlers::RotateKey)
      .Unary("DeleteKey", &KeyHandlers::DeleteKey)
      .Unary("GetDeletedKey", &KeyHandlers::GetDeletedKey)
      .Unary("ListDeletedKeys", &KeyHandlers::ListDeletedKeys)
      .Unary("RecoverDeletedKey", &KeyHandlers::RecoverDeletedKey)
      .Unary("PurgeDeletedKey", &KeyHandlers::PurgeDeletedKey)
      .Unary("ProveKey", &KeyHandlers::ProveKey);
}

}  // namespace hsm
