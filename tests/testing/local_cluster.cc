#include "tests/testing/local_cluster.h"

#include <fmt/format.h>

#include "common/check.h"
#include "node/sealer.h"
#include "store/catalogue.h"

namespace hsm::testing {
namespace {

constexpr absl::Duration kHeartbeat = absl::Milliseconds(50);

void Sleep(absl::Duration length) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(mutex);
  RealClock().Await(mutex, never, [] { return false; }, length);
}

// Straight to the partition's core.
class LocalClient final : public PartitionClient {
 public:
  LocalClient(LocalCluster& cluster, size_t index) : cluster_(cluster), index_(index) {}
  const std::string& name() const override { return cluster_.name(index_); }

#define HSM_LOCAL_CALL(Method, Request, Response)                                                       \
  absl::StatusOr<rpc::Response> Method(const rpc::Request& request, absl::Duration) override {          \
    HSM_ASSIGN_OR_RETURN(std::shared_ptr<LocalCluster::Process> node, cluster_.Reach(index_, #Method)); \
    return node->partition->Method(request);                                                            \
  }
  HSM_LOCAL_CALL(GetInfo, GetInfoRequest, GetInfoResponse)
  HSM_LOCAL_CALL(Generate, GenerateRequest, GenerateResponse)
  HSM_LOCAL_CALL(Transition, TransitionRequest, TransitionResponse)
  HSM_LOCAL_CALL(Install, InstallRequest, InstallResponse)
  HSM_LOCAL_CALL(Activate, ActivateRequest, ActivateResponse)
  HSM_LOCAL_CALL(Discard, DiscardRequest, DiscardResponse)
  HSM_LOCAL_CALL(Prove, ProveRequest, ProveResponse)
  HSM_LOCAL_CALL(Control, ControlRequest, ControlResponse)
  HSM_LOCAL_CALL(Digest, DigestRequest, DigestResponse)
  HSM_LOCAL_CALL(ListBucket, ListBucketRequest, ListBucketResponse)
  HSM_LOCAL_CALL(PutRecords, PutRecordsRequest, PutRecordsResponse)
  HSM_LOCAL_CALL(Quarantine, QuarantineRequest, QuarantineResponse)
  HSM_LOCAL_CALL(Export, ExportRequest, ExportResponse)
  HSM_LOCAL_CALL(DeriveAead, DeriveAeadRequest, DeriveAeadResponse)
  HSM_LOCAL_CALL(SignManifest, SignManifestRequest, SignManifestResponse)
  HSM_LOCAL_CALL(CheckManifest, CheckManifestRequest, CheckManifestResponse)
  HSM_LOCAL_CALL(Import, ImportRequest, ImportResponse)
#undef HSM_LOCAL_CALL
#define HSM_NO_CALL(Method, Request, Response)                                             \
  absl::StatusOr<rpc::Response> Method(const rpc::Request&, absl::Duration) override {     \
    return Error(v1::REASON_UNSUPPORTED, "a local cluster has its domain from the start"); \
  }
  HSM_NO_CALL(MakeDomain, MakeDomainRequest, MakeDomainResponse)
  HSM_NO_CALL(BeginJoin, BeginJoinRequest, JoinKey)
  HSM_NO_CALL(Sponsor, SponsorRequest, SponsorResponse)
  HSM_NO_CALL(TakeHandover, TakeHandoverRequest, TakeHandoverResponse)
  HSM_NO_CALL(CompleteJoin, CompleteJoinRequest, CompleteJoinResponse)
#undef HSM_NO_CALL
  absl::StatusOr<v1::CryptoBatchResult> Crypto(const v1::CryptoBatch& batch, absl::Duration) override {
    HSM_ASSIGN_OR_RETURN(std::shared_ptr<LocalCluster::Process> node, cluster_.Reach(index_, "Crypto"));
    return node->partition->Crypto(batch);
  }

 private:
  LocalCluster& cluster_;
  const size_t index_;
};

}  // namespace

JobOptions LocalCluster::QuickOptions() {
  JobOptions options;
  options.window = absl::Milliseconds(100);
  options.poll = absl::Milliseconds(20);
  return options;
}

LocalCluster::LocalCluster(size_t partitions, JobOptions options, std::optional<LocalDomain> domain)
    : random_(1),
      keks_(domain ? domain->keks : std::make_shared<FakeDomain>(random_)),
      hsm_(domain ? domain->hsm : random_.NewId<HsmId>()),
      store_(RealClock()),
      options_(std::move(options)) {
  static std::atomic<int> made{0};
  for (size_t i = 0; i < partitions; ++i) {
    const std::string name = fmt::format("p{}", i + 1);
    config_.partitions.push_back({name, name + ":1", ""});
    auto node = std::make_unique<Node>();
    node->disk = std::make_unique<CrashVfs>(fmt::format("local-{}-{}", ++made, name));
    node->token = std::make_unique<FakeToken>(keks_, random_, name);
    node->client = std::make_unique<LocalClient>(*this, i);
    nodes_.push_back(std::move(node));
  }
  bundle_ = domain ? domain->bundle : *MakeBundle(*nodes_[0]->token, hsm_, 1);
  config_.hsm_name = "local";
  config_.administrators = {random_.NewId<PrincipalId>()};
  config_.assignments = {{config_.administrators[0], "Managed HSM Crypto User", "/"},
                         {config_.administrators[0], "Managed HSM Crypto Officer", "/"}};
  config_.tick = absl::Milliseconds(20);
  rpc::StoredHsm hsm;
  hsm.set_id(hsm_.Raw());
  hsm.set_name(config_.hsm_name);
  hsm.set_mode(rpc::HSM_MODE_ACTIVE);
  hsm.set_data_set(1);
  hsm.set_highest_data_set(1);
  hsm.set_retention_days(90);
  hsm.set_lineage(random_.NewId<HsmId>().Raw());
  *hsm.mutable_bundle() = bundle_;
  StoreTransaction first;
  first.ops.push_back(StoreOp::Put(store_key::Hsm(), hsm.SerializeAsString()));
  HSM_CHECK(store_.Commit(first).outcome == StoreOutcome::kCommitted);
  for (size_t i = 0; i < partitions; ++i) {
    StartNode(i);
    nodes_[i]->heartbeat = Thread("heartbeat", [this, i] { Heartbeat(i); });
  }
}

LocalCluster::~LocalCluster() {
  StopCoordinator();
  stopping_ = true;
  for (auto& node : nodes_) node->heartbeat.Join();
}

Caller LocalCluster::caller() const {
  Caller caller;
  caller.principal = config_.administrators[0];
  return caller;
}

void LocalCluster::SetFilter(CallFilter filter) {
  MutexLock lock(mutex_);
  filter_ = std::move(filter);
}

absl::StatusOr<std::shared_ptr<LocalCluster::Process>> LocalCluster::Reach(size_t index,
                                                                           std::string_view call) {
  CallFilter filter;
  std::shared_ptr<Process> process;
  {
    MutexLock lock(mutex_);
    filter = filter_;
    process = nodes_[index]->process;
  }
  if (filter != nullptr) HSM_RETURN_IF_ERROR(filter(index, call));
  if (process == nullptr) return Error(v1::REASON_UNREACHABLE, name(index) + " is down");
  return process;
}

void LocalCluster::StartNode(size_t index) {
  Node& node = *nodes_[index];
  node.token->DropAllKeys();
  auto process = std::make_shared<Process>();
  process->blobs = *BlobStore::Open({.path = "/node.db", .vfs = node.disk->name()});
  process->audit = *UseAudit::Open({.node = name(index)}, RealClock());
  process->partition =
      std::make_unique<Partition>(Partition::Options{.node = name(index), .address = name(index)},
                                  *node.token, *process->blobs, *process->audit, clock_, SystemRandom());
  const absl::Status loaded = process->partition->LoadDomain(bundle_);
  EXPECT_TRUE(loaded.ok()) << loaded;
  MutexLock lock(mutex_);
  node.process = std::move(process);
}

void LocalCluster::StopNode(size_t index) {
  std::shared_ptr<Process> process;
  {
    MutexLock lock(mutex_);
    process.swap(nodes_[index]->process);
  }
  while (process.use_count() > 1) Sleep(absl::Milliseconds(1));  // calls under way
}

std::shared_ptr<Coordinator> LocalCluster::Running() {
  MutexLock lock(mutex_);
  return running_;
}

void LocalCluster::Heartbeat(size_t index) {
  while (!stopping_) {
    if (auto process = Reach(index, "Heartbeat"); process.ok()) {
      const absl::Duration asked_at = clock_.Uptime();
      const rpc::HeartbeatRequest request = (*process)->partition->StatusForHeartbeat();
      if (std::shared_ptr<Coordinator> coordinator = Running()) {
        (*process)->partition->OnHeartbeat(coordinator->OnHeartbeat(request), asked_at);
      }
    }
    Sleep(kHeartbeat);
  }
}

::testing::AssertionResult LocalCluster::StartCoordinator() {
  std::vector<PartitionClient*> clients;
  size_t up = 0;
  for (auto& node : nodes_) {
    clients.push_back(node->client.get());
    MutexLock lock(mutex_);
    up += node->process != nullptr;
  }
  coordinator_ = std::make_shared<Coordinator>(config_, store_, clients, clock_, SystemRandom());
  const absl::Status started = coordinator_->Start();
  if (!started.ok()) {
    coordinator_.reset();
    return ::testing::AssertionFailure() << started;
  }
  {
    MutexLock lock(mutex_);
    running_ = coordinator_;
  }
  jobs_ = std::make_unique<Jobs>(*coordinator_, options_);
  jobs_->Start();
  // An HSM that is being restored has no READY partition until the job that took over is done.
  if (coordinator_->core().state.View()->mode == rpc::HSM_MODE_RESTORING)
    return ::testing::AssertionSuccess();
  return AwaitReady(up);
}

void LocalCluster::StopCoordinator() {
  if (coordinator_ == nullptr) return;
  jobs_->Stop();
  {
    MutexLock lock(mutex_);
    running_.reset();
  }
  while (coordinator_.use_count() > 1) Sleep(absl::Milliseconds(1));  // heartbeats under way
  coordinator_->Stop();
  jobs_.reset();
  coordinator_.reset();
}

::testing::AssertionResult LocalCluster::AwaitReady(size_t count) {
  for (Deadline deadline(RealClock(), absl::Seconds(30)); !deadline.Passed();) {
    if (coordinator_->core().cluster.ReadyCount() == count) return ::testing::AssertionSuccess();
    Sleep(absl::Milliseconds(5));
  }
  auto failure = ::testing::AssertionFailure();
  for (const PartitionView& view : coordinator_->core().cluster.Views()) {
    failure << view.name << ": " << v1::PartitionState_Name(view.state) << " " << view.message << "; ";
  }
  return failure;
}

absl::Status LocalCluster::Create(const std::string& name, v1::KeyType type) {
  v1::CreateKeyRequest request;
  request.set_name(name);
  request.set_type(type);
  return coordinator_->CreateKey(caller(), request).status();
}

absl::Status LocalCluster::Delete(const std::string& name) {
  v1::DeleteKeyRequest request;
  request.set_name(name);
  return coordinator_->DeleteKey(caller(), request).status();
}

absl::Status LocalCluster::Destroy(const std::string& name) {
  if (absl::Status deleted = Delete(name); !deleted.ok() && ReasonOf(deleted) != v1::REASON_KEY_NOT_FOUND) {
    return deleted;
  }
  v1::PurgeDeletedKeyRequest request;
  request.set_name(name);
  return coordinator_->PurgeDeletedKey(caller(), request).status();
}

std::vector<std::string> LocalCluster::Names() {
  std::vector<std::string> names;
  v1::ListKeysRequest request;
  do {
    const auto page = coordinator_->ListKeys(caller(), request);
    EXPECT_TRUE(page.ok()) << page.status();
    if (!page.ok()) break;
    for (const v1::Key& key : page->keys()) names.push_back(key.name());
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return names;
}

v1::Job LocalCluster::Await(const std::string& job_id) {
  v1::GetJobRequest request;
  request.set_id(job_id);
  v1::Job job;
  for (Deadline deadline(RealClock(), absl::Minutes(1)); !deadline.Passed();) {
    const auto now = jobs_->GetJob(caller(), request);
    if (now.ok()) job = *now;
    if (job.ended() != 0) return job;
    Sleep(absl::Milliseconds(5));
  }
  ADD_FAILURE() << "the job has not ended: " << job.ShortDebugString();
  return job;
}

v1::CryptoResult LocalCluster::Use(size_t index, const std::string& name) {
  const KeyEntryPtr entry = coordinator_->core().table.Find(name);
  v1::CryptoResult result;
  if (entry == nullptr) {
    result.set_reason(v1::REASON_KEY_NOT_FOUND);
    return result;
  }
  const HsmViewPtr view = coordinator_->core().state.View();
  v1::CryptoBatch batch;
  batch.set_epoch(view->epoch);
  batch.set_data_set(view->data_set);
  v1::CryptoOp& op = *batch.add_ops();
  op.set_id(1);
  const bool oct = entry->head.spec.type == v1::KEY_TYPE_OCT_HSM;
  op.set_operation(v1::CRYPTO_OPERATION_SIGN);
  op.set_algorithm(oct ? v1::ALGORITHM_HS256 : v1::ALGORITHM_ES256);
  op.set_data(std::string(32, 'd'));
  op.mutable_route()->set_uid(entry->head.uid.Raw());
  op.mutable_route()->set_incarnation(entry->head.incarnation);
  op.mutable_route()->set_revision(entry->head.revision);
  // A partition is READY a heartbeat before it has its lease.
  for (Deadline deadline(RealClock(), absl::Seconds(5));; Sleep(absl::Milliseconds(10))) {
    auto answer = nodes_[index]->client->Crypto(batch, absl::Seconds(5));
    const v1::Reason reason = answer.ok() ? answer->results(0).reason() : ReasonOf(answer.status());
    if (reason == v1::REASON_NOT_ACTIVE && !deadline.Passed()) continue;
    if (answer.ok()) return answer->results(0);
    result.set_reason(reason);
    return result;
  }
}

}  // namespace hsm::testing
