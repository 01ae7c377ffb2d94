#include "coordinator/maintenance.h"

#include <algorithm>

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"

namespace hsm {
namespace {

constexpr absl::Duration kAuditPass = absl::Seconds(30);  // digests of a partition in rotation
constexpr absl::Duration kHousekeeping = absl::Minutes(1);
constexpr absl::Duration kLookAgain = absl::Seconds(1);
constexpr int kLookAgainMax = 10;
constexpr int kSweepEvery = 10;  // rounds of housekeeping
constexpr absl::Duration kBackoffMin = absl::Milliseconds(200);
constexpr absl::Duration kBackoffMax = absl::Seconds(3);
constexpr int kIdleTicks = 3;
constexpr uint32_t kScrubRound = 16;
constexpr size_t kSweepBatch = 64;
constexpr absl::Duration kProbeTimeout = absl::Seconds(1);

}  // namespace

Maintenance::Maintenance(Core& core, Reconciler& reconciler, Healer& healer, Keys& keys, Retention& retention)
    : core_(core), reconciler_(reconciler), healer_(healer), keys_(keys), retention_(retention) {
  for (size_t i = 0; i < core_.cluster.size() + 2; ++i) loops_.push_back(std::make_unique<Loop>());
}

Maintenance::~Maintenance() { Stop(); }

absl::Status Maintenance::Load() {
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    HSM_ASSIGN_OR_RETURN(
        auto row, core_.catalogue.Read<rpc::StoredPartition>(store_key::Partition(core_.cluster.name(i))));
    if (!row.has_value()) continue;
    core_.cluster.ChangeFacts(
        i,
        [&](PartitionFacts& facts) {
          facts.drained = row->value.drained();
          facts.refused = row->value.refused();
        },
        core_.clock.Uptime());
    MutexLock lock(mutex_);
    decisions_[i] = row->value;
  }
  return absl::OkStatus();
}

void Maintenance::Start() {
  const size_t partitions = core_.cluster.size();
  for (size_t i = 0; i < partitions; ++i) {
    loops_[i]->thread = Thread("partition_" + core_.cluster.name(i), [this, i] { RunPartition(i); });
  }
  loops_[partitions]->thread = Thread("healer", [this] { RunHealer(); });
  loops_[partitions + 1]->thread = Thread("housekeeping", [this] { RunHousekeeping(); });
}

void Maintenance::Stop() {
  for (auto& loop : loops_) {
    MutexLock lock(loop->mutex);
    loop->stopping = true;
    loop->changed.NotifyAll();
  }
  for (auto& loop : loops_) loop->thread.Join();
}

void Maintenance::Kick(size_t index) {
  Loop& loop = *loops_[index];
  MutexLock lock(loop.mutex);
  loop.kicked = true;
  loop.changed.NotifyAll();
}

bool Maintenance::Wait(Loop& loop, absl::Duration time) {
  MutexLock lock(loop.mutex);
  core_.clock.Await(
      loop.mutex, loop.changed, [&]() HSM_NO_ANALYSIS { return loop.stopping || loop.kicked; }, time);
  if (loop.kicked) loop.next_try = absl::ZeroDuration();
  loop.kicked = false;
  return !loop.stopping;
}

void Maintenance::RunPartition(size_t index) {
  Loop& loop = *loops_[index];
  while (true) {
    // With nothing to do it looks less often: what needs it at once kicks it.
    const bool idle = core_.cluster.IsReady(index) && core_.cluster.BehindCount(index) == 0;
    if (!Wait(loop, core_.config.tick * (idle ? kIdleTicks : 1))) return;
    Step(index, loop);
  }
}

void Maintenance::Step(size_t index, Loop& loop) {
  absl::Duration now = core_.clock.Uptime();
  v1::PartitionState state = core_.cluster.Refresh(index, now);
  HsmViewPtr hsm = core_.state.View();
  if (!hsm->Serves()) return;
  if (!hsm->stopped.empty()) {  // a store that may be older than the partitions must not correct them
    if (hsm->stopped_reason == v1::REASON_STORE_ROLLED_BACK) ServeByAgreement(index);
    return;
  }
  PartitionView view = core_.cluster.View(index);
  KeepRefusal(index, view);
  if (core_.cluster.AdmitProbe(index, nullptr)) ProbeBreaker(index, *hsm);
  if (!TakesRecords(state, view.facts) || state == v1::PARTITION_STATE_SUSPECT || now < loop.next_try) return;
  absl::Status status = Repair(index, loop, view);
  if (status.ok()) {
    loop.backoff = kBackoffMin;
    loop.said.clear();
    return;
  }
  loop.backoff = std::clamp(loop.backoff * 2, kBackoffMin, kBackoffMax);
  loop.next_try = core_.clock.Uptime() + loop.backoff;
  core_.cluster.SetMessage(index, "not in step yet: " + DetailOf(status).message());
  if (std::string why = DetailOf(status).message(); why != loop.said) {
    LogWarning("partition is not in step yet", {{"partition", view.name}, {"why", why}});
    loop.said = why;
  }
}

