#include "node/partition.h"

#include "common/check.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "node/core.h"
#include "node/executor.h"
#include "node/exporter.h"
#include "node/generator.h"
#include "node/installer.h"
#include "node/prover.h"

namespace hsm {

struct Partition::Parts {
  Parts(Options options, Token& token, BlobStore& blobs, UseAudit& audit, Clock& clock, Random& random)
      : core(std::move(options), token, blobs, audit, clock, random),
        prover(core),
        installer(core, prover),
        generator(core),
        exporter(core),
        executor(core, prover) {
    uint64_t drawn = 0;
    while (drawn == 0) drawn = random.Below(UINT64_MAX);
    incarnation = drawn;
  }

  absl::Status Load(const rpc::DomainBundle& bundle);
  absl::Status DropOldDataSets();
  absl::StatusOr<rpc::ControlResponse> Control(const rpc::ControlRequest& request);

  NodeCore core;
  NodeProver prover;
  Installer installer;
  Generator generator;
  Exporter exporter;
  Executor executor;
  uint64_t incarnation = 0;

  Mutex mutex;
  rpc::NodeState state HSM_GUARDED_BY(mutex) = rpc::NODE_STATE_STARTING;
  std::string message HSM_GUARDED_BY(mutex);
  // For operations per second.
  uint64_t ops_before HSM_GUARDED_BY(mutex) = 0;
  absl::Duration ops_at HSM_GUARDED_BY(mutex);
  double ops_per_second HSM_GUARDED_BY(mutex) = 0;
};

Partition::Partition(Options options, Token& token, BlobStore& blobs, UseAudit& audit, Clock& clock,
                     Random& random)
    : parts_(std::make_unique<Parts>(std::move(options), token, blobs, audit, clock, random)) {}
Partition::~Partition() { parts_->core.cache.Clear(); }

absl::Status Partition::Parts::Load(const rpc::DomainBundle& bundle) {
  HSM_ASSIGN_OR_RETURN(core.sealer, Sealer::Open(core.token, bundle));
  HSM_RETURN_IF_ERROR(core.token.SelfTest());
  HSM_RETURN_IF_ERROR(core.fence.SetHsm(core.sealer->hsm()));
  std::string bytes = bundle.SerializeAsString();
  if (core.blobs.State("domain") != bytes) {
    BlobBatch batch;
    batch.ClearProved();
    batch.SetState("domain", bytes);
    HSM_RETURN_IF_ERROR(core.blobs.Commit(batch));
  }
  HSM_RETURN_IF_ERROR(DropOldDataSets());
  HSM_RETURN_IF_ERROR(core.LoadTombstones());
  HSM_RETURN_IF_ERROR(core.OpenIndex(core.fence.data_set()).status());
  core.ready.store(true);
  return absl::OkStatus();
}

// Kept: the one that serves, the one before it (a restore may be taken back), and those above it (being
// loaded).
absl::Status Partition::Parts::DropOldDataSets() {
  HSM_ASSIGN_OR_RETURN(std::vector<DataSet> held, core.blobs.DataSets());  // ascending
  std::erase_if(held, [this](DataSet data_set) { return data_set >= core.fence.data_set(); });
  if (!held.empty()) held.pop_back();
  BlobBatch batch;
  for (DataSet data_set : held) batch.DropDataSet(data_set);
  return core.blobs.Commit(batch);
}

absl::Status Partition::LoadDomain(const rpc::DomainBundle& bundle) {
  HSM_CHECK(!parts_->core.ready.load());
  absl::Status status = parts_->Load(bundle);
  MutexLock lock(parts_->mutex);
  parts_->state = status.ok() ? rpc::NODE_STATE_SERVING : rpc::NODE_STATE_REFUSED;
  parts_->message = status.ok() ? "" : std::string(status.message());
  parts_->ops_at = parts_->core.clock.Uptime();
  return status;
}

absl::StatusOr<rpc::ControlResponse> Partition::Parts::Control(const rpc::ControlRequest& request) {
  rpc::ControlResponse response;
  if (request.what_case() == rpc::ControlRequest::kHead) {
    HSM_ASSIGN_OR_RETURN(bool taken, installer.TakeHead(request));
    response.set_taken(taken);
    return response;
  }
  HSM_RETURN_IF_ERROR(core.CheckFence(request.fence()));
  if (request.what_case() == rpc::ControlRequest::kHearEpoch) {  // done by the check of the fence
    response.set_taken(true);
    return response;
  }
  ServingFence::Change change = ServingFence::Change::kStop;
  DataSet data_set = core.fence.data_set();
  switch (request.what_case()) {
    case rpc::ControlRequest::kStopServing:
      break;
    case rpc::ControlRequest::kDrain:
      change = ServingFence::Change::kDrain;
      break;
    case rpc::ControlRequest::kResume:
      change = ServingFence::Change::kResume;
      break;
    case rpc::ControlRequest::kSwitchDataSet:
      change = ServingFence::Change::kSwitch;
      data_set = request.switch_data_set();
      if (data_set == 0) return Error(v1::REASON_INVALID_ARGUMENT, "switch to which data set?");
      HSM_RETURN_IF_ERROR(core.OpenIndex(data_set).status());  // may be empty: synchronisation fills it
      break;
    default:
      return Error(v1::REASON_INVALID_ARGUMENT, "no control given");
  }
  std::shared_ptr<KeyIndex> before = core.Serving();
  HSM_ASSIGN_OR_RETURN(bool taken,
                       core.fence.Take(change, request.fence().epoch(), request.sequence(), data_set));
  if (taken && change == ServingFence::Change::kResume) {
    response.set_taken(true);
    return response;
  }
  if (taken && before != nullptr) taken = before->WaitAllUnused(core.clock, core.options.drain_wait);
  if (taken && change == ServingFence::Change::kSwitch) {
    core.cache.Clear();
    core.DropIndexesBut(data_set);
  }
  response.set_taken(taken);
  return response;
}

absl::StatusOr<rpc::GetInfoResponse> Partition::GetInfo(const rpc::GetInfoRequest&) {
  rpc::GetInfoResponse response;
  *response.mutable_status() = StatusForHeartbeat();
  if (parts_->core.ready.load()) *response.mutable_bundle() = parts_->core.sealer->bundle();
  return response;
}

absl::StatusOr<rpc::GenerateResponse> Partition::Generate(const rpc::GenerateRequest& request) {
  return parts_->generator.Generate(request);
}
absl::StatusOr<rpc::TransitionResponse> Partition::Transition(const rpc::TransitionRequest& request) {
  return parts_->generator.Transition(request);
}
absl::StatusOr<rpc::InstallResponse> Partition::Install(const rpc::InstallRequest& request) {
  return parts_->installer.Install(request);
}
absl::StatusOr<rpc::ActivateResponse> Partition::Activate(const rpc::ActivateRequest& request) {
  return parts_->installer.Activate(request);
}
absl::StatusOr<rpc::DiscardResponse> Partition::Discard(const rpc::DiscardRequest& request) {
  return parts_->installer.Discard(request);
}
absl::StatusOr<rpc::ProveResponse> Partition::Prove(const rpc::ProveRequest& request) {
  return parts_->installer.Prove(request);
}
absl::StatusOr<rpc::ControlResponse> Partition::Control(const rpc::ControlRequest& request) {
  return parts_->Control(request);
}

absl::StatusOr<rpc::DigestResponse> Partition::Digest(const rpc::DigestRequest& request) {
  HSM_RETURN_IF_ERROR(parts_->core.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index,
                       parts_->core.IndexFor(request.fence().data_set(), true));
  rpc::DigestResponse response;
  for (const Bytes& bucket : index->BucketDigests()) response.add_buckets(ToString(bucket));
  return response;
}

absl::StatusOr<rpc::ListBucketResponse> Partition::ListBucket(const rpc::ListBucketRequest& request) {
  HSM_RETURN_IF_ERROR(parts_->core.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index,
                       parts_->core.IndexFor(request.fence().data_set(), true));
  if (request.bucket() >= limits::kBuckets)
    return Error(v1::REASON_INVALID_ARGUMENT, "there are 256 buckets");
  std::optional<KeyUid> after;
  if (!request.after().empty()) {
    after = KeyUid::FromHexText(request.after());
    if (!after) return Error(v1::REASON_INVALID_ARGUMENT, "`after` is a uid in hex");
  }
  size_t limit =
      std::min<size_t>(request.limit() == 0 ? limits::kPageSizeMax : request.limit(), limits::kPageSizeMax);
  rpc::ListBucketResponse response;
  bool more = false;
  for (const IndexEntryPtr& entry : index->Page(request.bucket(), after, limit, more)) {
    rpc::HeldKey* key = response.add_keys();
    key->set_uid(entry->uid.Raw());
    key->set_incarnation(entry->incarnation);
    key->set_revision(entry->revision);
    key->set_head_mac(std::string(StringView(entry->head_mac)));
    key->set_staged(!entry->attempt.IsZero());
    if (key->staged()) key->set_op_id(entry->attempt.Raw());
    key->set_tombstone(entry->state == KeyState::kTombstone);
    std::vector<VersionEntry> versions = entry->versions;
    std::sort(versions.begin(), versions.end(), [](auto& a, auto& b) { return a.version < b.version; });
    for (const VersionEntry& version : versions) {
      key->add_versions(version.version.Raw());
      if (!version.proved) key->add_unproved(version.version.Raw());
    }
  }
  response.set_more(more);
  return response;
}

absl::StatusOr<rpc::PutRecordsResponse> Partition::PutRecords(const rpc::PutRecordsRequest& request) {
  return parts_->installer.PutRecords(request);
}
absl::StatusOr<rpc::QuarantineResponse> Partition::Quarantine(const rpc::QuarantineRequest& request) {
  return parts_->installer.Quarantine(request);
}
absl::StatusOr<rpc::ExportResponse> Partition::Export(const rpc::ExportRequest& request) {
  return parts_->exporter.Export(request);
}
absl::StatusOr<rpc::DeriveAeadResponse> Partition::DeriveAead(const rpc::DeriveAeadRequest& request) {
  return parts_->exporter.DeriveAead(request);
}
absl::StatusOr<rpc::SignManifestResponse> Partition::SignManifest(const rpc::SignManifestRequest& request) {
  return parts_->exporter.SignManifest(request);
}
absl::StatusOr<rpc::CheckManifestResponse> Partition::CheckManifest(
    const rpc::CheckManifestRequest& request) {
  return parts_->exporter.CheckManifest(request);
}
absl::StatusOr<rpc::ImportResponse> Partition::Import(const rpc::ImportRequest& request) {
  return parts_->exporter.Import(request);
}

bool Partition::IsQuick(const v1::CryptoBatch& batch) const { return parts_->executor.IsQuick(batch); }

v1::CryptoBatchResult Partition::Crypto(const v1::CryptoBatch& batch) {
  v1::CryptoBatchResult results;
  parts_->executor.Execute(batch, &results);
  return results;
}
void Partition::Crypto(const v1::CryptoBatch& batch, v1::CryptoBatchResult* results) {
  parts_->executor.Execute(batch, results);
}

rpc::HeartbeatRequest Partition::StatusForHeartbeat() {
  NodeCore& core = parts_->core;
  rpc::HeartbeatRequest status;
  status.set_node(core.options.node);
  status.set_incarnation(parts_->incarnation);
  status.set_epoch(core.fence.epoch());
  status.set_control_sequence(core.fence.control_sequence());
  status.set_data_set(core.fence.data_set());
  status.set_store_commit(core.fence.store_commit());
  if (HsmId hsm = core.fence.hsm(); !hsm.IsZero()) status.set_hsm_id(hsm.Raw());
  if (std::shared_ptr<KeyIndex> index = core.Serving(); index != nullptr && core.ready.load()) {
    status.set_keys(index->keys());
    status.set_proved(index->proved());
    status.set_digest(ToString(index->Digest()));
  }
  status.set_in_flight(parts_->executor.in_flight());
  status.set_total_ops(parts_->executor.total_ops());
  UseAuditHead head = core.audit.Head();
  status.set_use_audit_head(ToString(head.hash));
  status.set_use_audit_sequence(head.sequence);
  status.set_address(core.options.address);
  TokenIdentity identity = core.token.Identity();
  status.set_backend(identity.manufacturer + " " + identity.model);
  status.set_token_serial(identity.serial);
  status.set_profile(core.options.profile == nullptr ? "none" : core.options.profile->name());
  if (core.options.profile != nullptr) {
    const KeySpec spec{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
    double seconds = 0;
    for (ProfileOperation operation : {ProfileOperation::kUnwrap, ProfileOperation::kWrap}) {
      if (auto rate = core.options.profile->Rate(operation, spec); rate && *rate > 0) seconds += 1 / *rate;
    }
    status.set_export_seconds(seconds);
  }
  absl::Duration now = core.clock.Uptime();
  status.set_wall_seconds(absl::ToUnixSeconds(core.clock.Now()));
  status.set_uptime_seconds(absl::ToInt64Seconds(now));
  MutexLock lock(parts_->mutex);
  status.set_state(parts_->state == rpc::NODE_STATE_SERVING && core.fence.draining()
                       ? rpc::NODE_STATE_DRAINING
                       : parts_->state);
  status.set_message(parts_->message);
  if (double seconds = absl::ToDoubleSeconds(now - parts_->ops_at); seconds >= 0.5) {
    parts_->ops_per_second = static_cast<double>(status.total_ops() - parts_->ops_before) / seconds;
    parts_->ops_before = status.total_ops();
    parts_->ops_at = now;
  }
  status.set_ops_per_second(parts_->ops_per_second);
  return status;
}

void Partition::OnHeartbeat(const rpc::HeartbeatResponse& response, absl::Duration asked_at) {
  if (parts_->core.ready.load()) parts_->core.fence.OnHeartbeat(response, asked_at);
  if (absl::Status kept = parts_->core.time.KeepDurably(); !kept.ok()) {
    LogWarning("the node's time is not kept", {{"why", kept}});
  }
}

void Partition::Drain() {
  parts_->core.fence.SetDraining(true);
  if (std::shared_ptr<KeyIndex> index = parts_->core.Serving()) {
    index->WaitAllUnused(parts_->core.clock, parts_->core.options.drain_wait);
  }
}

bool Partition::Serving() const { return parts_->core.ready.load() && parts_->core.fence.HasLease(); }
bool Partition::StoreBroken() const { return parts_->core.blobs.Broken(); }
absl::Status Partition::CheckFence(const rpc::Fence& fence) { return parts_->core.CheckFence(fence); }

}  // namespace hsm
