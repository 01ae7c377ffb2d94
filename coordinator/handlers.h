#pragma once
// The gRPC services of the coordinator, one maker per file (key_handlers.cc, crypto_handlers.cc ...).
// Handlers hold no logic: see serve.h.
#include <atomic>
#include <memory>

#include "coordinator/serve.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace hsm {

std::unique_ptr<grpc::Service> MakeKeyHandlers(Front& front);
std::unique_ptr<grpc::Service> MakeHsmHandlers(Front& front);
std::unique_ptr<grpc::Service> MakeJobHandlers(Front& front);
std::unique_ptr<grpc::Service> MakeBackupHandlers(Front& front);
// Streams end soon after `draining` is set: at their next batch.
std::unique_ptr<grpc::Service> MakeCryptoHandlers(Front& front, const std::atomic<bool>& draining);
// From nodes, not from callers: the name in the request must be that of the node's certificate.
std::unique_ptr<grpc::Service> MakeMembershipHandlers(Front& front);

}  // namespace hsm
