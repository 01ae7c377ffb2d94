#include "node/lifecycle.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/virtual_clock.h"

namespace hsm {
namespace {

constexpr absl::Duration kHelperStep =
    absl::Seconds(50);  // one step of a helper: SO login, RSA-3072 generation
constexpr absl::Duration kHelperWrite = absl::Seconds(5);

using internal::v1::HelperFrame;

uint64_t CpuMicroseconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto us = [](const timeval& time) {
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000 + static_cast<uint64_t>(time.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

// The token has lost what the stored domain needs: to be healed by a hand-over, not by an operator.
bool TokenIsEmpty(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::REASON_NOT_FOUND:     // no token of that name: wiped or replaced
    case v1::REASON_NOT_ACTIVE:    // no KEKs
    case v1::REASON_OTHER_DOMAIN:  // other KEKs than the domain's
      return true;
    default:
      return false;
  }
}

// Trying again by itself does no good, or does harm: a PIN is tried once a start.
bool NeedsOperator(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::REASON_PIN_INCORRECT:
    case v1::REASON_SELF_TEST_FAILED:
    case v1::REASON_CONFIG_INVALID:
    case v1::REASON_UNSUPPORTED:
      return true;
    default:
      return false;
  }
}

absl::Status NotFromHere(rpc::NodeState state) {
  return Error(v1::REASON_CONFLICT, "not in state " + std::string(rpc::NodeState_Name(state)));
}

}  // namespace

// DATA_DIR/token.lock: whoever has the PKCS#11 module loaded, node or helper.
class Lifecycle::TokenLock {
 public:
  static absl::StatusOr<std::unique_ptr<TokenLock>> Take(const std::string& directory) {
    std::string path = JoinPath(directory, "token.lock");
    int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) return Error(v1::REASON_CONFIG_INVALID, "cannot open " + path);
    auto lock = std::make_unique<TokenLock>(descriptor);
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return lock;
    return Error(v1::REASON_LOCKED, "another process works on the token: " + path);
  }
  explicit TokenLock(int descriptor) : descriptor_(descriptor) {}
  ~TokenLock() { close(descriptor_); }

 private:
  int descriptor_;
};

Lifecycle::Lifecycle(NodeConfig config, std::string program, std::function<void(int)> request_exit)
    : config_(std::move(config)),
      program_(std::move(program)),
      request_exit_(std::move(request_exit)),
      handovers_(JoinPath(config_.data_dir, "handover")) {
  while (incarnation_ == 0) incarnation_ = SystemRandom().Below(UINT64_MAX);
}

Lifecycle::~Lifecycle() = default;

absl::StatusOr<std::unique_ptr<Lifecycle>> Lifecycle::Open(NodeConfig config, std::string program,
                                                           std::function<void(int)> request_exit) {
  std::unique_ptr<Lifecycle> life(
      new Lifecycle(std::move(config), std::move(program), std::move(request_exit)));
  const NodeConfig& settings = life->config_;
  HSM_ASSIGN_OR_RETURN(life->clock_, ProcessClock(settings.clock_file));
  HSM_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromFile(settings.tls.certificate));
  HSM_ASSIGN_OR_RETURN(PrivateKey private_key, PrivateKey::FromFile(settings.tls.key));
  life->certificate_ = std::make_unique<Certificate>(std::move(certificate));
  life->private_key_ = std::make_unique<PrivateKey>(std::move(private_key));
  if (!settings.profile_file.empty()) {
    HSM_ASSIGN_OR_RETURN(ProfileOptions profile, DeviceProfile::Load(settings.profile_file));
    life->profile_ = std::make_unique<DeviceProfile>(std::move(profile), RealClock());
  }
  HSM_ASSIGN_OR_RETURN(life->blobs_, BlobStore::Open({.path = JoinPath(settings.data_dir, "records.db")}));
  HSM_ASSIGN_OR_RETURN(life->audit_, UseAudit::Open({.directory = JoinPath(settings.data_dir, "use-audit"),
                                                     .node = settings.name},
                                                    RealClock()));
  life->watchdog_ =
      std::make_unique<Watchdog>(RealClock(), absl::Milliseconds(settings.limits.call_timeout_ms));
  return life;
}

void Lifecycle::SetState(rpc::NodeState state, std::string message) {
  MutexLock lock(mutex_);
  state_ = state;
  message_ = std::move(message);
}

