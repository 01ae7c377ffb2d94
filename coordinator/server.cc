#include "coordinator/server.h"

#include "common/check.h"
#include "coordinator/handlers.h"
#include "coordinator/permissions.h"

namespace hsm {

CoordinatorServer::CoordinatorServer(CompletionLoop& loop, Front& front)
    : rpc_(loop, {.workers = 128, .queue_max = 1'024, .streams_max = 512}) {
  BindKeyHandlers(front, rpc_);
  BindCryptoHandlers(front, rpc_);
  BindHsmHandlers(front, rpc_);
  BindRoleHandlers(front, rpc_);
  BindJobHandlers(front, rpc_);
  BindBackupHandlers(front, rpc_);
  CheckPermissions();
  BindMembershipHandlers(front, rpc_);  // for nodes, not for callers
}

// A call that nobody decided about must not be served.
void CoordinatorServer::CheckPermissions() const {
  for (const std::string& path : rpc_.Paths()) {  // "/hsm.v1.KeyService/GetKey"
    std::string call = path.substr(path.find_last_of('.') + 1);
    call.replace(call.find('/'), 1, ".");
    HSM_CHECK(FindCall(call) != nullptr);
  }
}

}  // namespace hsm
