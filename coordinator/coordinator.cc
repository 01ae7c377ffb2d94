#include "coordinator/coordinator.h"

#include <algorithm>
#include <atomic>

#include "common/aead.h"
#include "common/check.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "coordinator/healer.h"
#include "coordinator/keys.h"
#include "coordinator/maintenance.h"
#include "coordinator/modes.h"
#include "coordinator/reconciler.h"
#include "coordinator/replicator.h"
#include "coordinator/retention.h"
#include "coordinator/status.h"

namespace hsm {
namespace {

constexpr uint32_t kAuditPageMax = 200;
constexpr int kEpochRaisesMax = 10'000;

}  // namespace

// Everything that exists only while this coordinator leads, in the order it is built; torn down in reverse.
class Coordinator::Impl {
 public:
  Impl(CoordinatorConfig config, Store& store, std::vector<PartitionClient*> clients, Clock& clock,
       Random& random)
      : config_(std::move(config)),
        store_(store),
        clock_(clock),
        random_(random),
        cluster_(clients, clock, MembershipTimes{config_.suspect_after, config_.down_after, clock.Uptime()}),
        revoker_(cluster_, state_, clock, config_.control_timeout),
        fan_out_(clients.size(), config_.calls_per_partition, clock),
        catalogue_(store) {}
  ~Impl() { Stop(); }

  absl::Status Start();
  void Stop();
  bool Leads() const { return leads_.load(); }
  rpc::HeartbeatResponse OnHeartbeat(const rpc::HeartbeatRequest& request);
  absl::StatusOr<v1::PartitionResponse> SetDrained(const Caller& caller, const std::string& name,
                                                   bool drained);
  absl::StatusOr<v1::PartitionResponse> Approve(const Caller& caller,
                                                const v1::ApprovePartitionRequest& request);
  absl::StatusOr<v1::ListAuditResponse> ListAudit(const Caller& caller, const v1::ListAuditRequest& request);

  Core& core() {
    HSM_CHECK(core_ != nullptr);
    return *core_;
  }
  Keys& keys() { return *keys_; }
  Roles& roles() { return *roles_; }
  Modes& modes() { return *modes_; }
  const CoordinatorConfig& config() const { return config_; }
  const Core* core_if_started() const { return core_.get(); }
  void Kick(size_t index) {
    if (maintenance_ != nullptr) maintenance_->Kick(index);
  }

 private:
  absl::Status LoadCatalogue();
  void KeepTerm();
  void RaiseEpochAbove(Epoch epoch);
  void CheckAge(const rpc::HeartbeatRequest& request, const HsmView& view);

  const CoordinatorConfig config_;
  Store& store_;
  Clock& clock_;
  Random& random_;
  HsmState state_;
  KeyTable table_;
  RoleState role_state_;
  std::unique_ptr<FencedStore> fenced_;
  std::unique_ptr<Committer> committer_;
  ClusterState cluster_;
  Revoker revoker_;
  FanOut fan_out_;
  Catalogue catalogue_;
  std::atomic<int64_t> witnessed_{0};
  std::unique_ptr<Core> core_;
  std::unique_ptr<Roles> roles_;
  std::unique_ptr<Replicator> replicator_;
  std::unique_ptr<Prover> prover_;
  std::unique_ptr<Keys> keys_;
  std::unique_ptr<Modes> modes_;
  std::unique_ptr<Reconciler> reconciler_;
  std::unique_ptr<Healer> healer_;
  std::unique_ptr<Retention> retention_;
  std::unique_ptr<Maintenance> maintenance_;

