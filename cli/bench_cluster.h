#pragma once
// What the cluster is asked to do, by name, and the rows of the result.
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_load.h"
#include "cli/bench_token.h"
#include "client/client.h"

namespace hsm::cli {

struct BenchCase {
  std::string name;  // "sign-p256"
  std::string op;    // "sign"
  BenchKey key;
  bool has_token_twin = true;  // the bare token can do the same operation
  bool of_many = false;        // works on --keys keys of the kind --kind (cli/bench_scale.h)
};
const std::vector<BenchCase>& BenchCases();
absl::StatusOr<BenchCase> FindBenchCase(const std::string& name);

// The keys a run needs, made for it and deleted at its end; or one that is there already.
class ClusterKeys {
 public:
  explicit ClusterKeys(Client& client);
  ~ClusterKeys();
  ClusterKeys(const ClusterKeys&) = delete;
  ClusterKeys& operator=(const ClusterKeys&) = delete;

  // `existing` not empty: use that key. One signature in 1,000 is checked by another call.
  absl::StatusOr<Operation> Prepare(const BenchCase& bench, const std::string& existing);

 private:
  absl::StatusOr<std::string> Key(BenchKey key, const std::string& existing);
  absl::StatusOr<Operation> PrepareVerify(const std::string& name);
  absl::StatusOr<Operation> PrepareMixed();
  Operation PrepareCreate();
  std::string CreatedName(uint64_t number) const;

  Client& client_;
  std::vector<std::pair<BenchKey, std::string>> made_;
  std::string run_;                   // in the names of this run's keys
  std::atomic<uint64_t> created_{0};  // by the create case
};

v1::CreateKeyRequest NewBenchKey(BenchKey key, const std::string& name);
v1::CryptoOp BenchOp(BenchKey key, const std::string& name);

}  // namespace hsm::cli
