#pragma once
// The gRPC face of a node: decode, one call, encode. Only coordinators may call (their certificate says so).
#include <memory>

#include "node/lifecycle.h"

namespace grpc {
class Service;
}

namespace hsm {

// `streams_max` crypto streams at once; more are refused with BUSY.
std::unique_ptr<grpc::Service> MakePartitionService(Lifecycle& life, uint32_t streams_max);

}  // namespace hsm
