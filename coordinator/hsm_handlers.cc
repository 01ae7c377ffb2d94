#include <grpcpp/grpcpp.h>

#include "common/rpc_bind.h"
#include "coordinator/handlers.h"
#include "coordinator/jobs.h"
#include "hsm/v1/hsm.grpc.pb.h"

namespace hsm {
namespace {

class HsmHandlers final : public v1::HsmService::Service {
 public:
  explicit HsmHandlers(Front& front) : front_(front) {}

  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                         v1::HsmStatus* response) override {
    return Serve(front_, context, "HsmService.GetStatus", [&](const Caller& caller) {
      absl::Status status = Fill(response, front_.coordinator.GetStatus(caller));
      if (status.ok() && front_.jobs != nullptr) response->set_active_job(front_.jobs->ActiveJob());
      return status;
    });
  }

#define HSM_HSM_CALL(Method, Request, Response)                                                         \
  grpc::Status Method(grpc::ServerContext* context, const v1::Request* request, v1::Response* response) \
      override {                                                                                        \
    return Serve(front_, context, "HsmService." #Method, [&](const Caller& caller) {                    \
      return Fill(response, front_.coordinator.Method(caller, *request));                               \
    });                                                                                                 \
  }
  HSM_HSM_CALL(DrainPartition, PartitionRequest, PartitionResponse)
  HSM_HSM_CALL(ResumePartition, PartitionRequest, PartitionResponse)
  HSM_HSM_CALL(ApprovePartition, ApprovePartitionRequest, PartitionResponse)
  HSM_HSM_CALL(ListAudit, ListAuditRequest, ListAuditResponse)
#undef HSM_HSM_CALL

 private:
  Front& front_;
};

}  // namespace

void BindHsmHandlers(Front& front, RpcServer& server) {
  RpcBinder<v1::HsmService, HsmHandlers>(server, std::make_shared<HsmHandlers>(front))
      .Unary("GetStatus", &HsmHandlers::GetStatus)
      .Unary("DrainPartition", &HsmHandlers::DrainPartition)
      .Unary("ResumePartition", &HsmHandlers::ResumePartition)
      .Unary("ApprovePartition", &HsmHandlers::ApprovePartition)
      .Unary("ListAudit", &HsmHandlers::ListAudit);
}

}  // namespace hsm
