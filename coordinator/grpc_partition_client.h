#pragma once
// A partition over gRPC with mutual TLS. The peer must hold a certificate of the cluster's CA for its own
// name, be urn:qhsm:node:NAME, and match the pin if one is configured. Batches have streams and a channel of
// their own (coordinator/partition_streams.h), so that management calls never queue behind them. Thread-safe.
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/completion_loop.h"
#include "common/tls.h"
#include "coordinator/config.h"
#include "coordinator/partition_client.h"

namespace hsm {

// CONFIG_INVALID for unusable credentials or pin. Connects at the first call. `loop` carries the streams and
// outlives the client.
absl::StatusOr<std::unique_ptr<PartitionClient>> MakeGrpcPartitionClient(const PartitionConfig& partition,
                                                                         const TlsFiles& tls,
                                                                         CompletionLoop& loop,
                                                                         Clock& clock = RealClock());

}  // namespace hsm
