#pragma once
// The coordinator's gRPC server: mutual TLS, all services on one port.
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/tls.h"
#include "coordinator/serve.h"

namespace hsm {

class CoordinatorServer {
 public:
  // CONFIG_INVALID (credentials), CONFLICT (the port is taken). `front` and what it names outlive this.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(const std::string& listen,
                                                                  const TlsFiles& tls, Front& front);
  ~CoordinatorServer();
  int port() const;
  // No new calls; those under way have `grace` to end, then they are cancelled.
  void Drain(absl::Duration grace);

 private:
  class Impl;
  explicit CoordinatorServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm
