#include <grpcpp/grpcpp.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/rpc_bind.h"
#include "common/rpc_status.h"
#include "common/tls.h"
#include "coordinator/handlers.h"
#include "hsm/internal/v1/control.grpc.pb.h"

namespace hsm {
namespace {

class MembershipHandlers final : public internal::v1::MembershipService::Service {
 public:
  explicit MembershipHandlers(Front& front) : front_(front) {}

  grpc::Status Heartbeat(grpc::ServerContext* context, const internal::v1::HeartbeatRequest* request,
                         internal::v1::HeartbeatResponse* response) override {
    if (absl::Status status = CheckNode(*context, request->node()); !status.ok())
      return ToGrpc(status, context);
    *response = front_.coordinator.OnHeartbeat(*request);
    return grpc::Status::OK;
  }

 private:
  absl::Status CheckNode(const grpc::ServerContext& context, const std::string& node) {
    if (PeerName(PeerUris(context), "node") != node) {
      return Error(v1::REASON_PERMISSION_DENIED, "the certificate is not that of node " + node);
    }
    for (const PartitionConfig& partition : front_.coordinator.config().partitions) {
      if (partition.name != node) continue;
      if (partition.certificate_sha256.empty()) return absl::OkStatus();
      if (PeerFingerprint(*context.auth_context()) == FromHex(partition.certificate_sha256))
        return absl::OkStatus();
      return Error(v1::REASON_PERMISSION_DENIED, "the certificate is not the one pinned for node " + node);
    }
    return Error(v1::REASON_PERMISSION_DENIED, "no partition is called " + node);
  }

  Front& front_;
};

}  // namespace

void BindMembershipHandlers(Front& front, RpcServer& server) {
  RpcBinder<internal::v1::MembershipService, MembershipHandlers>(server,
                                                                 std::make_shared<MembershipHandlers>(front))
      .Unary("Heartbeat", &MembershipHandlers::Heartbeat, RpcServer::Urgency::kUrgent);
}

}  // namespace hsm