absl::Status Lifecycle::Start(SecretBytes so_pin) {
  HSM_RETURN_IF_ERROR(MakeHandover(std::move(so_pin)));
  std::string stored = blobs_->State("domain");
  if (stored.empty()) {
    SetState(rpc::NODE_STATE_NO_DOMAIN, "waits for domain keys");
    return absl::OkStatus();
  }
  rpc::DomainBundle bundle;
  if (!bundle.ParseFromString(stored))
    return Error(v1::REASON_RECORD_CORRUPT, "the stored domain is damaged");
  return OpenDomain(bundle);
}

// OK also when the node ends up REFUSED.
absl::Status Lifecycle::OpenDomain(const rpc::DomainBundle& bundle) {
  absl::Status status = OpenToken(bundle);
  if (status.ok()) return status;
  if (TokenIsEmpty(status)) return ForgetDomain(status);
  if (!NeedsOperator(status)) return status;
  LogError("the partition refuses to serve", {{"error", status}});
  SetState(rpc::NODE_STATE_REFUSED,
           DetailOf(status).message() + ". " + std::string(ReasonHint(ReasonOf(status))));
  return absl::OkStatus();
}

// The domain is stored: whatever goes wrong now, a fresh start goes on from there.
absl::Status Lifecycle::OpenJoined(const rpc::DomainBundle& bundle) {
  absl::Status status = OpenDomain(bundle);
  if (!status.ok()) request_exit_(kExitRestart);
  return status;
}

absl::Status Lifecycle::OpenToken(const rpc::DomainBundle& bundle) {
  // The SO PIN beside the user PIN is the KEKs in plaintext for whoever reads both: only where that is
  // agreed.
  if (config_.healing != "automatic" && !config_.token.so_pin_file.empty() &&
      FileExists(config_.token.so_pin_file)) {
    return Error(
        v1::REASON_CONFIG_INVALID,
        "the SO PIN is in " + config_.token.so_pin_file +
            ": with healing = \"approved\" it may be there only until this partition has made its join "
            "key. Remove it and start again");
  }
  HSM_ASSIGN_OR_RETURN(token_lock_, TokenLock::Take(config_.data_dir));
  HSM_ASSIGN_OR_RETURN(token_, Pkcs11Token::Open(config_.token));
  if (!token_->HasKeks()) return Error(v1::REASON_NOT_ACTIVE, "the token has no domain keys");
  HSM_RETURN_IF_ERROR(CheckProbe());
  watched_ = WatchToken(*token_, *watchdog_);
  Partition::Options options;
  options.node = config_.name;
  options.address = config_.listen;
  options.key_cache_max = config_.limits.key_cache_max;
  if (config_.verify_after_sign == "all") options.verify_sample = 1;
  if (config_.verify_after_sign == "none") options.verify_sample = 0;
  options.profile = profile_.get();
  auto partition = std::make_shared<Partition>(options, *watched_, *blobs_, *audit_, *clock_, SystemRandom());
  HSM_RETURN_IF_ERROR(partition->LoadDomain(bundle));
  MutexLock lock(mutex_);
  partition_ = std::move(partition);
  state_ = rpc::NODE_STATE_SERVING;
  message_.clear();
  return absl::OkStatus();
}

// The join probe, once for each module and token: it costs a third of a second and makes keys. The self-test,
// which tries the attacks that matter, runs at every start (Partition::LoadDomain).
absl::Status Lifecycle::CheckProbe() {
  std::string module = config_.token.module.empty() ? config_.token.uri : config_.token.module;
  struct stat file{};
  if (stat(config_.token.module.c_str(), &file) == 0) {
    module += ' ' + std::to_string(file.st_size) + ' ' + std::to_string(file.st_mtim.tv_sec);
  }
  std::string subject = module + ' ' + token_->Identity().serial;
  if (blobs_->State("probe_subject") != subject) {
    Pkcs11Token::ProbeSummary probe = token_->JoinProbe();
    BlobBatch batch;
    batch.SetState("probe_subject", subject);
    batch.SetState("probe_grade", probe.grade);
    batch.SetState("probe_report", probe.json);
    HSM_RETURN_IF_ERROR(blobs_->Commit(batch));
  }
  std::string grade = blobs_->State("probe_grade");
  if (grade == "strong") return absl::OkStatus();
  return Error(v1::REASON_SELF_TEST_FAILED,
               "the token is graded '" + grade +
                   "': it does not enforce what protects the keys (qhsm-node probe says more)");
}

