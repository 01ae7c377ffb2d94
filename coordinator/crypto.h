#pragma once
// Using keys: decides each operation by the policy in memory (rights, key state, algorithm) and has the
// router carry out what is allowed. Deny by default. No gRPC here: handlers and simulations call this.
// Thread-safe; calls block.
#include "absl/status/status.h"
#include "coordinator/caller.h"
#include "coordinator/core.h"
#include "coordinator/router.h"
#include "hsm/v1/crypto.pb.h"

namespace hsm {

class Crypto {
 public:
  explicit Crypto(Core& core) : core_(core), router_(core) {}

  // Answers every operation of `batch`, in order; each has its own outcome. `batch` is used up: routes and
  // versions are filled in. The batch's time is the longest of its operations' timeouts; each keeps its own.
  void Execute(const Caller& caller, v1::CryptoBatch& batch, v1::CryptoBatchResult& results);

  // One operation; a failure as a status.
  absl::StatusOr<v1::CryptoResult> ExecuteOne(const Caller& caller, v1::CryptoOp op);

 private:
  // OK: may be done now, and `op` carries the route and the version.
  absl::Status Decide(const Caller& caller, int64_t now_seconds, v1::CryptoOp& op) const;
  absl::Status DecideKey(const Caller& caller, int64_t now_seconds, v1::CryptoOp& op) const;

  Core& core_;
  Router router_;
};

}  // namespace hsm
