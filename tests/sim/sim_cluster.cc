#include "tests/sim/sim_cluster.h"

#include <fmt/format.h>

#include "common/check.h"
#include "common/error.h"
#include "common/limits.h"
#include "coordinator/builtin_roles.h"
#include "node/sealer.h"
#include "store/catalogue.h"

namespace hsm::testing {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(15);
constexpr absl::Duration kHeartbeatTimeout = absl::Seconds(2);
constexpr std::string_view kHsmName = "sim";

int disks_made = 0;  // names of disks are global, and those of crashed processes are never taken down

std::string NewDiskName() { return fmt::format("sim-disk-{}", ++disks_made); }

// Two of them differ by at most 0.4 %; the coordinator allows for half a percent.
double DrawRate(SimScheduler& scheduler) { return 0.998 + static_cast<double>(scheduler.Draw(4'001)) / 1e6; }

}  // namespace

SimCluster::SimCluster(SimScheduler& scheduler, size_t partitions, bool jobs)
    : scheduler_(scheduler),
      network_(scheduler),
      world_clock_(scheduler),
      random_(scheduler.Draw(UINT64_MAX)),
      hsm_(random_.NewId<HsmId>()),
      domain_(std::make_shared<FakeDomain>(random_)),
      store_(std::make_unique<StoreModel>(world_clock_)),
      with_jobs_(jobs) {
  for (size_t i = 0; i < partitions; ++i) {
    auto node = std::make_unique<SimNode>(fmt::format("p{}", i + 1));
    node->clock = std::make_unique<SimClock>(scheduler_, absl::Hours(1 + i), DrawRate(scheduler_));
    node->random = std::make_unique<SeededRandom>(scheduler_.Draw(UINT64_MAX));
    node->disk = std::make_unique<CrashVfs>(NewDiskName());
    node->token = std::make_unique<FakeToken>(domain_, *node->random, node->endpoint.name);
    config_.partitions.push_back({node->endpoint.name, node->endpoint.name + ":1", ""});
    nodes_.push_back(std::move(node));
  }
  config_.hsm_name = kHsmName;
  config_.administrators = {random_.NewId<PrincipalId>()};
  for (const RoleDefinition& role : BuiltInRoles()) {  // an administrator as such may not use keys
    config_.assignments.push_back({config_.administrators[0], std::string(role.name), "/"});
  }
  for (const char* name : {"c1", "c2"}) {
    auto coordinator = std::make_unique<SimCoordinator>(name);
    coordinator->clock = std::make_unique<SimClock>(scheduler_, absl::Minutes(7), DrawRate(scheduler_));
    coordinators_.push_back(std::move(coordinator));
  }
}

// What crashed processes left behind still points at these.
SimCluster::~SimCluster() {
  for (std::unique_ptr<SimNode>& node : nodes_) node.release();
  for (std::unique_ptr<SimCoordinator>& coordinator : coordinators_) coordinator.release();
  store_.release();
}

bool SimCluster::Start() {
  absl::StatusOr<rpc::DomainBundle> bundle = MakeBundle(*nodes_[0]->token, hsm_, 1);
  HSM_CHECK(bundle.ok());
  bundle_ = *std::move(bundle);
  rpc::StoredHsm hsm;
  hsm.set_id(hsm_.Raw());
  hsm.set_name(std::string(kHsmName));
  hsm.set_mode(rpc::HSM_MODE_ACTIVE);
  hsm.set_data_set(1);
  hsm.set_highest_data_set(1);
  hsm.set_lineage(random_.NewId<HsmId>().Raw());
  hsm.set_created(absl::ToUnixSeconds(world_clock_.Now()));
  hsm.set_retention_days(90);
  *hsm.mutable_bundle() = bundle_;
  StoreTransaction first;
  first.ops.push_back(StoreOp::Put(store_key::Hsm(), hsm.SerializeAsString()));
  HSM_CHECK(store_->Commit(first).outcome == StoreOutcome::kCommitted);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (!StartNode(i)) return false;
  }
  if (!StartCoordinator()) {
    scheduler_.Fail("the first coordinator did not start");
    return false;
  }
  if (AwaitConvergence(absl::Seconds(60))) return true;
  scheduler_.Fail("a fresh cluster is not READY after a minute");
  return false;
}

void SimCluster::Stop() {
  for (std::unique_ptr<SimCoordinator>& it : coordinators_) {
    if (!it->endpoint.up) continue;
    scheduler_.RunIn(it->endpoint.process, "stop", [&it] {
      if (it->jobs != nullptr) it->jobs->Stop();
      it->core->Stop();
    });
    it->endpoint.up = false;
  }
  for (std::unique_ptr<SimNode>& node : nodes_) {
    if (!node->endpoint.up) continue;
    scheduler_.RunIn(node->endpoint.process, "stop", [&node] {
      node->endpoint.up = false;
      node->partition->Drain();
    });
  }
}

// --- processes ---------------------------------------------------------------------------------------------

void SimCluster::OpenNode(SimNode& node) {
  absl::StatusOr<std::unique_ptr<BlobStore>> blobs =
      BlobStore::Open({.path = "/node.db", .vfs = node.disk->name()});
  absl::StatusOr<std::unique_ptr<UseAudit>> audit = UseAudit::Open({.node = node.endpoint.name}, *node.clock);
  if (!blobs.ok() || !audit.ok()) {
    scheduler_.Fail(fmt::format("{} does not open: {} {}", node.endpoint.name, blobs.status().ToString(),
                                audit.status().ToString()));
    return;
  }
  node.blobs = blobs->release();
  node.audit = audit->release();
  auto* partition = new Partition({.node = node.endpoint.name, .address = node.endpoint.name + ":1"},
                                  *node.token, *node.blobs, *node.audit, *node.clock, *node.random);
  absl::Status loaded = partition->LoadDomain(bundle_);
  if (!loaded.ok()) {  // a token fault: this process ends, another one is started later
    scheduler_.Note(fmt::format("{} does not load its domain: {}", node.endpoint.name, loaded.ToString()));
    return;
  }
  node.partition = partition;
}

bool SimCluster::StartNode(size_t index) {
  SimNode& node = *nodes_[index];
  node.endpoint.process = scheduler_.NewProcess(node.endpoint.name);
  node.token->DropAllKeys();
  node.partition = nullptr;
  if (!scheduler_.RunIn(node.endpoint.process, "open", [this, &node] { OpenNode(node); })) return false;
  if (node.partition == nullptr) {
    scheduler_.Kill(node.endpoint.process);
    return false;
  }
  node.endpoint.up = true;
  scheduler_.Note(fmt::format("{} is up", node.endpoint.name));
  for (std::unique_ptr<SimCoordinator>& it : coordinators_) {
    scheduler_.Spawn(node.endpoint.process, "heartbeat",
                     [this, index, &it = *it] { HeartbeatLoop(index, it); });
  }
  return true;
}

void SimCluster::HeartbeatLoop(size_t index, SimCoordinator& asked) {
  SimNode& node = *nodes_[index];
  ProcessId process = node.endpoint.process;
  for (;; scheduler_.Sleep(absl::Milliseconds(limits::kHeartbeatMs) +
                           absl::Microseconds(scheduler_.Draw(20'000)))) {
    if (node.partition->StoreBroken()) {  // main ends the process then, and the supervisor starts it again
      scheduler_.Spawn(kWorld, "supervisor", [this, index, process] {
        if (nodes_[index]->endpoint.process != process || !scheduler_.Alive(process)) return;
        CrashNode(index, Crash::kKill);
        scheduler_.Sleep(absl::Seconds(1));
        if (!nodes_[index]->endpoint.up) StartNode(index);
      });
      return;
    }
    if (!asked.endpoint.up) continue;
    absl::Duration asked_at = node.clock->Uptime();
    rpc::HeartbeatRequest request = node.partition->StatusForHeartbeat();
    if (request.epoch() < node.highest_epoch || request.data_set() < node.highest_data_set) {
      scheduler_.Fail(fmt::format("I7: {} went back to epoch {} (had {}), data set {} (had {})",
                                  node.endpoint.name, request.epoch(), node.highest_epoch, request.data_set(),
                                  node.highest_data_set));
    }
    node.highest_epoch = request.epoch();
    node.highest_data_set = request.data_set();
    absl::StatusOr<rpc::HeartbeatResponse> response = network_.Call<rpc::HeartbeatResponse>(
        node.endpoint.name, asked.endpoint, "Heartbeat",
        [&asked, request]() -> absl::StatusOr<rpc::HeartbeatResponse> {
          return asked.core->OnHeartbeat(request);
        },
        kHeartbeatTimeout);
    if (response.ok()) node.partition->OnHeartbeat(*response, asked_at);
  }
}

void SimCluster::CrashNode(size_t index, Crash crash) {
  SimNode& node = *nodes_[index];
  node.endpoint.up = false;
  scheduler_.Kill(node.endpoint.process);
  network_.Break(node.endpoint);
  CrashVfs::Image image = node.disk->Current();
  if (crash == Crash::kPowerLoss) {
    int percent = static_cast<int>(scheduler_.Draw(3)) * 50;
    image = node.disk->ImageAt(node.disk->moment(), percent, scheduler_.Draw(UINT64_MAX));
    node.clock.release();  // the dead process may still be looking at it
    node.clock = std::make_unique<SimClock>(scheduler_, -scheduler_.Now(), DrawRate(scheduler_));
    scheduler_.Note(fmt::format("{} lost its power", node.endpoint.name));
  }
  node.disk.release();
  node.disk = std::make_unique<CrashVfs>(NewDiskName());
  node.disk->Load(image);
}

void SimCluster::WipeNode(size_t index) {
  scheduler_.Note(fmt::format("{} is wiped", nodes_[index]->endpoint.name));
  nodes_[index]->disk = std::make_unique<CrashVfs>(NewDiskName());
  nodes_[index]->highest_epoch = nodes_[index]->highest_data_set = 0;
}

bool SimCluster::StartCoordinator(size_t index) {
  SimCoordinator& it = *coordinators_[index];
  it.endpoint.process = scheduler_.NewProcess(it.endpoint.name);
  CoordinatorConfig config = config_;
  config.name = it.endpoint.name;
  it.random.release();
  it.random = std::make_unique<SeededRandom>(scheduler_.Draw(UINT64_MAX));
  std::vector<PartitionClient*> clients;
  for (std::unique_ptr<SimNode>& node : nodes_) {
    it.clients.push_back(MakeSimPartitionClient(network_, config.name, node->endpoint, node->partition));
    clients.push_back(it.clients.back().get());
  }
  bool leads = false;
  bool ended = scheduler_.RunIn(it.endpoint.process, "start", [&] {
    it.core = new Coordinator(config, *store_, clients, *it.clock, *it.random);
    absl::Status started = it.core->Start();
    scheduler_.Note(fmt::format("{} starts: {}", config.name, started.ToString()));
    if (!started.ok()) return;
    it.crypto = new hsm::Crypto(it.core->core());
    leads = true;
    if (!with_jobs_) return;
    it.jobs = new Jobs(*it.core, {.poll = absl::Milliseconds(300), .window = absl::Milliseconds(100)});
    it.jobs->Start();
  });
  if (!ended) return false;
  if (!leads) {
    scheduler_.Kill(it.endpoint.process);
    return false;
  }
  it.endpoint.up = true;
  return true;
}

void SimCluster::CrashCoordinator(size_t index) {
  SimCoordinator& it = *coordinators_[index];
  it.endpoint.up = false;
  scheduler_.Kill(it.endpoint.process);
  network_.Break(it.endpoint);
}

void SimCluster::StartEverythingThatIsDown() {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (!nodes_[i]->endpoint.up) StartNode(i);
  }
  bool leads = false;
  for (size_t i = 0; i < coordinators_.size(); ++i) {
    SimCoordinator& it = *coordinators_[i];
    if (it.endpoint.up && !it.core->Leads()) CrashCoordinator(i);
    leads |= it.endpoint.up;
  }
  if (!leads) StartCoordinator();
}

bool SimCluster::AllOthersHold(size_t index) {
  for (std::unique_ptr<SimCoordinator>& it : coordinators_) {
    if (!it->endpoint.up || !it->core->Leads()) continue;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (i == index) continue;
      if (!it->core->core().cluster.IsReady(i) || !it->core->core().cluster.Behind(i).empty()) return false;
    }
    return true;
  }
  return false;
}

std::string SimCluster::Describe() {
  std::string out;
  for (std::unique_ptr<SimCoordinator>& it : coordinators_) {
    if (!it->endpoint.up) continue;
    out += fmt::format("{} {}: {}\n", it->endpoint.name, it->core->Leads() ? "leads" : "does not lead",
                       it->core->Status().ShortDebugString());
    for (size_t i = 0; i < nodes_.size(); ++i) {
      out += fmt::format("  {} behind on {}\n", nodes_[i]->endpoint.name,
                         it->core->core().cluster.Behind(i).size());
    }
  }
  return out;
}

size_t SimCluster::Holders(const KeyUid& uid, const KeyVersion& version) {
  size_t holders = 0;
  DataSet data_set = leader() == nullptr ? 1 : leader()->core().table.data_set();
  for (std::unique_ptr<SimNode>& node : nodes_) {
    if (node->endpoint.up) {
      holders += node->blobs->ReadVersion(data_set, uid, version).ok();
      continue;
    }
    absl::StatusOr<std::unique_ptr<BlobStore>> disk =
        BlobStore::Open({.path = "/node.db", .vfs = node->disk->name()});
    holders += disk.ok() && (*disk)->ReadVersion(data_set, uid, version).ok();
  }
  return holders;
}

std::optional<SimCluster::Destroyed> SimCluster::FindDestroyed(const std::string& name,
                                                               const std::string& version) {
  std::string after;
  for (;;) {
    absl::StatusOr<StorePage> page = store_->Scan(store_key::TombstonePrefix(), after, limits::kStorePageMax);
    if (!page.ok()) continue;  // a store fault: look again
    for (const StoreRecord& record : page->records) {
      rpc::StoredTombstone tombstone;
      HSM_CHECK(tombstone.ParseFromString(record.value));
      if (tombstone.name() != name) continue;
      absl::StatusOr<KeyHead> head = DecodeHead(tombstone.head());
      if (!head.ok() || head->latest.ToHex() != version) continue;
      Destroyed out;
      out.route.set_uid(tombstone.uid());
      out.route.set_incarnation(tombstone.incarnation());
      out.route.set_revision(1);
      out.version = head->latest.Raw();
      return out;
    }
    if (!page->more) return std::nullopt;
    after = page->records.back().key;
  }
}

bool SimCluster::AwaitConvergence(absl::Duration within) {
  absl::Duration end = scheduler_.Now() + within;
  while (scheduler_.Now() < end) {
    StartEverythingThatIsDown();
    for (std::unique_ptr<SimCoordinator>& it : coordinators_) {
      if (!it->endpoint.up || !it->core->Leads()) continue;
      v1::HsmStatus status = it->core->Status();
      bool behind = false;
      for (size_t i = 0; i < nodes_.size(); ++i) {
        behind |= !it->core->core().cluster.Behind(i).empty() || !nodes_[i]->endpoint.up ||
                  !nodes_[i]->partition->Serving();
      }
      if (status.quorum_have() == nodes_.size() && !behind) return true;
    }
    scheduler_.Sleep(absl::Milliseconds(300));
  }
  return false;
}

Epoch SimCluster::epoch() {
  Epoch highest = 0;
  for (std::unique_ptr<SimNode>& node : nodes_) highest = std::max(highest, node->highest_epoch);
  return highest;
}

Coordinator* SimCluster::leader() {
  for (std::unique_ptr<SimCoordinator>& it : coordinators_) {
    if (it->endpoint.up && it->core->Leads()) return it->core;
  }
  return nullptr;
}

// --- callers -----------------------------------------------------------------------------------------------

Caller SimCluster::caller() const { return {config_.administrators[0], 1, absl::Seconds(12)}; }

template <typename Response>
absl::StatusOr<Response> SimCluster::Ask(std::string what,
                                         std::function<absl::StatusOr<Response>(SimCoordinator&)> call) {
  SimCoordinator* asked = coordinators_[0].get();
  for (std::unique_ptr<SimCoordinator>& it : coordinators_) {
    if (it->endpoint.up) asked = it.get();
  }
  return network_.Call<Response>(
      "client", asked->endpoint, std::move(what), [asked, call = std::move(call)] { return call(*asked); },
      kCallTimeout);
}

#define HSM_SIM_ASK(Method, Request, Response)                                                        \
  absl::StatusOr<v1::Response> SimCluster::Method(const v1::Request& request) {                       \
    return Ask<v1::Response>(                                                                         \
        #Method, [this, request](SimCoordinator& it) { return it.core->Method(caller(), request); }); \
  }
HSM_SIM_ASK(CreateKey, CreateKeyRequest, Key)
HSM_SIM_ASK(GetKey, GetKeyRequest, Key)
HSM_SIM_ASK(SetKeyAttributes, SetKeyAttributesRequest, Key)
HSM_SIM_ASK(RotateKey, RotateKeyRequest, Key)
HSM_SIM_ASK(DeleteKey, DeleteKeyRequest, DeletedKey)
HSM_SIM_ASK(RecoverDeletedKey, RecoverDeletedKeyRequest, Key)
HSM_SIM_ASK(PurgeDeletedKey, PurgeDeletedKeyRequest, PurgeDeletedKeyResponse)
#undef HSM_SIM_ASK

#define HSM_SIM_ASK_JOBS(Method, Request, Response)                                                   \
  absl::StatusOr<v1::Response> SimCluster::Method(const v1::Request& request) {                       \
    return Ask<v1::Response>(                                                                         \
        #Method, [this, request](SimCoordinator& it) { return it.jobs->Method(caller(), request); }); \
  }
HSM_SIM_ASK_JOBS(StartBackup, StartBackupRequest, StartJobResponse)
HSM_SIM_ASK_JOBS(StartRestore, StartRestoreRequest, StartJobResponse)
HSM_SIM_ASK_JOBS(GetJob, GetJobRequest, Job)
#undef HSM_SIM_ASK_JOBS

absl::StatusOr<v1::CryptoResult> SimCluster::Crypto(const v1::CryptoOp& op) {
  return Ask<v1::CryptoResult>(
      "Crypto", [this, op](SimCoordinator& it) { return it.crypto->ExecuteOne(caller(), op); });
}

v1::CryptoResult SimCluster::CryptoAt(size_t index, const v1::CryptoOp& op) {
  SimNode& node = *nodes_[index];
  v1::CryptoBatch batch;
  *batch.add_ops() = op;
  auto result = std::make_shared<v1::CryptoResult>();
  result->set_reason(v1::REASON_UNREACHABLE);
  if (!node.endpoint.up) return *result;
  scheduler_.RunIn(node.endpoint.process, "direct", [&node, batch, result]() mutable {
    rpc::HeartbeatRequest status = node.partition->StatusForHeartbeat();
    batch.set_epoch(status.epoch());
    batch.set_data_set(status.data_set());
    *result = node.partition->Crypto(batch).results(0);
  });
  return *result;
}

}  // namespace hsm::testing
