#include "tests/sim/scenarios.h"

#include <fmt/format.h>

#include "common/error.h"
#include "tests/sim/ledger.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/sim_cluster.h"
#include "tests/sim/workload.h"

namespace hsm::testing {
namespace {

void UnderFaults(SimScheduler& scheduler, const WorkloadOptions& workload, const NemesisOptions& faults) {
  SimCluster cluster(scheduler, 3);
  Ledger ledger;
  if (!cluster.Start()) return;
  auto left = std::make_shared<int>(0);
  auto stop = std::make_shared<bool>(false);
  auto stopped = std::make_shared<bool>(false);
  StartWorkload(cluster, ledger, workload, left);
  StartNemesis(cluster, faults, stop, stopped);
  if (!SettleDown(cluster, left, stop, stopped)) return;
  CheckTheEnd(cluster, ledger);
  cluster.Stop();
}

// The key as the leader knows it; null if there is none.
KeyEntryPtr Entry(SimCluster& cluster, const std::string& name) {
  Coordinator* leader = cluster.leader();
  return leader == nullptr ? nullptr : leader->core().table.Find(name);
}

v1::CryptoOp RoutedSign(const KeyEntry& entry, const KeyVersion& version) {
  v1::CryptoOp op = SignOp(entry.head.name, std::string(32, 'r'));
  op.set_version(version.Raw());
  op.mutable_route()->set_uid(entry.head.uid.Raw());
  op.mutable_route()->set_incarnation(entry.head.incarnation);
  op.mutable_route()->set_revision(1);
  return op;
}

void ExpectNobodyServes(SimCluster& cluster, const v1::CryptoOp& op, const char* why) {
  for (size_t i = 0; i < cluster.size(); ++i) {
    if (cluster.CryptoAt(i, op).reason() != v1::REASON_UNSPECIFIED) continue;
    cluster.scheduler().Fail(
        fmt::format("I2: {} uses a key after {} was acknowledged", cluster.node(i).endpoint.name, why));
  }
}

// Enables, disables and destroys keys of its own, so that what it was told stays true until it says
// otherwise.
void RevokeOwnKeys(SimCluster& cluster, Ledger& ledger, const std::string& name, int rounds) {
  SimCaller caller(cluster, ledger);
  for (int round = 0; round < rounds; ++round) {
    if (caller.Create(name) != SimCaller::Outcome::kDone) continue;
    KeyEntryPtr entry = Entry(cluster, name);
    for (int turn = 0; entry != nullptr && turn < 2; ++turn) {
      caller.Sign(name);
      if (caller.SetEnabled(name, false) != SimCaller::Outcome::kDone) break;
      for (int look = 0; look < 3; ++look) {
        ExpectNobodyServes(cluster, RoutedSign(*entry, entry->versions.back().id), "its disabling");
        cluster.scheduler().Sleep(
            absl::Milliseconds(1 + static_cast<int64_t>(cluster.scheduler().Draw(1'500))));
      }
      if (caller.SetEnabled(name, true) != SimCaller::Outcome::kDone) break;
    }
    caller.Destroy(name);
  }
}

}  // namespace

void CallersWithoutFaults(SimScheduler& scheduler) {
  SimCluster cluster(scheduler, 3);
  Ledger ledger;
  if (!cluster.Start()) return;
  auto left = std::make_shared<int>(0);
  StartWorkload(cluster, ledger, {}, left);
  while (*left > 0) scheduler.Sleep(absl::Milliseconds(100));
  if (!cluster.AwaitConvergence(absl::Seconds(30))) {
    scheduler.Fail("I21: not whole although nothing failed:\n" + cluster.Describe());
    return;
  }
  CheckTheEnd(cluster, ledger);
  cluster.Stop();
}

void CallersUnderFaults(SimScheduler& scheduler) { UnderFaults(scheduler, {}, {}); }

void RevocationsAreFinal(SimScheduler& scheduler) {
  SimCluster cluster(scheduler, 3);
  Ledger ledger;
  if (!cluster.Start()) return;
  auto left = std::make_shared<int>(2);
  auto stop = std::make_shared<bool>(false);
  auto stopped = std::make_shared<bool>(false);
  for (const char* name : {"r1", "r2"}) {
    scheduler.Spawn(kWorld, name, [&cluster, &ledger, name, left] {
      RevokeOwnKeys(cluster, ledger, name, 3);
      --*left;
    });
  }
  NemesisOptions faults{.wipe_node = 0,
                        .netsplit = 8,
                        .store_faults = 1,
                        .pause_node = 4,
                        .token_faults = 0,
                        .pause_max = absl::Seconds(2)};
  StartNemesis(cluster, faults, stop, stopped);
  if (!SettleDown(cluster, left, stop, stopped)) return;
  CheckTheEnd(cluster, ledger);
  cluster.Stop();
}

void AStaleLeaderHasNoEffect(SimScheduler& scheduler) {
  SimCluster cluster(scheduler, 3);
  Ledger ledger;
  if (!cluster.Start()) return;
  SimCaller caller(cluster, ledger);
  caller.Create("a");
  caller.Create("b");
  KeyEntryPtr a = Entry(cluster, "a");
  if (a == nullptr) return scheduler.Fail("a create without faults did not succeed");
  // Work is under way at the first coordinator when it stops; what it left behind arrives when it goes on.
  auto left = std::make_shared<int>(0);
  StartWorkload(cluster, ledger, {.names = {"b", "c", "d"}, .callers = 3, .calls_each = 8}, left);
  scheduler.Sleep(absl::Milliseconds(static_cast<int64_t>(scheduler.Draw(800))));
  ProcessId stale = cluster.coordinator(0).endpoint.process;
  scheduler.Pause(stale);
  absl::Duration give_up = scheduler.Now() + absl::Seconds(60);
  while (!cluster.StartCoordinator(1)) {
    if (scheduler.Now() > give_up)
      return scheduler.Fail("nobody takes over from a coordinator that stands still");
    scheduler.Sleep(absl::Milliseconds(500));
  }
  scheduler.Sleep(absl::Milliseconds(static_cast<int64_t>(scheduler.Draw(6'000))));
  scheduler.Resume(stale);
  if (caller.Destroy("a") == SimCaller::Outcome::kDone) {
    for (int look = 0; look < 4; ++look) {
      CheckNothingDeadIsServed(cluster, ledger);
      scheduler.Sleep(absl::Milliseconds(700));
    }
  }
  while (*left > 0) scheduler.Sleep(absl::Milliseconds(100));
  if (!cluster.AwaitConvergence(absl::Seconds(60))) {
    return scheduler.Fail("I21: not whole after a leader change:\n" + cluster.Describe());
  }
  if (cluster.coordinator(0).endpoint.up && cluster.coordinator(0).core->Leads()) {
    scheduler.Fail("I6: the stale coordinator still believes that it leads");
  }
  CheckTheEnd(cluster, ledger);
  cluster.Stop();
}

void WipedNodesComeBack(SimScheduler& scheduler) {
  UnderFaults(scheduler, {.calls_each = 10, .create = 40, .destroy = 12},
              {.kill_node = 1,
               .power_loss = 1,
               .wipe_node = 8,
               .kill_coordinator = 1,
               .netsplit = 1,
               .bad_network = 1,
               .store_faults = 0,
               .pause_node = 0,
               .token_faults = 0,
               .pause_max = absl::Seconds(2)});
}

void APlantedWrongKeyNeverServes(SimScheduler& scheduler) {
  SimCluster cluster(scheduler, 3);
  Ledger ledger;
  if (!cluster.Start()) return;
  SimCaller caller(cluster, ledger);
  size_t index = scheduler.Draw(3);
  bool at_create = scheduler.Percent(50);
  if (at_create) cluster.node(index).token->PlantWrongKey(1 + scheduler.Draw(3));
  for (const char* name : {"a", "b"}) caller.Create(name);
  if (!at_create) {  // the node loses its disk, and its token gives wrong keys while it catches up
    cluster.CrashNode(index, Crash::kKill);
    cluster.WipeNode(index);
    cluster.StartNode(index);
    cluster.node(index).token->PlantWrongKey(1 + scheduler.Draw(3));
  }
  for (int i = 0; i < 30; ++i) {
    for (const char* name : {"a", "b"}) {
      KeyEntryPtr entry = Entry(cluster, name);
      caller.Sign(name);  // the caller verifies each signature
      if (entry == nullptr) continue;
      for (size_t at = 0; at < cluster.size(); ++at) {
        v1::CryptoOp op = RoutedSign(*entry, entry->versions.back().id);
        v1::CryptoResult result = cluster.CryptoAt(at, op);
        if (result.reason() == v1::REASON_UNSPECIFIED &&
            !SignatureFits(ToString(entry->versions.back().spki), op.data(), result.value())) {
          scheduler.Fail(fmt::format("a wrong key serves on {}", cluster.node(at).endpoint.name));
        }
      }
    }
    scheduler.Sleep(absl::Milliseconds(200));
  }
  cluster.Stop();
}

const std::vector<std::pair<std::string_view, Scenario>>& AllScenarios() {
  static const auto& all = *new std::vector<std::pair<std::string_view, Scenario>>{
      {"callers-without-faults", CallersWithoutFaults},
      {"callers-under-faults", CallersUnderFaults},
      {"revocations", RevocationsAreFinal},
      {"stale-leader", AStaleLeaderHasNoEffect},
      {"wiped-nodes", WipedNodesComeBack},
      {"planted-wrong-key", APlantedWrongKeyNeverServes},
      {"backup-restore", BackupsAndRestores}};
  return all;
}

}  // namespace hsm::testing
