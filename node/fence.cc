#include "node/fence.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr absl::Duration kWallJumpMax = absl::Seconds(1);

std::string SequenceName(Epoch epoch) { return "control_sequence/" + std::to_string(epoch); }
std::string GlobalSequenceName(Epoch epoch) { return "global_sequence/" + std::to_string(epoch); }

absl::Duration WallOffset(const Clock& clock) { return clock.Now() - absl::UnixEpoch() - clock.Uptime(); }

}  // namespace

ServingFence::ServingFence(BlobStore& blobs, Clock& clock) : blobs_(blobs), clock_(clock) {
  MutexLock lock(mutex_);
  hsm_ = HsmId::From(blobs.State("hsm_id")).value_or(HsmId{});
  epoch_ = blobs.StateNumber("epoch");
  if (DataSet data_set = blobs.StateNumber("data_set"); data_set != 0) data_set_ = data_set;
  sequence_ = blobs.StateNumber(SequenceName(epoch_));
  global_sequence_ = blobs.StateNumber(GlobalSequenceName(epoch_));
  store_commit_ = blobs.StateNumber("store_commit");
}

absl::Status ServingFence::SetHsm(const HsmId& hsm) {
  {
    MutexLock lock(mutex_);
    if (hsm_ == hsm) return absl::OkStatus();
    if (!hsm_.IsZero()) return Error(v1::REASON_OTHER_DOMAIN, "this partition belongs to another HSM");
  }
  BlobBatch batch;
  batch.SetState("hsm_id", hsm.Raw());
  HSM_RETURN_IF_ERROR(blobs_.Commit(batch));
  MutexLock lock(mutex_);
  hsm_ = hsm;
  return absl::OkStatus();
}

absl::Status ServingFence::Adopt(Epoch epoch) {
  BlobBatch batch;
  batch.RaiseState("epoch", epoch);
  if (!HSM_MUTANT("epoch-not-durable")) HSM_RETURN_IF_ERROR(blobs_.Commit(batch));
  MutexLock lock(mutex_);
  if (epoch <= epoch_) return absl::OkStatus();
  epoch_ = epoch;
  sequence_ = global_sequence_ = 0;
  DropLease();  // it was granted by a leader that is none any more
  return absl::OkStatus();
}

void ServingFence::DropLease() {
  lease_until_ns_.store(0);
  generation_.fetch_add(1);
}

absl::Status ServingFence::Check(const internal::v1::Fence& fence) {
  {
    MutexLock lock(mutex_);
    if (fence.hsm_id() != hsm_.Raw())
      return Error(v1::REASON_FENCED, "this partition belongs to another HSM");
    if (fence.epoch() == epoch_) return absl::OkStatus();
    if (fence.epoch() < epoch_) {
      if (HSM_MUTANT("stale-epoch-accepted")) return absl::OkStatus();
      return Error(v1::REASON_FENCED, "a newer coordinator leads: epoch " + std::to_string(epoch_) +
                                          ", not " + std::to_string(fence.epoch()));
    }
  }
  return Adopt(fence.epoch());
}

absl::StatusOr<ServingFence::Permit> ServingFence::Enter(Epoch epoch, DataSet data_set) {
  bool newer = false;
  {
    MutexLock lock(mutex_);
    newer = epoch > epoch_;
  }
  if (newer) HSM_RETURN_IF_ERROR(Adopt(epoch));
  MutexLock lock(mutex_);
  if (epoch != epoch_ && !HSM_MUTANT("stale-epoch-accepted")) {
    return Error(v1::REASON_FENCED, "a newer coordinator leads");
  }
  if (data_set != data_set_) return Error(v1::REASON_FENCED, "another data set serves here");
  if (draining_) return Error(v1::REASON_NOT_ACTIVE, "the partition is being drained");
  int64_t until = lease_until_ns_.load();
  absl::Duration jump = WallOffset(clock_) - wall_offset_;
  if (until != 0 && (jump > kWallJumpMax || jump < -kWallJumpMax)) {
    LogWarning("the wall clock jumped against the monotonic one: serving lease dropped");
    DropLease();
    until = 0;
  }
  if (absl::ToInt64Nanoseconds(clock_.Uptime()) >= until && !HSM_MUTANT("skip-lease-check")) {
    return Error(v1::REASON_NOT_ACTIVE, "the partition has no serving lease");
  }
  return Permit{generation_.load()};
}