// Back to NO_DOMAIN by a restart, so that the helper finds a process without a module.
absl::Status Lifecycle::ForgetDomain(const absl::Status& why) {
  LogWarning("the token has lost the domain's keys: the partition waits for a hand-over", {{"why", why}});
  BlobBatch batch;
  batch.SetState("domain_before", blobs_->State("domain"));
  batch.SetState("domain", "");
  batch.ClearProved();
  HSM_RETURN_IF_ERROR(blobs_->Commit(batch));
  SetState(rpc::NODE_STATE_STARTING, "restarts to wait for domain keys");
  request_exit_(kExitRestart);
  return absl::OkStatus();
}

void Lifecycle::Shutdown() {
  std::shared_ptr<Partition> partition;
  {
    MutexLock lock(mutex_);
    partition = std::move(partition_);
    partition_ = nullptr;
    state_ = rpc::NODE_STATE_DRAINING;
  }
  if (partition != nullptr) partition->Drain();
  if (absl::Status status = audit_->Flush(); !status.ok())
    LogWarning("use audit not flushed", {{"error", status}});
  joining_.reset();
  if (partition != nullptr && partition.use_count() == 1) partition.reset();
  if (token_ != nullptr) token_->Shutdown();
}

std::shared_ptr<Partition> Lifecycle::partition() {
  MutexLock lock(mutex_);
  return partition_;
}

rpc::HeartbeatRequest Lifecycle::Status() {
  if (std::shared_ptr<Partition> serving = partition()) {
    rpc::HeartbeatRequest status = serving->StatusForHeartbeat();
    status.set_incarnation(incarnation_);
    return status;
  }
  rpc::HeartbeatRequest status;
  status.set_node(config_.name);
  status.set_incarnation(incarnation_);
  status.set_address(config_.listen);
  status.set_profile(profile_ == nullptr ? "none" : profile_->name());
  status.set_epoch(blobs_->StateNumber("epoch"));
  status.set_data_set(std::max<uint64_t>(blobs_->StateNumber("data_set"), 1));
  status.set_store_commit(blobs_->StateNumber("store_commit"));
  MutexLock lock(mutex_);
  status.set_state(state_);
  status.set_message(message_);
  return status;
}

absl::StatusOr<rpc::GetInfoResponse> Lifecycle::GetInfo() {
  rpc::GetInfoResponse response;
  if (std::shared_ptr<Partition> serving = partition()) {
    HSM_ASSIGN_OR_RETURN(response, serving->GetInfo({}));
  }
  *response.mutable_status() = Status();
  response.set_probe_report(blobs_->State("probe_report"));
  response.set_certificate_sha256(ToString(certificate_->Fingerprint()));
  response.set_pid(static_cast<uint64_t>(getpid()));
  response.set_cpu_us(CpuMicroseconds());
  return response;
}

absl::Status Lifecycle::Begin() {
  MutexLock lock(mutex_);
  if (state_ != rpc::NODE_STATE_NO_DOMAIN && state_ != rpc::NODE_STATE_JOINING) return NotFromHere(state_);
  if (busy_) return BusyError(500, "another domain call is being worked on");
  busy_ = true;
  return absl::OkStatus();
}

void Lifecycle::Done() {
  MutexLock lock(mutex_);
  busy_ = false;
}

absl::Status Lifecycle::StoreDomain(const rpc::DomainBundle& bundle, Epoch epoch, DataSet data_set) {
  std::string held = blobs_->State("hsm_id");
  if (!held.empty() && held != bundle.hsm_id()) {
    return Error(v1::REASON_OTHER_DOMAIN, "this partition belongs to another HSM");
  }
  BlobBatch batch;
  batch.SetState("domain", bundle.SerializeAsString());
  batch.SetState("hsm_id", bundle.hsm_id());
  batch.ClearProved();
  batch.RaiseState("epoch", epoch);
  if (blobs_->State("data_set").empty() && data_set != 0)
    batch.SetState("data_set", std::to_string(data_set));
  return blobs_->Commit(batch);
}

