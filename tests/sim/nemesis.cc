#include "tests/sim/nemesis.h"

#include <fmt/format.h>

#include "common/error.h"

namespace hsm::testing {
namespace {

class Nemesis {
 public:
  Nemesis(SimCluster& cluster, const NemesisOptions& options) : cluster_(cluster), options_(options) {}

  void Run(const bool& stop) {
    SimScheduler& scheduler = cluster_.scheduler();
    while (!stop) {
      scheduler.Sleep(Up(options_.pause_max));
      if (!stop) OneFault();
    }
  }

 private:
  absl::Duration Up(absl::Duration most) {
    return absl::Milliseconds(1 + static_cast<int64_t>(cluster_.scheduler().Draw(
                                      static_cast<uint64_t>(absl::ToInt64Milliseconds(most)))));
  }

  void OneFault() {
    SimScheduler& scheduler = cluster_.scheduler();
    const NemesisOptions& o = options_;
    const uint32_t weights[] = {o.kill_node,   o.power_loss,   o.wipe_node,  o.kill_coordinator, o.netsplit,
                                o.bad_network, o.store_faults, o.pause_node, o.token_faults};
    uint64_t total = 0;
    for (uint32_t weight : weights) total += weight;
    uint64_t draw = scheduler.Draw(total);
    size_t which = 0;
    while (draw >= weights[which]) draw -= weights[which++];
    size_t index = scheduler.Draw(cluster_.size());
    switch (which) {
      case 0:
        return KillNode(index, Crash::kKill, false);
      case 1:
        return KillNode(index, Crash::kPowerLoss, false);
      case 2:
        return KillNode(index, Crash::kKill, true);
      case 3:
        return KillCoordinator();
      case 4:
        return Netsplit(index);
      case 5:
        return BadNetwork();
      case 6:
        return StoreFaults();
      case 7:
        return PauseNode(index);
      case 8:
        return TokenFaults(index);
    }
  }

  void KillNode(size_t index, Crash crash, bool wipe) {
    if (!cluster_.node(index).endpoint.up) return;
    // A wiped node has lost what others must still have: only one at a time, and with the others whole.
    if (wipe && !cluster_.AllOthersHold(index)) return;
    cluster_.CrashNode(index, crash);
    if (wipe) cluster_.WipeNode(index);
    cluster_.scheduler().Sleep(Up(absl::Seconds(3)));
    if (!cluster_.node(index).endpoint.up) cluster_.StartNode(index);
  }

  void KillCoordinator() {
    if (!cluster_.coordinator().endpoint.up) return;
    cluster_.CrashCoordinator();
    cluster_.scheduler().Sleep(Up(absl::Seconds(2)));
    cluster_.StartEverythingThatIsDown();
  }

  void Netsplit(size_t index) {
    const std::string& name = cluster_.node(index).endpoint.name;
    uint64_t kind = cluster_.scheduler().Draw(3);
    cluster_.scheduler().Note(fmt::format("netsplit {} kind {}", name, kind));
    if (kind != 1) cluster_.network().Cut("*", name);
    if (kind != 2) cluster_.network().Cut(name, "*");
    cluster_.scheduler().Sleep(Up(absl::Seconds(8)));
    cluster_.network().MendAll();
    cluster_.scheduler().Note("mended");
  }

  void BadNetwork() {
    SimScheduler& scheduler = cluster_.scheduler();
    NetworkFaults faults;
    faults.delay_max = absl::Milliseconds(1 + static_cast<int64_t>(scheduler.Draw(50)));
    faults.slow_percent = static_cast<uint32_t>(scheduler.Draw(15));
    faults.drop_request_percent = static_cast<uint32_t>(scheduler.Draw(15));
    faults.drop_response_percent = static_cast<uint32_t>(scheduler.Draw(15));
    faults.duplicate_percent = static_cast<uint32_t>(scheduler.Draw(20));
    faults.reset_percent = static_cast<uint32_t>(scheduler.Draw(10));
    scheduler.Note("bad network");
    cluster_.network().SetFaults(faults);
    scheduler.Sleep(Up(absl::Seconds(6)));
    cluster_.network().SetFaults({});
    scheduler.Note("good network");
  }

