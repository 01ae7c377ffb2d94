#pragma once
// One HSM in one operating-system thread: real Partition cores on fake tokens and disks that lose power, a
// real Coordinator on the model store, callers, and a network between them that misbehaves. Everything is
// used from inside SimScheduler::Run.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/coordinator.h"
#include "coordinator/crypto.h"
#include "coordinator/jobs.h"
#include "hsm/v1/crypto.pb.h"
#include "node/blob_store.h"
#include "node/partition.h"
#include "node/use_audit.h"
#include "store/store_model.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/fake_token.h"
#include "tests/testing/seeded_random.h"
#include "tests/testing/sim_network.h"
#include "tests/testing/sim_scheduler.h"

namespace hsm::testing {

// One partition: what survives a crash (disk, token, certificate name) and the process that comes and goes.
struct SimNode {
  explicit SimNode(std::string name) : endpoint(std::move(name)) {}
  SimEndpoint endpoint;
  std::unique_ptr<SimClock> clock;
  std::unique_ptr<SeededRandom> random;
  std::unique_ptr<CrashVfs> disk;
  std::unique_ptr<FakeToken> token;
  Partition* partition = nullptr;  // of the running process; leaked with it
  BlobStore* blobs = nullptr;
  UseAudit* audit = nullptr;
  uint64_t highest_epoch = 0, highest_data_set = 0;  // seen in its heartbeats, ever (I7)
};

// One coordinator process.
struct SimCoordinator {
  explicit SimCoordinator(std::string name) : endpoint(std::move(name)) {}
  SimEndpoint endpoint;
  std::unique_ptr<SimClock> clock;
  std::unique_ptr<SeededRandom> random;
  std::vector<std::unique_ptr<PartitionClient>> clients;
  Coordinator* core = nullptr;  // of the running process; leaked with it
  hsm::Crypto* crypto = nullptr;
  Jobs* jobs = nullptr;
};

enum class Crash {
  kKill,       // the process ends; the operating system keeps what was written
  kPowerLoss,  // what was not synced is kept or lost by chance; the node's uptime starts again
};

class SimCluster {
 public:
  // With `jobs`, coordinators also work on backups and restores.
  SimCluster(SimScheduler& scheduler, size_t partitions, bool jobs = false);
  ~SimCluster();

  // Starts all nodes and the first coordinator, and waits until every partition is READY. False, after
  // SimScheduler::Fail, if that does not happen.
  bool Start();
  // Ends the processes as an operator would, each within its own.
  void Stop();

  // --- processes ---
  size_t size() const { return nodes_.size(); }
  SimNode& node(size_t index) { return *nodes_[index]; }
  SimCoordinator& coordinator(size_t index = 0) { return *coordinators_[index]; }
  void CrashNode(size_t index, Crash crash);
  bool StartNode(size_t index);
  void WipeNode(size_t index);  // its disk comes back empty; call while it is down
  void CrashCoordinator(size_t index = 0);
  bool StartCoordinator(size_t index = 0);
  void StartEverythingThatIsDown();
  // The other partitions are up and READY, so that losing this one's disk loses nothing.
  bool AllOthersHold(size_t index);
  std::string Describe();  // the status as the coordinator sees it
  // Waits until every partition is READY and nothing is behind.
  bool AwaitConvergence(absl::Duration within);

  // --- what callers do: each goes through the network to the coordinator that leads, as far as the caller
  // knows ---
  Caller caller() const;
  absl::StatusOr<v1::Key> CreateKey(const v1::CreateKeyRequest& request);
  absl::StatusOr<v1::Key> GetKey(const v1::GetKeyRequest& request);
  absl::StatusOr<v1::Key> SetKeyAttributes(const v1::SetKeyAttributesRequest& request);
  absl::StatusOr<v1::Key> RotateKey(const v1::RotateKeyRequest& request);
  absl::StatusOr<v1::DeletedKey> DeleteKey(const v1::DeleteKeyRequest& request);
  absl::StatusOr<v1::Key> RecoverDeletedKey(const v1::RecoverDeletedKeyRequest& request);
  absl::StatusOr<v1::PurgeDeletedKeyResponse> PurgeDeletedKey(const v1::PurgeDeletedKeyRequest& request);
  absl::StatusOr<v1::CryptoResult> Crypto(const v1::CryptoOp& op);
  absl::StatusOr<v1::StartJobResponse> StartBackup(const v1::StartBackupRequest& request);
  absl::StatusOr<v1::StartJobResponse> StartRestore(const v1::StartRestoreRequest& request);
  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request);
  // One operation straight at a partition, as a coordinator that routes by an old view would send it: with
  // the present epoch and data set, and the route given.
  v1::CryptoResult CryptoAt(size_t index, const v1::CryptoOp& op);

  // On how many disks the version lies ACTIVE, crashed nodes included.
  size_t Holders(const KeyUid& uid, const KeyVersion& version);
  // How a coordinator that still believed in a destroyed key would ask for it; from its tombstone in the
  // store.
  struct Destroyed {
    v1::Route route;
    std::string version;
  };
  std::optional<Destroyed> FindDestroyed(const std::string& name, const std::string& version);

  SimScheduler& scheduler() { return scheduler_; }
  SimNetwork& network() { return network_; }
  StoreModel& store() { return *store_; }
  Clock& clock() { return world_clock_; }
  Random& random() { return random_; }
  const HsmId& hsm() const { return hsm_; }
  Epoch epoch();
  Coordinator* leader();  // null if none leads

 private:
  template <typename Response>
  absl::StatusOr<Response> Ask(std::string what,
                               std::function<absl::StatusOr<Response>(SimCoordinator&)> call);
  void HeartbeatLoop(size_t index, SimCoordinator& asked);
  void OpenNode(SimNode& node);

  SimScheduler& scheduler_;
  SimNetwork network_;
  SimClock world_clock_;
  SeededRandom random_;
  HsmId hsm_;
  rpc::DomainBundle bundle_;
  std::shared_ptr<const FakeDomain> domain_;
  std::unique_ptr<StoreModel> store_;
  std::vector<std::unique_ptr<SimNode>> nodes_;
  std::vector<std::unique_ptr<SimCoordinator>> coordinators_;
  CoordinatorConfig config_;
  const bool with_jobs_;
};

}  // namespace hsm::testing
