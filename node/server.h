#pragma once
// The node on the network: the gRPC server, and the heartbeat by which it asks for its lease.
#include <memory>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "node/lifecycle.h"

namespace hsm {

class NodeServer {
 public:
  // Listens and begins to ask. `life` outlives this.
  static absl::StatusOr<std::unique_ptr<NodeServer>> Start(Lifecycle& life);
  ~NodeServer();
  void Stop();  // calls that run get two seconds to end

 private:
  struct Rpc;  // all that needs gRPC's headers
  explicit NodeServer(Lifecycle& life);
  void HeartbeatLoop();
  void ReportSoon();             // what this partition holds has changed: status should not lag behind
  bool Ask(size_t coordinator);  // whether it granted

  Lifecycle& life_;
  Mutex mutex_;
  CondVar changed_;
  bool stop_ HSM_GUARDED_BY(mutex_) = false;
  bool report_soon_ HSM_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Rpc> rpc_;  // its calls use what is above
  Thread heartbeat_;
};

}  // namespace hsm
