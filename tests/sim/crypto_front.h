#pragma once
#include "coordinator/caller.h"
#include "coordinator/core.h"
#include "hsm/v1/crypto.pb.h"

namespace hsm::testing {

// What coordinator/router does on the completion queue, in blocking form: authorise, check the key's state,
// route, fail over once per partition.
absl::StatusOr<v1::CryptoResult> RouteCrypto(Core& core, const Caller& caller, const v1::CryptoOp& op,
                                             Random& random);

}  // namespace hsm::testing
