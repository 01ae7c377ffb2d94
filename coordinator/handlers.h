#pragma once
// The gRPC services of the coordinator, one maker per file (key_handlers.cc, crypto_handlers.cc ...).
// Handlers hold no logic: see serve.h.
#include "common/rpc_server.h"
#include "coordinator/serve.h"

namespace hsm {

// Each binds its services to `server`. `front` outlives it.
void BindKeyHandlers(Front& front, RpcServer& server);
void BindHsmHandlers(Front& front, RpcServer& server);
void BindRoleHandlers(Front& front, RpcServer& server);
void BindJobHandlers(Front& front, RpcServer& server);
void BindBackupHandlers(Front& front, RpcServer& server);
void BindCryptoHandlers(Front& front, RpcServer& server);
// From nodes, not from callers: the name in the request must be that of the node's certificate.
void BindMembershipHandlers(Front& front, RpcServer& server);

}  // namespace hsm