absl::StatusOr<rpc::MakeDomainResponse> Lifecycle::MakeDomain(const rpc::MakeDomainRequest& request) {
  HSM_RETURN_IF_ERROR(Begin());
  absl::StatusOr<rpc::MakeDomainResponse> response = [&]() -> absl::StatusOr<rpc::MakeDomainResponse> {
    if (request.epoch() < blobs_->StateNumber("epoch"))
      return Error(v1::REASON_FENCED, "a newer coordinator leads");
    joining_.reset();
    HelperProcess helper;
    HSM_RETURN_IF_ERROR(helper.Start(program_, config_.path, HelperMode::kMakeDomain));
    HelperFrame frame;
    frame.mutable_make_domain()->set_hsm_id(request.hsm_id());
    frame.mutable_make_domain()->set_generation(1);
    HSM_RETURN_IF_ERROR(helper.Write(frame, kHelperWrite));
    HSM_ASSIGN_OR_RETURN(frame, helper.Read(kHelperStep));
    if (!frame.has_bundle())
      return Error(v1::REASON_INTERNAL, "the helper sent something else than a bundle");
    rpc::MakeDomainResponse made;
    *made.mutable_bundle() = frame.bundle();
    HSM_RETURN_IF_ERROR(helper.Read(kHelperStep).status());  // Done
    HSM_RETURN_IF_ERROR(helper.Wait(kHelperStep));
    HSM_RETURN_IF_ERROR(StoreDomain(made.bundle(), request.epoch(), 1));
    HSM_RETURN_IF_ERROR(OpenJoined(made.bundle()));
    return made;
  }();
  Done();
  return response;
}

absl::StatusOr<rpc::JoinKey> Lifecycle::BeginJoin(const rpc::BeginJoinRequest& request) {
  HSM_RETURN_IF_ERROR(Begin());
  absl::StatusOr<rpc::JoinKey> response = [&]() -> absl::StatusOr<rpc::JoinKey> {
    if (request.epoch() < blobs_->StateNumber("epoch"))
      return Error(v1::REASON_FENCED, "a newer coordinator leads");
    joining_ = std::make_unique<HelperProcess>();
    HSM_RETURN_IF_ERROR(joining_->Start(program_, config_.path, HelperMode::kProvisionAndJoin));
    HelperFrame frame;
    frame.mutable_join()->set_hsm_id(request.hsm_id());
    frame.mutable_join()->set_generation(1);
    HSM_RETURN_IF_ERROR(joining_->Write(frame, kHelperWrite));
    HSM_ASSIGN_OR_RETURN(frame, joining_->Read(kHelperStep));
    if (!frame.has_join_key())
      return Error(v1::REASON_INTERNAL, "the helper sent something else than a join key");
    rpc::JoinKey key;
    key.set_node(config_.name);
    key.set_spki(frame.join_key().spki());
    key.set_oaep_hash(frame.join_key().oaep_hash());
    return SignJoinKey(std::move(key), request.hsm_id(), *certificate_, *private_key_);
  }();
  if (response.ok()) {
    SetState(rpc::NODE_STATE_JOINING, "waits for a hand-over");
  } else {
    joining_.reset();
    SetState(rpc::NODE_STATE_NO_DOMAIN, DetailOf(response.status()).message());
  }
  Done();
  return response;
}

absl::StatusOr<rpc::CompleteJoinResponse> Lifecycle::CompleteJoin(const rpc::CompleteJoinRequest& request) {
  HSM_RETURN_IF_ERROR(Begin());
  absl::Status status = [&]() -> absl::Status {
    const rpc::Handover& handover = request.handover();
    if (joining_ == nullptr) return Error(v1::REASON_CONFLICT, "no join was begun here");
    if (handover.bundle().hsm_id() != request.fence().hsm_id()) {
      return Error(v1::REASON_OTHER_DOMAIN, "the hand-over is of another HSM");
    }
    HSM_RETURN_IF_ERROR(CheckHandover(handover, config_.name, config_.peers));
    HelperFrame frame;
    frame.mutable_install()->mutable_keks()->set_replication_kek(handover.replication_kek());
    frame.mutable_install()->mutable_keks()->set_backup_kek(handover.backup_kek());
    *frame.mutable_install()->mutable_bundle() = handover.bundle();
    HSM_RETURN_IF_ERROR(joining_->Write(frame, kHelperWrite));
    HSM_RETURN_IF_ERROR(joining_->Read(kHelperStep).status());  // Done
    HSM_RETURN_IF_ERROR(joining_->Wait(kHelperStep));
    HSM_RETURN_IF_ERROR(StoreDomain(handover.bundle(), request.fence().epoch(), request.fence().data_set()));
    return OpenJoined(handover.bundle());
  }();
  joining_.reset();
  if (!status.ok()) SetState(rpc::NODE_STATE_NO_DOMAIN, DetailOf(status).message());
  Done();
  if (!status.ok()) return status;
  return rpc::CompleteJoinResponse();
}

