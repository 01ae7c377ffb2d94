#include "coordinator/server.h"

#include "coordinator/handlers.h"

namespace hsm {

CoordinatorServer::CoordinatorServer(CompletionLoop& loop, Front& front)
    : rpc_(loop, {.workers = 128, .queue_max = 1'024, .streams_max = 512}) {
  BindKeyHandlers(front, rpc_);
  BindCryptoHandlers(front, rpc_);
  BindHsmHandlers(front, rpc_);
  BindJobHandlers(front, rpc_);
  BindBackupHandlers(front, rpc_);
  BindMembershipHandlers(front, rpc_);
}

}  // namespace hsm
