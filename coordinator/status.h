#pragma once
#include "coordinator/core.h"
#include "hsm/v1/hsm.pb.h"

namespace hsm {

// The HSM as `qhsm status` shows it; reads snapshots only. active_job is filled in by the handler.
v1::HsmStatus BuildStatus(const Core& core);
v1::PartitionStatus ShowPartition(const PartitionView& view);

}  // namespace hsm