absl::StatusOr<rpc::SponsorResponse> Lifecycle::Sponsor(const rpc::SponsorRequest& request) {
  std::shared_ptr<Partition> serving = partition();
  if (serving == nullptr) return Error(v1::REASON_NOT_ACTIVE, "the partition has no domain to hand over");
  HSM_RETURN_IF_ERROR(serving->CheckFence(request.fence()));
  HSM_RETURN_IF_ERROR(CheckJoinKey(request.join_key(), request.fence().hsm_id(), config_.peers));
  SecretBytes so_pin;
  if (!request.sealed_so_pin().empty()) {
    HSM_ASSIGN_OR_RETURN(so_pin, private_key_->Decrypt(View(request.sealed_so_pin()), kSoPinPurpose));
  } else if (config_.healing != "automatic") {
    return Error(v1::REASON_PERMISSION_DENIED, "this partition hands over only with an officer's approval");
  }
  std::string id = ToString(SystemRandom().Draw(16));
  HSM_RETURN_IF_ERROR(handovers_.PutRequest(id, request.join_key()));
  LogInfo("hand-over accepted: draining and restarting", {{"joiner", request.join_key().node()}});
  serving->Drain();
  {
    MutexLock lock(mutex_);
    so_pin_ = std::move(so_pin);
  }
  request_exit_(kExitRestart);  // this answer goes out first
  rpc::SponsorResponse response;
  response.set_handover_id(id);
  return response;
}

SecretBytes Lifecycle::TakeSoPin() {
  MutexLock lock(mutex_);
  return std::move(so_pin_);
}

absl::StatusOr<rpc::TakeHandoverResponse> Lifecycle::TakeHandover(const rpc::TakeHandoverRequest& request) {
  if (request.handover_id().size() != 16)
    return Error(v1::REASON_INVALID_ARGUMENT, "handover_id has 16 bytes");
  return handovers_.Result(request.handover_id());
}

absl::Status Lifecycle::MakeHandover(SecretBytes so_pin) {
  HSM_ASSIGN_OR_RETURN(std::optional<HandoverFiles::Request> request, handovers_.TakeRequest());
  if (!request) return absl::OkStatus();
  SetState(rpc::NODE_STATE_DRAINING, "hands over the domain keys to " + request->key.node());
  absl::StatusOr<rpc::Handover> result = RunSponsor(*request, std::move(so_pin));
  if (!result.ok()) LogError("the hand-over failed", {{"error", result.status()}});
  HSM_RETURN_IF_ERROR(handovers_.PutResult(request->id, result));
  SetState(rpc::NODE_STATE_STARTING, "");
  return absl::OkStatus();
}

absl::StatusOr<rpc::Handover> Lifecycle::RunSponsor(const HandoverFiles::Request& request,
                                                    SecretBytes so_pin) {
  rpc::DomainBundle bundle;
  if (!bundle.ParseFromString(blobs_->State("domain")) || bundle.hsm_id().empty()) {
    return Error(v1::REASON_NOT_ACTIVE, "there is no domain here");
  }
  HSM_RETURN_IF_ERROR(
      CheckJoinKey(request.key, bundle.hsm_id(), config_.peers));  // the file may have been changed
  HelperProcess helper;
  HSM_RETURN_IF_ERROR(helper.Start(program_, config_.path, HelperMode::kSponsor));
  HelperFrame frame;
  frame.mutable_sponsor()->set_spki(request.key.spki());
  frame.mutable_sponsor()->set_oaep_hash(request.key.oaep_hash());
  frame.mutable_sponsor()->set_so_pin(std::string(StringView(so_pin.Expose())));
  absl::Status written = helper.Write(frame, kHelperWrite);
  std::string* sent = frame.mutable_sponsor()->mutable_so_pin();
  explicit_bzero(sent->data(), sent->size());
  HSM_RETURN_IF_ERROR(written);
  HSM_ASSIGN_OR_RETURN(frame, helper.Read(kHelperStep));
  if (!frame.has_keks()) return Error(v1::REASON_INTERNAL, "the helper sent something else than the KEKs");
  rpc::Handover handover;
  handover.set_handover_id(request.id);
  handover.set_replication_kek(frame.keks().replication_kek());
  handover.set_backup_kek(frame.keks().backup_kek());
  *handover.mutable_bundle() = std::move(bundle);
  handover.set_node(request.key.node());
  HSM_RETURN_IF_ERROR(helper.Read(kHelperStep).status());  // Done
  HSM_RETURN_IF_ERROR(helper.Wait(kHelperStep));
  return SignHandover(std::move(handover), *certificate_, *private_key_);
}

}  // namespace hsm
