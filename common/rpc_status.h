#pragma once
// absl::Status <-> gRPC. The ErrorDetail travels in the trailing metadata "hsm-error-bin"; a status without
// one (made by gRPC itself) gets the nearest reason.
#include <string_view>

#include "absl/status/status.h"

namespace grpc {
class Status;
class ServerContextBase;
class ClientContext;
}  // namespace grpc

namespace hsm {

grpc::Status ToGrpc(const absl::Status& status, grpc::ServerContextBase* context);
absl::Status FromGrpc(const grpc::Status& status, const grpc::ClientContext& context);
// Why a stream to `name` broke: FromGrpc, but an end without a reason of the peer's own is UNREACHABLE.
absl::Status StreamFailure(const grpc::Status& status, const grpc::ClientContext& context,
                           std::string_view name);

}  // namespace hsm