bool ServingFence::StillValid(const Permit& permit, absl::Duration uptime) const {
  if (HSM_MUTANT("skip-lease-check")) return true;
  return generation_.load() == permit.generation && absl::ToInt64Nanoseconds(uptime) < lease_until_ns_.load();
}

void ServingFence::OnHeartbeat(const internal::v1::HeartbeatResponse& response, absl::Duration asked_at) {
  Epoch mine = epoch();
  if (response.epoch() < mine) return;  // a leader of the past
  if (response.epoch() > mine) {
    if (absl::Status status = Adopt(response.epoch()); !status.ok()) {
      LogError("a newer epoch could not be stored", {{"error", status}});
      return;
    }
  }
  if (response.store_commit() > store_commit()) {
    BlobBatch batch;
    batch.RaiseState("store_commit", response.store_commit());
    if (!blobs_.Commit(batch).ok()) return;  // without it a rolled-back store could not be recognised
  }
  MutexLock lock(mutex_);
  store_commit_ = std::max<uint64_t>(store_commit_, response.store_commit());
  if (response.epoch() != epoch_) return;
  bool granted =
      response.lease_granted() && response.serve() && response.data_set() == data_set_ && !draining_;
  if (!granted) {
    if (lease_until_ns_.load() != 0) DropLease();
    return;
  }
  if (asked_at < lease_floor_ && !HSM_MUTANT("late-lease-accepted")) return;  // a stop came in between
  uint32_t lease_ms = std::min(response.lease_ms(), limits::kServingLeaseMs);
  lease_until_ns_.store(std::max<int64_t>(lease_until_ns_.load(),
                                          absl::ToInt64Nanoseconds(asked_at + absl::Milliseconds(lease_ms))));
  wall_offset_ = WallOffset(clock_);
}

absl::StatusOr<bool> ServingFence::Take(Change change, Epoch epoch, uint64_t sequence, DataSet data_set) {
  {
    MutexLock lock(mutex_);
    while (taking_) changed_.Wait(mutex_);
    if (epoch != epoch_) return Error(v1::REASON_FENCED, "a newer coordinator leads");
    if (sequence < global_sequence_) return false;
    taking_ = true;
    // At once, before it is durable: nothing more starts under the old state.
    if (change != Change::kResume) {
      DropLease();
      lease_floor_ = clock_.Uptime();
    }
  }
  BlobBatch batch;
  batch.RaiseState(SequenceName(epoch), sequence);
  batch.RaiseState(GlobalSequenceName(epoch), sequence);
  if (change == Change::kSwitch) batch.SetState("data_set", std::to_string(data_set));
  absl::Status status = blobs_.Commit(batch);
  MutexLock lock(mutex_);
  taking_ = false;
  changed_.NotifyAll();
  if (!status.ok()) return status;
  if (epoch == epoch_) {
    sequence_ = std::max(sequence_, sequence);
    global_sequence_ = std::max(global_sequence_, sequence);
  }
  if (change == Change::kSwitch) data_set_ = data_set;
  if (change == Change::kDrain) draining_ = true;
  if (change == Change::kResume) draining_ = false;
  if (change != Change::kResume) {
    DropLease();
    lease_floor_ = clock_.Uptime();
  }
  return true;
}

void ServingFence::Note(BlobBatch& batch, Epoch epoch, uint64_t sequence) {
  batch.RaiseState(SequenceName(epoch), sequence);
}

void ServingFence::Noted(Epoch epoch, uint64_t sequence) {
  MutexLock lock(mutex_);
  if (epoch == epoch_) sequence_ = std::max(sequence_, sequence);
}

void ServingFence::SetDraining(bool draining) {
  MutexLock lock(mutex_);
  draining_ = draining;
  if (draining) {
    DropLease();
    lease_floor_ = clock_.Uptime();
  }
}

bool ServingFence::draining() const {
  MutexLock lock(mutex_);
  return draining_;
}
bool ServingFence::HasLease() const {
  return absl::ToInt64Nanoseconds(clock_.Uptime()) < lease_until_ns_.load();
}
HsmId ServingFence::hsm() const {
  MutexLock lock(mutex_);
  return hsm_;
}
Epoch ServingFence::epoch() const {
  MutexLock lock(mutex_);
  return epoch_;
}
DataSet ServingFence::data_set() const {
  MutexLock lock(mutex_);
  return data_set_;
}
uint64_t ServingFence::control_sequence() const {
  MutexLock lock(mutex_);
  return sequence_;
}
uint64_t ServingFence::store_commit() const {
  MutexLock lock(mutex_);
  return store_commit_;
}

}  // namespace hsm
