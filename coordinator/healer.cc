#include "coordinator/healer.h"

#include <algorithm>

#include "common/aead.h"
#include "common/error.h"
#include "common/log.h"

namespace hsm {
namespace {

constexpr absl::Duration kDomainTimeout =
    absl::Seconds(60);  // key generation inside a token, by a helper process
constexpr absl::Duration kHandoverTimeout = absl::Seconds(90);
constexpr absl::Duration kHandoverPoll = absl::Milliseconds(100);
constexpr absl::Duration kDrainTimeout = absl::Seconds(3);

std::string FingerprintOf(const std::string& spki) { return Hex(Sha256(View(spki))); }

bool WaitsForDomain(const PartitionView& view) {
  return (view.heartbeat.state() == rpc::NODE_STATE_NO_DOMAIN ||
          view.heartbeat.state() == rpc::NODE_STATE_JOINING) &&
         view.state != v1::PARTITION_STATE_DOWN && view.state != v1::PARTITION_STATE_SUSPECT &&
         view.facts.last_heartbeat.has_value();
}

}  // namespace

void Healer::Pause(absl::Duration time) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(mutex);
  core_.clock.Await(mutex, never, [] { return false; }, time);
}

void Healer::Tick() {
  HsmViewPtr view = core_.state.View();
  if (!view->stopped.empty()) return;
  if (view->mode == rpc::HSM_MODE_UNSPECIFIED || view->mode == rpc::HSM_MODE_PROVISIONED) {
    absl::Status status = Bootstrap();
    std::string why = DetailOf(status).message();
    if (why != said_ && !status.ok()) LogWarning("the HSM is not active yet", {{"why", why}});
    said_ = why;
    return;
  }
  if (!view->Serves()) return;  // a restore is under way: its partitions are not restarted
  std::vector<size_t> waiting;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    if (WaitsForDomain(core_.cluster.View(i))) waiting.push_back(i);
  }
  if (waiting.empty()) return;
  BeginJoins(waiting, view->id);
  for (size_t index : waiting) {
    absl::Status status = Heal(index);
    core_.cluster.SetMessage(index, DetailOf(status).message());
  }
}

// Join keys take a token a while to make: all at once, and at the start beside the domain keys of `maker`.
std::optional<absl::StatusOr<rpc::MakeDomainResponse>> Healer::BeginJoins(std::vector<size_t> joiners,
                                                                          const HsmId& hsm,
                                                                          std::optional<size_t> maker) {
  rpc::BeginJoinRequest begin;
  begin.set_hsm_id(hsm.Raw());
  begin.set_epoch(core_.state.View()->epoch);
  rpc::MakeDomainRequest make;
  make.set_hsm_id(begin.hsm_id());
  make.set_epoch(begin.epoch());
  std::erase_if(joiners, [this](size_t index) { return Known(index).has_value(); });
  struct Answer {
    std::optional<absl::StatusOr<rpc::JoinKey>> key;
    std::optional<absl::StatusOr<rpc::MakeDomainResponse>> made;
  };
  ClusterState& cluster = core_.cluster;
  std::vector<size_t> targets = joiners;
  if (maker.has_value()) targets.push_back(*maker);
  std::vector<uint64_t> incarnations;
  for (size_t index : targets) incarnations.push_back(cluster.View(index).heartbeat.incarnation());
  auto answers = core_.fan_out.GatherPlaces<Answer>(
      targets,
      [&cluster, begin, make, joining = joiners.size()](size_t place, size_t index) {
        Answer answer;
        if (place < joining) answer.key = cluster.client(index).BeginJoin(begin, kDomainTimeout);
        if (place >= joining) answer.made = cluster.client(index).MakeDomain(make, kDomainTimeout);
        return answer;
      },
      nullptr, absl::ZeroDuration(), kDomainTimeout + absl::Seconds(1));
  for (size_t i = 0; i < joiners.size(); ++i) {
    if (!answers[i].has_value() || !answers[i]->key->ok()) {
      problems_[joiners[i]] =
          answers[i].has_value() ? DetailOf(answers[i]->key->status()).message() : "no answer";
      continue;
    }
    Joiner joiner;
    joiner.key = **std::move(answers[i]->key);
    joiner.fingerprint = FingerprintOf(joiner.key.spki());
    joiner.incarnation = incarnations[i];
    MutexLock lock(mutex_);
    joiners_[joiners[i]] = std::move(joiner);
  }
  if (!maker.has_value() || !answers.back().has_value()) return std::nullopt;
  return std::move(answers.back()->made);
}

