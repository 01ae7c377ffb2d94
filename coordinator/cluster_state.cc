#include "coordinator/cluster_state.h"

#include <algorithm>

#include "common/check.h"
#include "common/mutant.h"

namespace hsm {
namespace {

constexpr absl::Duration kTurn = absl::Milliseconds(20);  // of a partition, while one at a time has work
constexpr double kClockMargin =
    1.005;  // two uptime clocks differ by less: docs/replication.md, "Revocations"

}  // namespace

ClusterState::ClusterState(std::vector<PartitionClient*> clients, const Clock& clock, MembershipTimes times)
    : clock_(clock), times_(times) {
  HSM_CHECK(!clients.empty() && clients.size() <= limits::kPartitionsMax);
  for (PartitionClient* client : clients) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->client = client;
    // Leases that an earlier leader may have granted: none is longer than this from now on.
    MutexLock lock(slots_.back()->mutex);
    slots_.back()->lease_until =
        times.started + absl::Milliseconds(limits::kServingLeaseMs) * kClockMargin + absl::Milliseconds(100);
  }
}

std::optional<size_t> ClusterState::IndexOf(std::string_view name) const {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i]->client->name() == name) return i;
  }
  return std::nullopt;
}

bool ClusterState::Eligible(Slot& slot, const KeyUid* uid) {
  int state = slot.state.load(std::memory_order_acquire);
  if (state != v1::PARTITION_STATE_READY && state != v1::PARTITION_STATE_SUSPECT) return false;
  if (uid != nullptr && slot.behind_count.load(std::memory_order_acquire) != 0) {
    MutexLock lock(slot.mutex);
    if (slot.behind.contains(*uid)) return false;
  }
  if (state == v1::PARTITION_STATE_READY) return slot.breaker_closed.load(std::memory_order_acquire);
  return false;
}

int ClusterState::Pick(const KeyUid* uid, uint32_t tried, uint64_t random_bits) {
  std::array<RouteLoad, limits::kPartitionsMax> loads;
  uint32_t in_flight = 0;
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = *slots_[i];
    loads[i].eligible = (tried >> i & 1) == 0 && Eligible(slot, uid);
    loads[i].in_flight = slot.in_flight.load(std::memory_order_relaxed);
    in_flight += loads[i].in_flight;
    loads[i].busy = slot.busy.load(std::memory_order_relaxed) != BusyWith::kNothing;
  }
  // A partition whose breaker is open gets one probe now and then, before the healthy ones.
  for (size_t i = 0; i < slots_.size(); ++i) {
    if ((tried >> i & 1) == 0 && AdmitProbe(i, uid)) return static_cast<int>(i);
  }
  // With nothing under way anywhere any partition would do; the one that worked last has its caches warm.
  if (in_flight == 0) random_bits = static_cast<uint32_t>(clock_.Uptime() / kTurn);
  return ChoosePartition(std::span(loads.data(), slots_.size()), random_bits);
}

bool ClusterState::AdmitProbe(size_t index, const KeyUid* uid) {
  Slot& slot = *slots_[index];
  if (slot.breaker_closed.load(std::memory_order_acquire)) return false;
  MutexLock lock(slot.mutex);
  if (!slot.facts.breaker_open) return false;
  PartitionFacts without = slot.facts;
  without.breaker_open = false;
  absl::Duration now = clock_.Uptime();
  if (DecideState(without, times_, now) != v1::PARTITION_STATE_READY) return false;
  if (uid != nullptr && slot.behind.contains(*uid)) return false;
  return slot.breaker.Admit(now);
}

void ClusterState::Begin(size_t index, uint32_t operations) {
  slots_[index]->in_flight.fetch_add(operations, std::memory_order_relaxed);
}

void ClusterState::End(size_t index, uint32_t operations, bool ok) {
  Slot& slot = *slots_[index];
  slot.in_flight.fetch_sub(operations, std::memory_order_relaxed);
  if (ok) {
    slot.done.fetch_add(operations, std::memory_order_relaxed);
    if (slot.breaker_closed.load(std::memory_order_acquire)) {
      slot.good.fetch_add(operations, std::memory_order_relaxed);
      return;
    }
  }
  absl::Duration now = clock_.Uptime();
  MutexLock lock(slot.mutex);
  uint64_t good = slot.good.exchange(0, std::memory_order_relaxed);
  if (good != 0)
    slot.breaker.OnResult(true, static_cast<uint32_t>(std::min<uint64_t>(good, UINT32_MAX)), now);
  slot.breaker.OnResult(ok, operations, now);
  bool closed = slot.breaker.state() == Breaker::State::kClosed;
  slot.breaker_closed.store(closed, std::memory_order_release);
  if (slot.facts.breaker_open == !closed) return;
  slot.facts.breaker_open = !closed;
  RefreshLocked(slot, now);
}

v1::PartitionState ClusterState::StateOf(size_t index) const {
  return static_cast<v1::PartitionState>(slots_[index]->state.load(std::memory_order_acquire));
}

uint32_t ClusterState::ReadyCount() const {
  uint32_t count = 0;
  for (size_t i = 0; i < slots_.size(); ++i) count += IsReady(i);
  return count;
}

bool ClusterState::TakesRecordsNow(size_t index) const {
  const Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  return TakesRecords(static_cast<v1::PartitionState>(slot.state.load()), slot.facts);
}