  std::atomic<bool> leads_{false};
  std::atomic<int64_t> term_until_ns_{0};  // on Clock::Uptime(); leases are granted only before it
  std::atomic<uint64_t> highest_epoch_seen_{0};
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ HSM_GUARDED_BY(mutex_) = false;
  Thread term_thread_;
};

absl::Status Coordinator::Impl::Start() {
  absl::Duration asked = clock_.Uptime();
  HSM_ASSIGN_OR_RETURN(StoreTerm term, store_.Campaign(config_.name, config_.leader_ttl));
  HSM_ASSIGN_OR_RETURN(fenced_, FencedStore::Open(store_, term));
  term_until_ns_ = absl::ToInt64Nanoseconds(asked + config_.leader_ttl * 2 / 3);
  state_.SetEpoch(term.epoch);
  committer_ = std::make_unique<Committer>(*fenced_, clock_, random_, term.epoch);
  committer_->OnFenced([this](const absl::Status& why) {
    state_.Stop(ReasonOf(why), DetailOf(why).message());
    if (ReasonOf(why) == v1::REASON_FENCED) leads_ = false;
  });
  HSM_RETURN_IF_ERROR(committer_->Start());
  HSM_RETURN_IF_ERROR(LoadCatalogue());
  core_.reset(new Core{config_, clock_, random_, catalogue_, *committer_, cluster_, state_, table_,
                       role_state_, fan_out_, revoker_, witnessed_});
  roles_ = std::make_unique<Roles>(*core_);
  HSM_RETURN_IF_ERROR(roles_->Load());
  replicator_ = std::make_unique<Replicator>(*core_);
  prover_ = std::make_unique<Prover>(*core_);
  keys_ = std::make_unique<Keys>(*core_, *replicator_, *prover_);
  reconciler_ = std::make_unique<Reconciler>(*core_, *replicator_, *prover_);
  healer_ = std::make_unique<Healer>(*core_);
  retention_ = std::make_unique<Retention>(*core_, *keys_, witnessed_);
  HSM_RETURN_IF_ERROR(retention_->Load());
  maintenance_ = std::make_unique<Maintenance>(*core_, *reconciler_, *healer_, *keys_, *retention_);
  modes_ = std::make_unique<Modes>(*core_, [this] {
    for (size_t i = 0; i < cluster_.size(); ++i) maintenance_->Kick(i);
  });
  HSM_RETURN_IF_ERROR(maintenance_->Load());
  leads_ = true;
  revoker_.Start();
  maintenance_->Start();
  term_thread_ = Thread("term", [this] { KeepTerm(); });
  LogInfo("this coordinator leads",
          {{"epoch", term.epoch}, {"keys", table_.keys()}, {"versions", table_.versions()}});
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::LoadCatalogue() {
  HSM_ASSIGN_OR_RETURN(auto hsm, catalogue_.Hsm());
  if (!hsm.has_value()) return absl::OkStatus();
  if (hsm->value.name() != config_.hsm_name) {
    return Error(v1::REASON_CONFIG_INVALID, "this store belongs to HSM " + hsm->value.name() +
                                                ", the configuration to " + config_.hsm_name);
  }
  state_.SetStored(hsm->value, hsm->mod_revision);
  return table_.Load(catalogue_, hsm->value.data_set());
}

void Coordinator::Impl::Stop() {
  state_.Stop(v1::REASON_NOT_ACTIVE, "the coordinator is stopping");
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  term_thread_.Join();
  if (maintenance_ != nullptr) maintenance_->Stop();
  revoker_.Stop();
  if (committer_ != nullptr) committer_->Stop();
  if (leads_.exchange(false)) (void)store_.Resign(config_.name, state_.View()->epoch);
}

// Renews the term; without a term nothing is granted, and without it for good this process must end.
void Coordinator::Impl::KeepTerm() {
  while (true) {
    {
      MutexLock lock(mutex_);
      clock_.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stopping_; }, config_.leader_ttl / 4);
      if (stopping_) return;
    }
    HsmViewPtr view = state_.View();
    if (highest_epoch_seen_ > view->epoch) {
      RaiseEpochAbove(highest_epoch_seen_);
      continue;
    }
    absl::Duration asked = clock_.Uptime();
    auto renewed = store_.Renew(config_.name, view->epoch, config_.leader_ttl);
    if (renewed.ok()) {
      term_until_ns_ = absl::ToInt64Nanoseconds(asked + config_.leader_ttl * 2 / 3);
      continue;
    }
    LogWarning("the term could not be renewed", {{"why", renewed.status()}});
    if (absl::ToInt64Nanoseconds(clock_.Uptime()) < term_until_ns_) continue;
    state_.Stop(v1::REASON_FENCED, "leadership was lost");
    leads_ = false;
  }
}

