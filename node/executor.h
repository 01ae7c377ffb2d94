#pragma once
// Key use: one batch of crypto ops, in order, on the caller's thread. The sealed policy is enforced again
// here, whatever the coordinator decided. On the hot path (key in the cache) nothing but memory and the token
// is touched. Thread-safe.
#include <array>
#include <atomic>

#include "absl/status/statusor.h"
#include "hsm/v1/crypto.pb.h"
#include "node/core.h"
#include "node/prover.h"

namespace hsm {

class Executor {
 public:
  Executor(NodeCore& core, NodeProver& prover) : core_(core), prover_(prover) {}

  void Execute(const v1::CryptoBatch& batch, v1::CryptoBatchResult* results);

  // See Partition::IsQuick. Looks at memory only.
  bool IsQuick(const v1::CryptoBatch& batch) const;

  uint64_t total_ops() const { return total_ops_.load(std::memory_order_relaxed); }
  uint32_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }

 private:
  struct Call;  // one op on its way
  absl::Status Run(Call& call);
  absl::Status RunOnKey(Call& call);
  absl::Status CheckPolicy(Call& call, const IndexEntry& entry) const;
  absl::Status Perform(Call& call, const CachedKeyPtr& key);
  absl::Status Sign(Call& call, const CachedKeyPtr& key);
  absl::Status Verify(Call& call, const CachedKeyPtr& key);
  absl::Status EncryptOrWrap(Call& call, const CachedKeyPtr& key);
  absl::Status DecryptOrUnwrap(Call& call, const CachedKeyPtr& key);
  bool VerifyThisOne(CachedKey& key) const;
  void Audit(const Call& call, absl::Status& status);

  std::atomic<uint32_t>& UsualNs(const v1::CryptoOp& op) const;
  void Observe(const v1::CryptoOp& op, absl::Duration took);

  NodeCore& core_;
  NodeProver& prover_;
  // Median time of an operation by {operation, algorithm}, in nanoseconds; 0 = none seen.
  mutable std::array<std::atomic<uint32_t>, 8 * 64> usual_ns_{};
  std::atomic<uint64_t> total_ops_{0};
  std::atomic<uint32_t> in_flight_{0};
};

// May a key in this state be used like this now? Azure's rules: a disabled key does nothing; outside nbf..exp
// it still decrypts, unwraps and verifies. Pure; also for tests.
absl::Status CheckKeyUse(const IndexEntry& entry, v1::CryptoOperation operation, int64_t now_seconds);
}  // namespace hsm
