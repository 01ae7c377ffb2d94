#pragma once
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/ledger.h"
#include "tests/sim/sim_cluster.h"

namespace hsm::testing {

struct WorkloadOptions {
  std::vector<std::string> names = {"a", "b", "c"};  // shared by all callers
  int callers = 3;
  int calls_each = 12;
  absl::Duration pause_max = absl::Milliseconds(600);
  // Weights of the kinds of calls.
  uint32_t create = 22, get = 14, set_enabled = 14, rotate = 8, remove = 10, recover = 5, purge = 7,
           sign = 34;
};

// A caller that wants an answer: repeats the same op id while the outcome is open, then writes down what it
// learned.
class SimCaller {
 public:
  SimCaller(SimCluster& cluster, Ledger& ledger) : cluster_(cluster), ledger_(ledger) {}

  enum class Outcome { kDone, kRefused, kOpen };
  Outcome Create(const std::string& name);
  Outcome CreateSymmetric(const std::string& name);  // AES-256; for scenarios with names of their own
  void Get(const std::string& name);
  Outcome SetEnabled(const std::string& name, bool enabled);
  Outcome Rotate(const std::string& name);
  Outcome Delete(const std::string& name);
  Outcome Recover(const std::string& name);
  Outcome Purge(const std::string& name);
  Outcome Destroy(const std::string& name);  // deletes and purges
  void Sign(const std::string& name);
  int attempts = 5;

 private:
  struct Told {
    absl::Status status;
    v1::Key key;
    bool was_open = false;     // an earlier attempt ended without an answer
    int64_t first_called = 0;  // of all attempts
    int64_t last_called = 0;
  };
  Told Insist(const std::function<absl::StatusOr<v1::Key>()>& attempt);
  Outcome Write(const std::string& name, KeyModel::Op op, std::string_view operation, const Told& told);
  Outcome CreateAs(v1::CreateKeyRequest request);
  void CheckHolders(const v1::Key& key);
  std::string NewOpId();

  SimCluster& cluster_;
  Ledger& ledger_;
};

// Starts the callers; `*left` is how many still work.
void StartWorkload(SimCluster& cluster, Ledger& ledger, const WorkloadOptions& options,
                   std::shared_ptr<int> left);

}  // namespace hsm::testing
