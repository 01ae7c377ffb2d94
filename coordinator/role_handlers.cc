#include <grpcpp/grpcpp.h>

#include "common/rpc_bind.h"
#include "coordinator/handlers.h"
#include "coordinator/roles.h"
#include "hsm/v1/role.grpc.pb.h"

namespace hsm {
namespace {

class RoleHandlers final : public v1::RoleService::Service {
 public:
  explicit RoleHandlers(Front& front) : front_(front) {}

#define HSM_ROLE_CALL(Method, Does, Request, Response)                                                  \
  grpc::Status Method(grpc::ServerContext* context, const v1::Request* request, v1::Response* response) \
      override {                                                                                        \
    return Serve(front_, context, "RoleService." #Method, [&](const Caller& caller) {                   \
      return Fill(response, front_.coordinator.roles().Does(caller, *request));                         \
    });                                                                                                 \
  }
  HSM_ROLE_CALL(ListRoleDefinitions, ListDefinitions, ListRoleDefinitionsRequest, ListRoleDefinitionsResponse)
  HSM_ROLE_CALL(GetRoleDefinition, GetDefinition, GetRoleDefinitionRequest, RoleDefinition)
  HSM_ROLE_CALL(PutRoleDefinition, PutDefinition, PutRoleDefinitionRequest, RoleDefinition)
  HSM_ROLE_CALL(DeleteRoleDefinition, DeleteDefinition, DeleteRoleDefinitionRequest, RoleDefinition)
  HSM_ROLE_CALL(ListRoleAssignments, ListAssignments, ListRoleAssignmentsRequest, ListRoleAssignmentsResponse)
  HSM_ROLE_CALL(GetRoleAssignment, GetAssignment, GetRoleAssignmentRequest, RoleAssignment)
  HSM_ROLE_CALL(PutRoleAssignment, PutAssignment, PutRoleAssignmentRequest, RoleAssignment)
  HSM_ROLE_CALL(DeleteRoleAssignment, DeleteAssignment, DeleteRoleAssignmentRequest, RoleAssignment)
#undef HSM_ROLE_CALL

 private:
  Front& front_;
};

}  // namespace

void BindRoleHandlers(Front& front, RpcServer& server) {
  RpcBinder<v1::RoleService, RoleHandlers>(server, std::make_shared<RoleHandlers>(front))
      .Unary("ListRoleDefinitions", &RoleHandlers::ListRoleDefinitions)
      .Unary("GetRoleDefinition", &RoleHandlers::GetRoleDefinition)
      .Unary("PutRoleDefinition", &RoleHandlers::PutRoleDefinition)
      .Unary("DeleteRoleDefinition", &RoleHandlers::DeleteRoleDefinition)
      .Unary("ListRoleAssignments", &RoleHandlers::ListRoleAssignments)
      .Unary("GetRoleAssignment", &RoleHandlers::GetRoleAssignment)
      .Unary("PutRoleAssignment", &RoleHandlers::PutRoleAssignment)
      .Unary("DeleteRoleAssignment", &RoleHandlers::DeleteRoleAssignment);
}

}  // namespace hsm
