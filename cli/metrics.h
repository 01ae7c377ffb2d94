#pragma once
// The HSM's figures in the text format that Prometheus reads; docs/operations.md, "Metrics".
#include <optional>
#include <string>

#include "hsm/v1/hsm.pb.h"
#include "hsm/v1/job.pb.h"

namespace hsm::cli {

// `job`: the one that runs, if any. A figure that is not known is left out, never 0.
std::string PrometheusText(const v1::HsmStatus& status, const std::optional<v1::Job>& job);

}  // namespace hsm::cli
