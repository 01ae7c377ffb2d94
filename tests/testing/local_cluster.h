#pragma once
// An HSM in one process and in real time: Partition cores on fake tokens with disks in memory, a Coordinator
// on the model store, and calls that go straight from one to the other. For tests of jobs; the simulation has
// time, chance and the network in its hand instead (tests/sim/sim_cluster.h).
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "common/virtual_clock.h"
#include "coordinator/coordinator.h"
#include "coordinator/jobs.h"
#include "node/partition.h"
#include "store/store_model.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/fake_token.h"
#include "tests/testing/seeded_random.h"

namespace hsm::testing {

// Says how a call of this name to this partition ends before it reaches it; OK lets it through. Thread-safe.
using CallFilter = std::function<absl::Status(size_t partition, std::string_view call)>;

// What makes records of one HSM readable: the KEKs of its tokens, its id, its domain keys.
struct LocalDomain {
  std::shared_ptr<const FakeDomain> keks;
  HsmId hsm;
  rpc::DomainBundle bundle;
};

class LocalCluster {
 public:
  // `domain`: of an HSM that was there before; a new one if left out.
  explicit LocalCluster(size_t partitions = 3, JobOptions options = QuickOptions(),
                        std::optional<LocalDomain> domain = std::nullopt);
  ~LocalCluster();

  static JobOptions QuickOptions();  // short windows; everything else as in production

  // Brings a coordinator up on the same store and nodes, and waits until all running partitions are READY.
  ::testing::AssertionResult StartCoordinator();
  void StopCoordinator();        // jobs stay where they are
  void StopNode(size_t index);   // calls under way end by themselves
  void StartNode(size_t index);  // a new process on the same disk and token
  void SetFilter(CallFilter filter);

  Coordinator& coordinator() { return *coordinator_; }
  Jobs& jobs() { return *jobs_; }
  Store& store() { return store_; }
  CoordinatorConfig& config() { return config_; }  // takes effect with the next StartCoordinator
  LocalDomain domain() const { return {keks_, hsm_, bundle_}; }
  CrashVfs& disk(size_t index) { return *nodes_[index]->disk; }
  FakeToken& token(size_t index) { return *nodes_[index]->token; }
  VirtualClock& clock() { return clock_; }  // of the coordinator and all partitions
  Caller caller() const;
  size_t size() const { return nodes_.size(); }
  const std::string& name(size_t index) const { return config_.partitions[index].name; }

  absl::Status Create(const std::string& name, v1::KeyType type = v1::KEY_TYPE_OCT_HSM);
  absl::Status Delete(const std::string& name);
  absl::Status Destroy(const std::string& name);  // deletes it, if it is not, and purges it
  std::vector<std::string> Names();               // of all keys, as callers see them
  // Waits until the job has ended, at most a minute.
  v1::Job Await(const std::string& job_id);
  ::testing::AssertionResult AwaitReady(size_t count);
  v1::CryptoResult Use(size_t index, const std::string& name);  // of one partition: sign or encrypt

  // For the clients only.
  struct Process {
    std::unique_ptr<BlobStore> blobs;
    std::unique_ptr<UseAudit> audit;
    std::unique_ptr<Partition> partition;
  };
  absl::StatusOr<std::shared_ptr<Process>> Reach(size_t index, std::string_view call);

 private:
  struct Node {
    std::unique_ptr<CrashVfs> disk;
    std::unique_ptr<FakeToken> token;
    std::shared_ptr<Process> process;  // null while it is down
    std::unique_ptr<PartitionClient> client;
    Thread heartbeat;
  };
  void Heartbeat(size_t index);
  std::shared_ptr<Coordinator> Running();

  VirtualClock clock_{RealClock()};
  SeededRandom random_;
  std::shared_ptr<const FakeDomain> keks_;
  HsmId hsm_;
  rpc::DomainBundle bundle_;
  StoreModel store_;
  CoordinatorConfig config_;
  const JobOptions options_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::atomic<bool> stopping_{false};
  mutable Mutex mutex_;
  CallFilter filter_ HSM_GUARDED_BY(mutex_);
  std::shared_ptr<Coordinator> running_ HSM_GUARDED_BY(mutex_);  // that takes heartbeats
  std::shared_ptr<Coordinator> coordinator_;
  std::unique_ptr<Jobs> jobs_;
};

}  // namespace hsm::testing