// W partitions that hold the same hold every acknowledged change: each is on W of them. Who agrees with them
// may serve, though the store is of no help.
void Maintenance::ServeByAgreement(size_t index) {
  std::vector<PartitionView> views = core_.cluster.Views();
  auto counts = [](const PartitionView& view) {
    return TakesRecords(view.state, view.facts) && view.state != v1::PARTITION_STATE_SUSPECT &&
           view.heartbeat.proved() == view.heartbeat.keys();
  };
  const PartitionView& mine = views[index];
  if (mine.facts.synced || !counts(mine)) return;
  uint32_t agree = 0;
  for (const PartitionView& view : views) {
    agree += counts(view) && view.heartbeat.digest() == mine.heartbeat.digest() &&
             view.heartbeat.data_set() == mine.heartbeat.data_set();
  }
  if (agree >= core_.cluster.quorum()) {
    core_.cluster.FinishSync(index, core_.cluster.BeginSync(index), core_.clock.Uptime());
  }
}

void Maintenance::ProbeBreaker(size_t index, const HsmView& hsm) {
  v1::CryptoBatch batch;
  v1::CryptoOp& op = *batch.add_ops();
  op.set_operation(v1::CRYPTO_OPERATION_RANDOM);
  op.set_count(1);
  batch.set_epoch(hsm.epoch);
  batch.set_data_set(hsm.data_set);
  core_.cluster.Begin(index, 1);
  absl::StatusOr<v1::CryptoBatchResult> answer = core_.cluster.client(index).Crypto(batch, kProbeTimeout);
  // "No lease" is an answer of a healthy partition: it gets one only after this breaker has closed.
  bool well = answer.ok()
                  ? answer->results_size() == 1 && !SpeaksAgainstPartition(answer->results(0).reason())
                  : !SpeaksAgainstPartition(ReasonOf(answer.status()));
  core_.cluster.End(index, 1, well);
}

absl::Status Maintenance::Repair(size_t index, Loop& loop, const PartitionView& view) {
  absl::Duration now = core_.clock.Uptime();
  if (!view.facts.synced || now >= loop.next_audit) {
    HSM_RETURN_IF_ERROR(reconciler_.Sync(index));
    loop.next_audit = core_.clock.Uptime() + kAuditPass;
    core_.cluster.SetMessage(index, "");
    return absl::OkStatus();
  }
  if (view.behind != 0) return reconciler_.RepairBehind(index);
  // The scrub: a share of the keys a day, in small rounds.
  double versions = static_cast<double>(core_.table.versions());
  double seconds = absl::ToDoubleSeconds(now - loop.scrubbed_at);
  if (loop.scrubbed_at != absl::ZeroDuration()) {
    loop.scrub_owed += versions * core_.config.scrub_share_per_day * seconds / 86'400;
  }
  loop.scrubbed_at = now;
  if (loop.scrub_owed < 1) return absl::OkStatus();
  uint32_t round = std::min<uint32_t>(kScrubRound, static_cast<uint32_t>(loop.scrub_owed));
  loop.scrub_owed = std::min(loop.scrub_owed - round, static_cast<double>(kScrubRound));
  return reconciler_.Scrub(index, round);
}

