#pragma once
// Using keys: decides each operation by the policy in memory (rights, key state, algorithm) and has the
// router carry out what is allowed. Deny by default. No gRPC here: handlers and simulations call this.
// Thread-safe.
#include <functional>
#include <vector>

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
  // Blocks.
  void Execute(const Caller& caller, v1::CryptoBatch& batch, v1::CryptoBatchResult& results);
  // The same without blocking: calls `done` once, on any thread, also before it returns. All arguments stay
  // until then.
  void Start(const Caller& caller, v1::CryptoBatch& batch, v1::CryptoBatchResult& results,
             std::function<void()> done);

  // One operation; a failure as a status.
  absl::StatusOr<v1::CryptoResult> ExecuteOne(const Caller& caller, v1::CryptoOp op);

 private:
  // Answers what may not be done, and returns what may.
  std::vector<int> Admit(const Caller& caller, v1::CryptoBatch& batch, v1::CryptoBatchResult& results) const;
  Router::Decide DecideAgain(const Caller& caller) const;
  // OK: may be done now, and `op` carries the route and the version.
  absl::Status Decide(const Caller& caller, int64_t now_seconds, v1::CryptoOp& op) const;
  absl::Status DecideKey(const Caller& caller, int64_t now_seconds, v1::CryptoOp& op) const;

  Core& core_;
  Router router_;
};

}  // namespace hsm