// The join key of the process that runs there now.
std::optional<Healer::Joiner> Healer::Known(size_t index) {
  const uint64_t incarnation = core_.cluster.View(index).heartbeat.incarnation();
  MutexLock lock(mutex_);
  auto found = joiners_.find(index);
  if (found == joiners_.end() || found->second.incarnation != incarnation) return std::nullopt;
  return found->second;
}

// Only when every configured partition has been heard of: a domain made elsewhere must not be overlooked.
absl::Status Healer::Bootstrap() {
  HsmViewPtr view = core_.state.View();
  size_t heard = 0;
  for (const PartitionView& partition : core_.cluster.Views()) {
    if (!partition.facts.last_heartbeat.has_value()) continue;
    if (view->mode == rpc::HSM_MODE_UNSPECIFIED && !partition.heartbeat.hsm_id().empty()) {
      std::string why = "the catalogue is empty, but partition " + partition.name +
                        " has domain keys: bring back the store, or wipe the partitions for a new HSM";
      core_.state.Stop(v1::REASON_STORE_ROLLED_BACK, why);
      return Error(v1::REASON_STORE_ROLLED_BACK, why);
    }
    bool ready = partition.heartbeat.state() == rpc::NODE_STATE_NO_DOMAIN ||
                 partition.heartbeat.state() == rpc::NODE_STATE_SERVING ||
                 partition.heartbeat.state() == rpc::NODE_STATE_JOINING;
    heard += ready;
  }
  if (heard < core_.cluster.size()) {
    return Error(v1::REASON_NOT_ACTIVE, "waits for all partitions to be heard of: " + std::to_string(heard) +
                                            " of " + std::to_string(core_.cluster.size()) + " are");
  }
  if (view->mode == rpc::HSM_MODE_UNSPECIFIED) HSM_RETURN_IF_ERROR(Provision());
  view = core_.state.View();
  HSM_ASSIGN_OR_RETURN(rpc::DomainBundle bundle, FindOrMakeDomain(view->stored));
  // Empty, but of this data set; before anybody may create.
  HSM_RETURN_IF_ERROR(core_.table.Load(core_.catalogue, view->data_set));
  rpc::StoredHsm active = view->stored;
  *active.mutable_bundle() = std::move(bundle);
  active.set_mode(rpc::HSM_MODE_ACTIVE);
  return CommitHsm(core_, *view, active, AuditOfSystem("ActivateHsm", active.name())).status;
}

absl::Status Healer::Provision() {
  rpc::StoredHsm hsm;
  hsm.set_id(core_.random.NewId<HsmId>().Raw());
  hsm.set_name(core_.config.hsm_name);
  hsm.set_mode(rpc::HSM_MODE_PROVISIONED);
  hsm.set_data_set(1);
  hsm.set_highest_data_set(1);
  hsm.set_lineage(core_.random.NewId<HsmId>().Raw());
  hsm.set_created(absl::ToUnixSeconds(core_.clock.Now()));
  hsm.set_retention_days(core_.config.retention_days);
  hsm.set_purge_protection(core_.config.purge_protection);
  hsm.set_domain_maker(core_.cluster.name(0));
  return CommitHsm(core_, *core_.state.View(), hsm, AuditOfSystem("ProvisionHsm", hsm.name())).status;
}