// A refusal outlives this process, but not the token it was about.
void Maintenance::KeepRefusal(size_t index, const PartitionView& view) {
  rpc::StoredPartition decision;
  {
    MutexLock lock(mutex_);
    decision = decisions_[index];
  }
  const std::string& serial = view.heartbeat.token_serial();
  bool other_token = !decision.refused().empty() && !decision.token_serial().empty() && !serial.empty() &&
                     decision.token_serial() != serial;
  if (other_token) {
    decision.clear_refused();
    decision.clear_token_serial();
    absl::Status status = StoreDecision(index, decision, AuditOfSystem("AdmitReplacedToken", view.name));
    if (!status.ok()) return;
    core_.cluster.ChangeFacts(
        index,
        [](PartitionFacts& facts) {
          facts.refused.clear();
          facts.synced = false;
        },
        core_.clock.Uptime());
    return;
  }
  if (view.facts.refused.empty() || !decision.refused().empty()) return;
  decision.set_refused(view.facts.refused);
  decision.set_token_serial(serial);
  absl::Status status = StoreDecision(index, decision, AuditOfSystem("RefusePartition", view.name));
  if (!status.ok()) LogWarning("a refusal is not stored yet", {{"partition", view.name}, {"why", status}});
}

absl::Status Maintenance::StoreDecision(size_t index, const rpc::StoredPartition& decision,
                                        const AuditFields& audit) {
  Change change;
  change.audit = audit;
  change.ops = {StoreOp::Put(store_key::Partition(core_.cluster.name(index)), decision.SerializeAsString())};
  HSM_RETURN_IF_ERROR(core_.committer.Commit(std::move(change)).status);
  MutexLock lock(mutex_);
  decisions_[index] = decision;
  return absl::OkStatus();
}

absl::Status Maintenance::SetDrained(size_t index, bool drained, const AuditFields& audit) {
  rpc::StoredPartition decision;
  {
    MutexLock lock(mutex_);
    decision = decisions_[index];
  }
  bool was_refused = !decision.refused().empty();
  decision.set_drained(drained);
  if (!drained) {
    decision.clear_refused();
    decision.clear_token_serial();
  }
  HSM_RETURN_IF_ERROR(StoreDecision(index, decision, audit));
  core_.cluster.ChangeFacts(
      index,
      [&](PartitionFacts& facts) {
        facts.drained = drained;
        if (drained) return;
        facts.refused.clear();
        facts.synced = false;
        facts.reprove = facts.reprove || was_refused;  // an operator says it is well: it shows so, key by key
      },
      core_.clock.Uptime());
  Kick(index);
  return absl::OkStatus();
}

void Maintenance::RunHealer() {
  Loop& loop = *loops_[core_.cluster.size()];
  while (true) {
    const bool idle = core_.cluster.ReadyCount() == core_.cluster.size();
    if (!Wait(loop, core_.config.tick * (idle ? kIdleTicks : 1))) return;
    healer_.Tick();
  }
}

void Maintenance::RunHousekeeping() {
  Loop& loop = *loops_[core_.cluster.size() + 1];
  int soon = 0;
  for (int round = 1; Wait(loop, soon > 0 ? kLookAgain : kHousekeeping); ++round) {
    if (!core_.MayChange().ok()) continue;
    absl::Status status = retention_.Tick();
    soon = retention_.Waits() && soon < kLookAgainMax ? soon + 1 : 0;
    if (status.ok() && round % kSweepEvery != 0) continue;
    if (status.ok()) status = keys_.EraseTombstoned();
    if (status.ok()) status = SweepOld(store_key::OpPrefix());
    if (status.ok()) status = SweepOld(store_key::AbortedPrefix());
    if (!status.ok()) LogWarning("housekeeping goes on later", {{"why", status}});
  }
}

// Rows whose key begins with an op id, and so with its time: the oldest come first.
absl::Status Maintenance::SweepOld(const std::string& prefix) {
  const int64_t keep_from = absl::ToUnixMillis(core_.clock.Now()) - limits::kOpRecordKeptMs;
  while (true) {
    HSM_ASSIGN_OR_RETURN(StorePage page, core_.catalogue.store().Scan(prefix, "", kSweepBatch));
    Change change;
    for (const StoreRecord& record : page.records) {
      std::optional<OpId> id = OpId::FromHexText(std::string_view(record.key).substr(prefix.size(), 32));
      if (id.has_value() && OpIdTimeMs(*id) < keep_from) change.ops.push_back(StoreOp::Delete(record.key));
    }
    if (change.ops.empty()) return absl::OkStatus();
    bool all = change.ops.size() == page.records.size();
    HSM_RETURN_IF_ERROR(core_.committer.Commit(std::move(change)).status);
    if (!all || !page.more) return absl::OkStatus();
  }
}

}  // namespace hsm