// The store went back in time: partitions know a newer epoch than it does. Key use goes on only under a
// higher one.
void Coordinator::Impl::RaiseEpochAbove(Epoch epoch) {
  for (int i = 0; i < kEpochRaisesMax; ++i) {
    absl::Duration asked = clock_.Uptime();
    auto term = store_.Campaign(config_.name, config_.leader_ttl);
    if (!term.ok()) {
      LogError("a higher epoch cannot be had", {{"why", term.status()}});
      leads_ = false;
      return;
    }
    if (term->epoch <= epoch) continue;
    state_.SetEpoch(term->epoch);
    term_until_ns_ = absl::ToInt64Nanoseconds(asked + config_.leader_ttl * 2 / 3);
    return;
  }
}

// Only values that this node can have from a commit known to have happened.
void Coordinator::Impl::CheckAge(const rpc::HeartbeatRequest& request, const HsmView& view) {
  if (HSM_MUTANT("ignore-store-rollback")) return;
  std::string why;
  if (request.epoch() > view.epoch) {
    why = "has seen epoch " + std::to_string(request.epoch()) + ", the store is at " +
          std::to_string(view.epoch);
  } else if (request.data_set() > std::max(view.stored.highest_data_set(), view.data_set)) {
    why = "serves data set " + std::to_string(request.data_set()) + ", which the store does not know";
  } else if (request.store_commit() > committer_->commit_counter()) {
    why = "has seen change " + std::to_string(request.store_commit()) + ", the store ends at " +
          std::to_string(committer_->commit_counter());
  }
  if (why.empty()) return;
  if (view.stopped.empty())
    LogError("the store went back in time", {{"partition", request.node()}, {"why", why}});
  state_.Stop(v1::REASON_STORE_ROLLED_BACK,
              "the store is older than the partitions: " + request.node() + " " + why);
  uint64_t seen = highest_epoch_seen_;
  while (seen < request.epoch() && !highest_epoch_seen_.compare_exchange_weak(seen, request.epoch())) {
  }
}

rpc::HeartbeatResponse Coordinator::Impl::OnHeartbeat(const rpc::HeartbeatRequest& request) {
  rpc::HeartbeatResponse response;
  std::optional<size_t> index = cluster_.IndexOf(request.node());
  if (!index.has_value() || !leads_) return response;  // no epoch: the node learns nothing
  const absl::Duration now = clock_.Uptime();
  HsmViewPtr view = state_.View();
  const bool ours = view->mode != rpc::HSM_MODE_UNSPECIFIED && request.hsm_id() == view->id.Raw();
  if (ours) CheckAge(request, *view);
  const v1::PartitionState before = cluster_.StateOf(*index);
  cluster_.ChangeFacts(*index, [ours](PartitionFacts& facts) { facts.right_hsm = ours; }, now);
  bool restarted = cluster_.OnHeartbeat(*index, request, now);
  if (!request.hsm_id().empty() && !ours && view->mode != rpc::HSM_MODE_UNSPECIFIED) {
    cluster_.SetMessage(*index, "belongs to another HSM");
  }
  const bool in_step = request.data_set() == view->data_set && request.epoch() <= view->epoch;
  if (ours && !in_step && view->Serves()) {  // a sync begins by putting it on the right data set
    cluster_.ChangeFacts(*index, [](PartitionFacts& facts) { facts.synced = false; }, now);
  }

  response.set_epoch(view->epoch);
  response.set_data_set(view->data_set);
  if (ours) response.set_store_commit(committer_->commit_counter());
  bool term_good = absl::ToInt64Nanoseconds(now) < term_until_ns_ || HSM_MUTANT("grant-without-term");
  bool granted = ours && in_step && view->Serves() && term_good &&
                 cluster_.GrantLease(*index, now, absl::Milliseconds(limits::kServingLeaseMs));
  response.set_lease_granted(granted);
  response.set_lease_ms(granted ? limits::kServingLeaseMs : 0);
  response.set_serve(granted);
  if (restarted || cluster_.StateOf(*index) != before) Kick(*index);
  return response;
}

