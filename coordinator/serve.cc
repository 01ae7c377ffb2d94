#include "coordinator/serve.h"

#include <grpcpp/grpcpp.h>

#include <string>

#include "common/error.h"
#include "common/log.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/tls.h"

namespace hsm {
namespace {

constexpr absl::Duration kTimeoutMax = absl::Minutes(10);
constexpr absl::Duration kTimeoutDefault = absl::Seconds(30);

absl::Duration TimeLeft(const grpc::ServerContext& context) {
  auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return kTimeoutDefault;
  absl::Duration left = absl::FromChrono(deadline - std::chrono::system_clock::now());
  return std::clamp(left, absl::Milliseconds(1), kTimeoutMax);
}

// A caller has exactly one principal: two would let it choose whose rights it uses and whose name the audit
// shows.
std::optional<PrincipalId> PrincipalOf(const std::vector<std::string>& uris) {
  std::optional<PrincipalId> principal;
  for (const std::string& uri : uris) {
    if (!uri.starts_with("urn:uuid:")) continue;
    if (principal) return std::nullopt;
    principal = ParsePrincipal(uri);
    if (!principal) return std::nullopt;
  }
  return principal;
}

}  // namespace

absl::StatusOr<Caller> Authenticate(Front& front, grpc::ServerContext& context, std::string_view call) {
  Core& core = front.coordinator.core();
  Caller caller;
  caller.correlation = core.random.Below(UINT64_MAX) + 1;
  caller.timeout = TimeLeft(context);
  std::optional<PrincipalId> principal = PrincipalOf(PeerUris(context));
  if (!principal) {
    AuditFields audit = AuditOf(caller, call, "");
    audit.principal = "unknown";
    audit.outcome = ReasonName(v1::REASON_UNAUTHENTICATED);
    core.committer.Denied(std::move(audit));
    return Error(v1::REASON_UNAUTHENTICATED,
                 "the client's certificate names no principal (URI urn:uuid:...)");
  }
  caller.principal = *principal;
  return caller;
}

grpc::Status Serve(Front& front, grpc::ServerContext* context, std::string_view call,
                   const std::function<absl::Status(const Caller&)>& body) {
  absl::StatusOr<Caller> caller = Authenticate(front, *context, call);
  if (!caller.ok()) return ToGrpc(caller.status(), context);
  absl::Status status = body(*caller);
  if (ReasonOf(status) == v1::REASON_INTERNAL) {
    LogError("a call failed inside",
             {{"call", call}, {"correlation", caller->correlation}, {"error", status}});
  } else if (!status.ok()) {
    LogDebug("a call failed", {{"call", call}, {"correlation", caller->correlation}, {"error", status}});
  }
  return ToGrpc(status, context);
}

}  // namespace hsm
