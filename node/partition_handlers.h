#pragma once
// The gRPC face of a node: decode, one call, encode. Only coordinators may call (their certificate says so).
#include <functional>

#include "common/rpc_server.h"
#include "common/worker_pool.h"
#include "node/lifecycle.h"

namespace hsm {

// `crypto` runs batches that may block or take long; it outlives the server, as does `life`.
// `changed` is called after calls that may have changed what the partition holds; from any thread.
void BindPartitionHandlers(Lifecycle& life, WorkerPool& crypto, RpcServer& server,
                           std::function<void()> changed);

}  // namespace hsm