absl::StatusOr<v1::PartitionResponse> Coordinator::Impl::SetDrained(const Caller& caller,
                                                                    const std::string& name, bool drained) {
  const char* operation = drained ? "DrainPartition" : "ResumePartition";
  HSM_RETURN_IF_ERROR(core().Allow(caller, DataAction::kPartitionsManage, operation));
  std::optional<size_t> index = cluster_.IndexOf(name);
  if (!index.has_value()) return Error(v1::REASON_NOT_FOUND, "there is no partition " + name);
  HSM_RETURN_IF_ERROR(maintenance_->SetDrained(*index, drained, AuditOf(caller, operation, name)));
  v1::PartitionResponse response;
  *response.mutable_partition() = ShowPartition(cluster_.View(*index));
  return response;
}

absl::StatusOr<v1::PartitionResponse> Coordinator::Impl::Approve(const Caller& caller,
                                                                 const v1::ApprovePartitionRequest& request) {
  HSM_RETURN_IF_ERROR(core().Allow(caller, DataAction::kPartitionsManage, "ApprovePartition"));
  HSM_RETURN_IF_ERROR(healer_->Approve(request));
  Change change;
  change.audit = AuditOf(caller, "ApprovePartition", request.name());
  HSM_RETURN_IF_ERROR(committer_->Commit(std::move(change)).status);
  v1::PartitionResponse response;
  *response.mutable_partition() = ShowPartition(cluster_.View(*cluster_.IndexOf(request.name())));
  return response;
}

absl::StatusOr<v1::ListAuditResponse> Coordinator::Impl::ListAudit(const Caller& caller,
                                                                   const v1::ListAuditRequest& request) {
  HSM_RETURN_IF_ERROR(core().Allow(caller, DataAction::kAuditRead, "ListAudit"));
  uint32_t size = request.page_size() == 0 ? kAuditPageMax : std::min(request.page_size(), kAuditPageMax);
  uint64_t from = std::max<uint64_t>(request.from(), 1);
  // The entry before the page as well, so that the chain is checked across pages.
  std::string after = from <= 2 ? "" : store_key::Audit(from - 2);
  HSM_ASSIGN_OR_RETURN(StorePage page,
                       store_.Scan(store_key::AuditPrefix(), after, size + (from > 1 ? 1 : 0)));
  v1::ListAuditResponse response;
  response.set_chain_ok(true);
  std::string previous_hash;
  uint64_t expected = from > 1 ? from - 1 : 1;
  for (const StoreRecord& record : page.records) {
    v1::AuditEntry entry;
    if (!entry.ParseFromString(record.value))
      return Error(v1::REASON_RECORD_CORRUPT, "an audit entry does not parse");
    bool first = expected == (from > 1 ? from - 1 : 1);
    bool linked = entry.sequence() == expected && (first ? entry.sequence() != 1 || entry.previous().empty()
                                                         : entry.previous() == previous_hash);
    if (!linked) response.set_chain_ok(false);
    previous_hash = ToString(Sha256(View(record.value)));
    expected = entry.sequence() + 1;
    if (entry.sequence() >= from) *response.add_entries() = std::move(entry);
  }
  if (page.more) response.set_next(expected);
  return response;
}

Coordinator::Coordinator(CoordinatorConfig config, Store& store, std::vector<PartitionClient*> clients,
                         Clock& clock, Random& random)
    : impl_(std::make_unique<Impl>(std::move(config), store, std::move(clients), clock, random)) {}
Coordinator::~Coordinator() = default;
absl::Status Coordinator::Start() { return impl_->Start(); }
void Coordinator::Stop() { impl_->Stop(); }
bool Coordinator::Leads() const { return impl_->Leads(); }
rpc::HeartbeatResponse Coordinator::OnHeartbeat(const rpc::HeartbeatRequest& request) {
  return impl_->OnHeartbeat(request);
}

