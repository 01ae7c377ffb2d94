#pragma once
// The coordinator's gRPC server: mutual TLS, all services on one port.
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc_server.h"
#include "coordinator/serve.h"

namespace hsm {

class CoordinatorServer {
 public:
  // `front` and what it names outlive this, and so does `loop`, which no other server may use.
  CoordinatorServer(CompletionLoop& loop, Front& front);
  // CONFIG_INVALID (credentials), CONFLICT (the port is taken). Returns the port.
  absl::StatusOr<int> Start(const std::string& listen, const TlsFiles& tls) {
    return rpc_.Start(listen, tls);
  }
  // No new calls; those under way have `grace` to end, then they are cancelled.
  void Drain(absl::Duration grace) { rpc_.Drain(grace); }

 private:
  void CheckPermissions() const;

  RpcServer rpc_;
};

}  // namespace hsm