  void StoreFaults() {
    SimScheduler& scheduler = cluster_.scheduler();
    uint32_t percent = 5 + static_cast<uint32_t>(scheduler.Draw(40));
    scheduler.Note(fmt::format("store faults {} %", percent));
    cluster_.store().SetFaults([&scheduler, percent](const StoreTransaction*) {
      using Fault = StoreModel::Fault;
      if (!scheduler.Percent(percent)) return Fault::kNone;
      constexpr Fault kFaults[] = {Fault::kRefused, Fault::kUnknownBefore, Fault::kUnknownAfter,
                                   Fault::kUnknownAfter};
      return kFaults[scheduler.Draw(4)];
    });
    scheduler.Sleep(Up(absl::Seconds(4)));
    cluster_.store().SetFaults(nullptr);
    scheduler.Note("good store");
  }

  void PauseNode(size_t index) {
    SimNode& node = cluster_.node(index);
    if (!node.endpoint.up) return;
    ProcessId process = node.endpoint.process;
    cluster_.scheduler().Pause(process);
    cluster_.scheduler().Sleep(Up(absl::Seconds(10)));
    cluster_.scheduler().Resume(process);
  }

  void TokenFaults(size_t index) {
    SimScheduler& scheduler = cluster_.scheduler();
    FakeToken& token = *cluster_.node(index).token;
    if (scheduler.Percent(50)) {
      scheduler.Note(fmt::format("token {} fails for a while", index + 1));
      token.FailAll(v1::REASON_TOKEN_FAILED);
      scheduler.Sleep(Up(absl::Seconds(3)));
      token.FailAll(std::nullopt);
      return;
    }
    constexpr const char* kMethods[] = {"Generate", "Wrap", "Unwrap", "Sign", "Hmac", ""};
    token.FailCalls(kMethods[scheduler.Draw(6)], 1 + scheduler.Draw(5),
                    scheduler.Percent(50) ? v1::REASON_TOKEN_FAILED : v1::REASON_TOKEN_SESSION,
                    1 + scheduler.Draw(4));
  }

  SimCluster& cluster_;
  const NemesisOptions options_;
};

}  // namespace

void StartNemesis(SimCluster& cluster, const NemesisOptions& options, std::shared_ptr<bool> stop,
                  std::shared_ptr<bool> stopped) {
  cluster.scheduler().Spawn(kWorld, "nemesis", [&cluster, options, stop, stopped] {
    Nemesis(cluster, options).Run(*stop);
    *stopped = true;
  });
}

void HealAll(SimCluster& cluster) {
  cluster.network().MendAll();
  cluster.network().SetFaults({});
  cluster.store().SetFaults(nullptr);
  for (size_t i = 0; i < cluster.size(); ++i) {
    cluster.node(i).token->FailAll(std::nullopt);
    cluster.node(i).token->ForgetFaults();
  }
  cluster.StartEverythingThatIsDown();
}

bool SettleDown(SimCluster& cluster, std::shared_ptr<int> callers_left, std::shared_ptr<bool> stop,
                std::shared_ptr<bool> stopped) {
  SimScheduler& scheduler = cluster.scheduler();
  auto wait = [&](const std::function<bool()>& ready, absl::Duration within, const char* what) {
    absl::Duration end = scheduler.Now() + within;
    while (!ready()) {
      if (scheduler.Now() > end) {
        scheduler.Fail(what);
        return false;
      }
      scheduler.Sleep(absl::Milliseconds(100));
    }
    return true;
  };
  // Faults go on for most of the callers' work, then end, so that the rest shows whether the cluster serves
  // again.
  absl::Duration faults_end = scheduler.Now() + absl::Seconds(25);
  wait([&] { return *callers_left == 0 || scheduler.Now() > faults_end; }, absl::Hours(1), "never");
  *stop = true;
  if (!wait([&] { return *stopped; }, absl::Minutes(2), "the nemesis does not end")) return false;
  HealAll(cluster);
  if (!wait([&] { return *callers_left == 0; }, absl::Minutes(30), "callers do not end")) return false;
  if (cluster.AwaitConvergence(absl::Seconds(60))) return true;
  scheduler.Fail("I21: the cluster is not whole a minute after the faults ended:\n" + cluster.Describe());
  return false;
}

}  // namespace hsm::testing
