#include "coordinator/throughput_probe.h"

#include <algorithm>

#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr absl::Duration kProbeTimeout = absl::Seconds(1);
constexpr absl::Duration kRestMin = absl::Milliseconds(5);
constexpr int kRestPerCall = 19;  // of 20 parts of the time, 19 at rest

uint64_t RandomBits(Random& random) {
  uint64_t bits;
  random.Fill({reinterpret_cast<uint8_t*>(&bits), sizeof bits});
  return bits;
}

}  // namespace

absl::StatusOr<std::optional<ProbeSubject>> ChooseProbeSubject(Core& core, CatalogueSnapshot& snapshot) {
  HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot.Keys(core.state.View()->data_set, "", 100));
  std::optional<ProbeSubject> chosen;
  for (const CatalogueKey& key : page.keys) {
    HSM_ASSIGN_OR_RETURN(const KeyHead head, DecodeHead(key.records.head()));
    const bool p256 = head.spec.type == v1::KEY_TYPE_EC_HSM && head.spec.curve == v1::CURVE_P256;
    if (!chosen || p256) chosen = ProbeSubject{head.uid, head.latest};
    if (p256) break;
  }
  return chosen;
}

ThroughputProbe::ThroughputProbe(Core& core, ProbeSubject subject)
    : core_(core), subject_(subject), thread_("probe", [this] { Run(); }) {}

ThroughputProbe::~ThroughputProbe() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.Join();
}

ThroughputProbe::Count ThroughputProbe::Read() const {
  MutexLock lock(mutex_);
  return count_;
}

// As the router would, but without its counters and its breaker: the probe is no traffic.
int ThroughputProbe::Choose() {
  std::vector<RouteLoad> loads;
  for (const PartitionView& view : core_.cluster.Views()) {
    loads.push_back(
        {view.state == v1::PARTITION_STATE_READY, view.in_flight, view.busy != BusyWith::kNothing});
  }
  return ChoosePartition(loads, RandomBits(core_.random));
}

void ThroughputProbe::Run() {
  rpc::ProveRequest request;
  rpc::ProveItem& subject = *request.add_items();
  subject.set_uid(subject_.uid.Raw());
  subject.set_version(subject_.version.Raw());
  for (;;) {
    absl::Duration took = absl::Milliseconds(10);
    const int index = Choose();
    if (index >= 0) {
      *request.mutable_fence() = core_.Fence();
      subject.set_nonce(ToString(core_.random.Draw(32)));
      const absl::Duration began = core_.clock.Uptime();
      const auto answer = core_.cluster.client(static_cast<size_t>(index)).Prove(request, kProbeTimeout);
      const bool ok = answer.ok() && answer->answers_size() == 1 && answer->answers(0).has_proof();
      took = core_.clock.Uptime() - began;
      MutexLock lock(mutex_);
      if (ok) ++count_.calls;
      count_.running += took;
    }
    MutexLock lock(mutex_);
    const absl::Duration rest = std::max(took * kRestPerCall, kRestMin);
    core_.clock.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stopping_; }, rest);
    if (stopping_) return;
  }
}

}  // namespace hsm