// One partition, chosen durably before, makes it: a second try elsewhere could give the HSM two domains.
absl::StatusOr<rpc::DomainBundle> Healer::FindOrMakeDomain(const rpc::StoredHsm& hsm) {
  std::optional<size_t> maker = core_.cluster.IndexOf(hsm.domain_maker());
  if (!maker.has_value()) {
    return Error(v1::REASON_CONFIG_INVALID,
                 "partition " + hsm.domain_maker() + " makes the domain keys, but is not there");
  }
  if (core_.cluster.View(*maker).heartbeat.hsm_id() == hsm.id()) {  // made, and then something broke
    HSM_ASSIGN_OR_RETURN(rpc::GetInfoResponse info, core_.cluster.client(*maker).GetInfo({}, kDomainTimeout));
    if (info.has_bundle()) return info.bundle();
  }
  std::vector<size_t> others;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    if (i != *maker && WaitsForDomain(core_.cluster.View(i))) others.push_back(i);
  }
  LogInfo("making the domain keys", {{"partition", hsm.domain_maker()}});
  auto answer = BeginJoins(others, *HsmId::From(hsm.id()), maker);
  if (!answer.has_value())
    return Error(v1::REASON_DEADLINE_EXCEEDED, "the domain keys were not made in time");
  HSM_ASSIGN_OR_RETURN(rpc::MakeDomainResponse made, *std::move(answer));
  if (!made.has_bundle() || made.bundle().hsm_id() != hsm.id()) {
    return Error(v1::REASON_OTHER_DOMAIN, "a partition made domain keys for another HSM");
  }
  return std::move(*made.mutable_bundle());
}

// READY, and another READY one stays to serve meanwhile, unless there are no keys to serve yet.
absl::StatusOr<size_t> Healer::ChooseSponsor(size_t joiner, std::optional<size_t> wanted) const {
  std::vector<size_t> ready;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    if (i != joiner && core_.cluster.IsReady(i)) ready.push_back(i);
  }
  size_t need = core_.table.keys() == 0 ? 1 : 2;
  if (ready.size() < need) {
    return Error(v1::REASON_NO_PARTITION, "a hand-over needs " + std::to_string(need) +
                                              " READY partitions, " + std::to_string(ready.size()) + " are");
  }
  if (wanted.has_value()) {
    if (std::find(ready.begin(), ready.end(), *wanted) != ready.end()) return *wanted;
    return Error(v1::REASON_NO_PARTITION,
                 "a hand-over from " + core_.cluster.name(*wanted) + " is approved, but it is not READY");
  }
  return *std::min_element(ready.begin(), ready.end(), [this](size_t a, size_t b) {
    auto cost = [this](size_t i) {
      PartitionView view = core_.cluster.View(i);
      return view.in_flight + (view.busy == BusyWith::kNothing ? 0u : 1'000'000u);
    };
    return cost(a) < cost(b);
  });
}

absl::Status Healer::Heal(size_t index) {
  std::optional<Joiner> known = Known(index);
  if (!known.has_value()) return Error(v1::REASON_UNREACHABLE, "has made no join key: " + problems_[index]);
  Joiner& joiner = *known;
  if (joiner.key.node() != core_.cluster.name(index)) {
    return Error(v1::REASON_CONFLICT, "the join key is for " + joiner.key.node());
  }
  if (core_.config.healing == HealingPolicy::kApproved && !joiner.approved.has_value()) {
    return Error(v1::REASON_NOT_ACTIVE, "has no domain keys: approve it with `qhsm partition approve " +
                                            core_.cluster.name(index) + " --fingerprint " +
                                            joiner.fingerprint +
                                            " --sponsor-certificate FILE --so-pin-file FILE`");
  }
  HSM_ASSIGN_OR_RETURN(size_t sponsor, ChooseSponsor(index, joiner.sponsor));
  absl::Status status = HandOver(index, sponsor, joiner);
  MutexLock lock(mutex_);
  joiners_.erase(index);  // a join key is used once
  return status;
}

