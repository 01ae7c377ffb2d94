#pragma once
// What every handler shares. A handler decodes, makes one call, encodes; Serve finds out who calls and how
// long they wait, turns the outcome into a gRPC status, and records calls that were refused for want of an
// identity. Rights are checked where the effect happens (keys, crypto, jobs).
#include <functional>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "coordinator/caller.h"
#include "coordinator/coordinator.h"
#include "coordinator/crypto.h"

namespace grpc {
class ServerContext;
class Status;
}  // namespace grpc

namespace hsm {

class Jobs;

// What handlers call. All outlive the server.
struct Front {
  Coordinator& coordinator;
  Crypto& crypto;
  Jobs* jobs = nullptr;  // null: UNSUPPORTED
};

// The principal in the client's certificate, with a new correlation id. UNAUTHENTICATED without exactly one.
absl::StatusOr<Caller> Authenticate(Front& front, grpc::ServerContext& context, std::string_view call);

grpc::Status Serve(Front& front, grpc::ServerContext* context, std::string_view call,
                   const std::function<absl::Status(const Caller&)>& body);

template <typename Response>
absl::Status Fill(Response* response, absl::StatusOr<Response> result) {
  if (!result.ok()) return std::move(result).status();
  *response = *std::move(result);
  return absl::OkStatus();
}

}  // namespace hsm
