#pragma once
// What the cluster is compared with: the same module in this very process, and OpenSSL alone.
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/bench_load.h"

namespace hsm::cli {

enum class BenchKey { kP256, kRsa2048, kRsa4096, kHmac, kAes256 };
std::string BenchKeyName(BenchKey key);  // "P-256"

constexpr size_t kBenchDataBytes = 1024;  // of HMAC and AES-GCM

// A throw-away SoftHSM token in a temporary directory, removed by the destructor. One thread at a time.
class BareToken {
 public:
  static absl::StatusOr<std::unique_ptr<BareToken>> Make(const std::string& module);
  ~BareToken();
  BareToken(const BareToken&) = delete;
  BareToken& operator=(const BareToken&) = delete;

  // The operation a cluster of this module does at its core: sign for P-256, RSA and HMAC, encrypt for AES.
  // The key is a token object, or one of the session.
  absl::StatusOr<Operation> Prepare(BenchKey key, bool token_object);

 private:
  struct State;
  explicit BareToken(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The same by EVP: what no token can beat on this CPU.
absl::StatusOr<Operation> PrepareOpenSsl(BenchKey key);

}  // namespace hsm::cli