absl::StatusOr<v1::Key> Coordinator::CreateKey(const Caller& caller, const v1::CreateKeyRequest& request) {
  return impl_->keys().Create(caller, request);
}
absl::StatusOr<v1::Key> Coordinator::GetKey(const Caller& caller, const v1::GetKeyRequest& request) {
  return impl_->keys().Get(caller, request);
}
absl::StatusOr<v1::ListKeysResponse> Coordinator::ListKeys(const Caller& caller,
                                                           const v1::ListKeysRequest& request) {
  return impl_->keys().List(caller, request);
}
absl::StatusOr<v1::ListKeysResponse> Coordinator::ListKeyVersions(const Caller& caller,
                                                                  const v1::ListKeyVersionsRequest& request) {
  return impl_->keys().ListVersions(caller, request);
}
absl::StatusOr<v1::Key> Coordinator::SetKeyAttributes(const Caller& caller,
                                                      const v1::SetKeyAttributesRequest& request) {
  return impl_->keys().SetAttributes(caller, request);
}
absl::StatusOr<v1::Key> Coordinator::RotateKey(const Caller& caller, const v1::RotateKeyRequest& request) {
  return impl_->keys().Rotate(caller, request);
}
absl::StatusOr<v1::DeletedKey> Coordinator::DeleteKey(const Caller& caller,
                                                      const v1::DeleteKeyRequest& request) {
  return impl_->keys().Delete(caller, request);
}
absl::StatusOr<v1::DeletedKey> Coordinator::GetDeletedKey(const Caller& caller,
                                                          const v1::GetDeletedKeyRequest& request) {
  return impl_->keys().GetDeleted(caller, request);
}
absl::StatusOr<v1::ListDeletedKeysResponse> Coordinator::ListDeletedKeys(
    const Caller& caller, const v1::ListDeletedKeysRequest& request) {
  return impl_->keys().ListDeleted(caller, request);
}
absl::StatusOr<v1::Key> Coordinator::RecoverDeletedKey(const Caller& caller,
                                                       const v1::RecoverDeletedKeyRequest& request) {
  return impl_->keys().Recover(caller, request);
}
absl::StatusOr<v1::PurgeDeletedKeyResponse> Coordinator::PurgeDeletedKey(
    const Caller& caller, const v1::PurgeDeletedKeyRequest& request) {
  return impl_->keys().Purge(caller, request);
}
absl::StatusOr<v1::ProveKeyResponse> Coordinator::ProveKey(const Caller& caller,
                                                           const v1::ProveKeyRequest& request) {
  return impl_->keys().Prove(caller, request);
}

Roles& Coordinator::roles() { return impl_->roles(); }

absl::StatusOr<v1::HsmStatus> Coordinator::GetStatus(const Caller& caller) {
  HSM_RETURN_IF_ERROR(impl_->core().Allow(caller, DataAction::kStatusRead, "GetStatus"));
  return BuildStatus(impl_->core());
}
v1::HsmStatus Coordinator::Status() const {
  const Core* core = impl_->core_if_started();
  return core == nullptr ? v1::HsmStatus() : BuildStatus(*core);
}
absl::StatusOr<v1::PartitionResponse> Coordinator::DrainPartition(const Caller& caller,
                                                                  const v1::PartitionRequest& request) {
  return impl_->SetDrained(caller, request.name(), true);
}
absl::StatusOr<v1::PartitionResponse> Coordinator::ResumePartition(const Caller& caller,
                                                                   const v1::PartitionRequest& request) {
  return impl_->SetDrained(caller, request.name(), false);
}
absl::StatusOr<v1::PartitionResponse> Coordinator::ApprovePartition(
    const Caller& caller, const v1::ApprovePartitionRequest& request) {
  return impl_->Approve(caller, request);
}
absl::StatusOr<v1::ListAuditResponse> Coordinator::ListAudit(const Caller& caller,
                                                             const v1::ListAuditRequest& request) {
  return impl_->ListAudit(caller, request);
}

absl::Status Coordinator::EnterRestore(const JobId& job, const AuditFields& audit) {
  return impl_->modes().EnterRestore(job, audit);
}
absl::StatusOr<DataSet> Coordinator::NewDataSet(const JobId& job) { return impl_->modes().NewDataSet(job); }
absl::Status Coordinator::SwitchDataSet(const JobId& job, DataSet to, const AuditFields& audit) {
  return impl_->modes().SwitchDataSet(job, to, audit);
}
absl::Status Coordinator::LeaveRestore(const JobId& job, const AuditFields& audit) {
  return impl_->modes().LeaveRestore(job, audit);
}

Core& Coordinator::core() { return impl_->core(); }
const CoordinatorConfig& Coordinator::config() const { return impl_->config(); }
void Coordinator::Kick(size_t index) { impl_->Kick(index); }
void Coordinator::KickAll() {
  for (size_t i = 0; i < impl_->config().partitions.size(); ++i) impl_->Kick(i);
}

}  // namespace hsm