absl::Status Healer::HandOver(size_t joiner, size_t sponsor, const Joiner& details) {
  const std::string& sponsor_name = core_.cluster.name(sponsor);
  LogInfo("hand-over of the domain keys begins",
          {{"partition", core_.cluster.name(joiner)}, {"sponsor", sponsor_name}});
  auto set_sponsoring = [&](bool on) {
    core_.cluster.ChangeFacts(
        sponsor, [on](PartitionFacts& facts) { facts.sponsoring = on; }, core_.clock.Uptime());
  };
  set_sponsoring(true);
  for (Deadline drained(core_.clock, kDrainTimeout);
       core_.cluster.InFlight(sponsor) != 0 && !drained.Passed();) {
    Pause(absl::Milliseconds(10));
  }
  absl::Status status = [&]() -> absl::Status {
    rpc::SponsorRequest request;
    *request.mutable_fence() = core_.Fence();
    *request.mutable_join_key() = details.key;
    request.set_sealed_so_pin(details.approved.value_or(""));
    HSM_ASSIGN_OR_RETURN(rpc::SponsorResponse accepted,
                         core_.cluster.client(sponsor).Sponsor(request, absl::Seconds(20)));
    HSM_ASSIGN_OR_RETURN(rpc::Handover handover, AwaitHandover(sponsor, accepted.handover_id()));
    if (handover.node() != core_.cluster.name(joiner)) {
      return Error(v1::REASON_OTHER_DOMAIN, "the hand-over is for another partition");
    }
    rpc::CompleteJoinRequest complete;
    *complete.mutable_fence() = core_.Fence();
    *complete.mutable_handover() = std::move(handover);
    HSM_RETURN_IF_ERROR(core_.cluster.client(joiner).CompleteJoin(complete, kDomainTimeout).status());
    AuditFields audit =
        AuditOfSystem("HandOverDomainKeys", core_.cluster.name(joiner) + " from " + sponsor_name);
    Change change;
    change.audit = std::move(audit);
    return core_.committer.Commit(std::move(change)).status;
  }();
  set_sponsoring(false);
  if (!status.ok()) {
    LogWarning("hand-over failed",
               {{"partition", core_.cluster.name(joiner)}, {"sponsor", sponsor_name}, {"why", status}});
  }
  return status;
}

// The sponsor's process may end and come back while its helper works.
absl::StatusOr<rpc::Handover> Healer::AwaitHandover(size_t sponsor, const std::string& id) {
  rpc::TakeHandoverRequest request;
  request.set_handover_id(id);
  absl::Status last;
  for (Deadline deadline(core_.clock, kHandoverTimeout); !deadline.Passed(); Pause(kHandoverPoll)) {
    if (!core_.state.View()->stopped.empty())
      return Error(v1::REASON_CANCELLED, "the coordinator is stopping");
    auto answer = core_.cluster.client(sponsor).TakeHandover(request, absl::Seconds(5));
    if (!answer.ok()) {
      last = answer.status();
      continue;
    }
    if (!answer->failure().empty())
      return Error(v1::REASON_TOKEN_FAILED, "the sponsor said: " + answer->failure());
    if (!answer->pending() && answer->has_handover()) return std::move(*answer->mutable_handover());
  }
  return Error(v1::REASON_DEADLINE_EXCEEDED, "no hand-over from " + core_.cluster.name(sponsor) + " in time" +
                                                 (last.ok() ? "" : ": " + DetailOf(last).message()));
}

absl::Status Healer::Approve(const v1::ApprovePartitionRequest& request) {
  std::optional<size_t> index = core_.cluster.IndexOf(request.name());
  if (!index.has_value()) return Error(v1::REASON_NOT_FOUND, "there is no partition " + request.name());
  std::optional<size_t> sponsor;
  if (!request.sponsor().empty()) {
    sponsor = core_.cluster.IndexOf(request.sponsor());
    if (!sponsor.has_value())
      return Error(v1::REASON_NOT_FOUND, "there is no partition " + request.sponsor());
    if (sponsor == index)
      return Error(v1::REASON_INVALID_ARGUMENT, "a partition hands nothing over to itself");
  }
  MutexLock lock(mutex_);
  auto found = joiners_.find(*index);
  if (found == joiners_.end()) {
    return Error(v1::REASON_CONFLICT, "partition " + request.name() + " does not wait for domain keys");
  }
  if (found->second.fingerprint != request.fingerprint()) {
    return Error(v1::REASON_CONFLICT, "the join key of " + request.name() + " has another fingerprint");
  }
  found->second.approved = request.sealed_so_pin();
  found->second.sponsor = sponsor;
  return absl::OkStatus();
}

}  // namespace hsm