void ClusterState::Refuse(size_t index, const std::string& why, absl::Duration now) {
  ChangeFacts(
      index,
      [&](PartitionFacts& facts) {
        if (facts.refused.empty()) facts.refused = why;
        facts.synced = false;
      },
      now);
}

uint64_t ClusterState::OpsDone(size_t index) const {
  return slots_[index]->done.load(std::memory_order_relaxed);
}

uint64_t ClusterState::OpsDone() const {
  uint64_t sum = 0;
  for (size_t i = 0; i < slots_.size(); ++i) sum += OpsDone(i);
  return sum;
}

PartitionView ClusterState::View(size_t index) const {
  const Slot& slot = *slots_[index];
  PartitionView view;
  view.name = slot.client->name();
  view.state = StateOf(index);
  view.busy = slot.busy.load();
  view.in_flight = slot.in_flight.load();
  view.sent = slot.done.load();
  MutexLock lock(slot.mutex);
  view.facts = slot.facts;
  view.heartbeat = slot.heartbeat;
  view.ops_per_second = slot.heartbeat.ops_per_second();
  view.behind = slot.behind.size();
  if (!slot.facts.refused.empty())
    view.message = slot.facts.refused;
  else if (!slot.message.empty())
    view.message = slot.message;
  else
    view.message = slot.heartbeat.message();
  return view;
}

std::vector<PartitionView> ClusterState::Views() const {
  std::vector<PartitionView> views;
  for (size_t i = 0; i < slots_.size(); ++i) views.push_back(View(i));
  return views;
}

void ClusterState::SetBusy(size_t index, BusyWith busy) { slots_[index]->busy.store(busy); }

bool ClusterState::OnHeartbeat(size_t index, const rpc::HeartbeatRequest& heartbeat, absl::Duration now) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  bool restarted =
      slot.facts.last_heartbeat.has_value() && slot.heartbeat.incarnation() != heartbeat.incarnation();
  bool silent =
      slot.facts.last_heartbeat.has_value() && now - *slot.facts.last_heartbeat >= times_.down_after;
  slot.heartbeat = heartbeat;
  slot.facts.last_heartbeat = now;
  slot.facts.node = heartbeat.state();
  if (restarted || silent) {  // it may have missed anything
    slot.facts.synced = false;
    ++slot.missed;
  }
  RefreshLocked(slot, now);
  return restarted;
}

void ClusterState::RefreshLocked(Slot& slot, absl::Duration now) {
  slot.state.store(DecideState(slot.facts, times_, now), std::memory_order_release);
}

v1::PartitionState ClusterState::Refresh(size_t index, absl::Duration now) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  RefreshLocked(slot, now);
  return static_cast<v1::PartitionState>(slot.state.load());
}

void ClusterState::ChangeFacts(size_t index, const std::function<void(PartitionFacts&)>& change,
                               absl::Duration now) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  change(slot.facts);
  RefreshLocked(slot, now);
}

void ClusterState::SetMessage(size_t index, std::string message) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  slot.message = std::move(message);
}

bool ClusterState::GrantLease(size_t index, absl::Duration now, absl::Duration length) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  RefreshLocked(slot, now);
  // SUSPECT only for its errors keeps its lease, so that probes can bring it back.
  PartitionFacts without = slot.facts;
  without.breaker_open = false;
  if (DecideState(without, times_, now) != v1::PARTITION_STATE_READY) return false;
  // The partition counts the same length on its own clock, which may run slower than ours.
  slot.lease_until = std::max(slot.lease_until, now + length * kClockMargin);
  return true;
}

absl::Duration ClusterState::LeaseUntil(size_t index) const {
  const Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  return slot.lease_until;
}

void ClusterState::WithholdLease(size_t index, absl::Duration now) {
  if (HSM_MUTANT("lease-despite-missed-revocation")) return;
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  slot.facts.synced = false;
  ++slot.missed;
  RefreshLocked(slot, now);
}

uint64_t ClusterState::BeginSync(size_t index) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  return slot.missed;
}

bool ClusterState::FinishSync(size_t index, uint64_t begun, absl::Duration now) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  if (slot.missed != begun) return false;
  slot.facts.synced = true;
  slot.facts.reprove = false;
  RefreshLocked(slot, now);
  return true;
}

void ClusterState::MarkBehind(size_t index, const KeyUid& uid) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  // One that takes no records now is synced as a whole before it is READY again.
  if (!TakesRecords(static_cast<v1::PartitionState>(slot.state.load()), slot.facts)) {
    slot.facts.synced = false;
    ++slot.missed;
    return;
  }
  slot.behind[uid] = next_stamp_.fetch_add(1);
  slot.behind_count.store(slot.behind.size(), std::memory_order_release);
}

std::vector<std::pair<KeyUid, uint64_t>> ClusterState::Behind(size_t index) const {
  const Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  return {slot.behind.begin(), slot.behind.end()};
}

void ClusterState::ClearBehind(size_t index, const std::vector<std::pair<KeyUid, uint64_t>>& repaired) {
  Slot& slot = *slots_[index];
  MutexLock lock(slot.mutex);
  for (const auto& [uid, stamp] : repaired) {
    auto found = slot.behind.find(uid);
    if (found != slot.behind.end() && found->second == stamp) slot.behind.erase(found);
  }
  slot.behind_count.store(slot.behind.size(), std::memory_order_release);
}

}  // namespace hsm
