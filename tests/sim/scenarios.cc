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
  // Slow messages all the time, so that answers about leases come late, and a second source of faults beside
  // them.
  cluster.network().SetFaults(
      {.slow_percent = static_cast<uint32_t>(scheduler.Draw(3) * 15), .slow_max = absl::Seconds(2)});
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
  // Work is under way at the first coordinator when it stops, or when it alone loses the store while one
  // partition hears only it; what it left behind arrives when it goes on.
  auto left = std::make_shared<int>(0);
  StartWorkload(cluster, ledger, {.names = {"b", "c", "d"}, .callers = 3, .calls_each = 8}, left);
  scheduler.Sleep(absl::Milliseconds(static_cast<int64_t>(scheduler.Draw(800))));
  ProcessId stale = cluster.coordinator(0).endpoint.process;
  bool pause = scheduler.Percent(50);
  if (pause) {
    scheduler.Pause(stale);
  } else {
    cluster.store().SetFaults([&scheduler, stale](const StoreTransaction*) {
      return scheduler.CurrentProcess() == stale ? StoreModel::Fault::kRefused : StoreModel::Fault::kNone;
    });
    const std::string& alone = cluster.node(scheduler.Draw(3)).endpoint.name;
    cluster.network().Cut("c2", alone);
    cluster.network().Cut(alone, "c2");
  }
  absl::Duration give_up = scheduler.Now() + absl::Seconds(60);
  while (!cluster.StartCoordinator(1)) {
    if (scheduler.Now() > give_up)
      return scheduler.Fail("nobody takes over from a coordinator that stands still");
    scheduler.Sleep(absl::Milliseconds(500));
  }
  scheduler.Sleep(absl::Milliseconds(static_cast<int64_t>(scheduler.Draw(6'000))));
  if (pause) scheduler.Resume(stale);
  if (caller.Destroy("a") == SimCaller::Outcome::kDone) {
    for (int look = 0; look < 4; ++look) {
      CheckNothingDeadIsServed(cluster, ledger);
      scheduler.Sleep(absl::Milliseconds(700));
    }
  }
  while (*left > 0) scheduler.Sleep(absl::Milliseconds(100));
  HealAll(cluster);
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
  UnderFaults(scheduler, {.calls_each = 10, .create = 40, .remove = 12, .purge = 12},
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

namespace {

// Straight at a partition, an ES256 signature that must fit, or an AES-GCM ciphertext that another one must
// open.
void CheckServesTheRightKey(SimCluster& cluster, const KeyEntry& entry, size_t at) {
  v1::CryptoOp op = RoutedSign(entry, entry.versions.back().id);
  bool symmetric = entry.head.spec.type == v1::KEY_TYPE_OCT_HSM;
  if (symmetric) {
    op.set_operation(v1::CRYPTO_OPERATION_ENCRYPT);
    op.set_algorithm(v1::ALGORITHM_A256GCM);
  }
  v1::CryptoResult result = cluster.CryptoAt(at, op);
  if (result.reason() != v1::REASON_UNSPECIFIED) return;
  bool right = true;
  if (!symmetric) {
    right = SignatureFits(ToString(entry.versions.back().spki), op.data(), result.value());
  } else {
    v1::CryptoOp open = op;
    open.set_operation(v1::CRYPTO_OPERATION_DECRYPT);
    open.set_data(result.value());
    open.set_iv(result.iv());
    open.set_tag(result.tag());
    right = cluster.CryptoAt((at + 1) % cluster.size(), open).reason() != v1::REASON_DECRYPTION_FAILED;
  }
  if (!right)
    cluster.scheduler().Fail(fmt::format("a wrong key serves on {}", cluster.node(at).endpoint.name));
}

}  // namespace

void APlantedWrongKeyNeverServes(SimScheduler& scheduler) {
  SimCluster cluster(scheduler, 3);
  Ledger ledger;
  if (!cluster.Start()) return;
  SimCaller caller(cluster, ledger);
  size_t index = scheduler.Draw(3);
  FakeToken& token = *cluster.node(index).token;
  uint64_t kind = scheduler.Draw(4);
  if (kind == 0) token.PlantWrongKey(1 + scheduler.Draw(3));  // while keys are made
  if (kind == 1) {                                            // partitions whose proofs do not fit
    cluster.network().FalsifyProofs("p1", true);
    cluster.network().FalsifyProofs("p2", true);
    if (caller.Create("a") == SimCaller::Outcome::kDone)
      return scheduler.Fail("a key was acknowledged with one proof");
    cluster.network().FalsifyProofs("p1", false);
    cluster.network().FalsifyProofs("p2", false);
    if (!cluster.AwaitConvergence(absl::Seconds(60))) {
      // A partition that gave wrong proofs may stay out until an operator looks at it.
      return cluster.Stop();
    }
  }
  caller.Create("a");
  caller.CreateSymmetric("s");
  if (kind == 2) {  // the node loses its disk, and its token gives wrong keys while it catches up
    cluster.CrashNode(index, Crash::kKill);
    cluster.WipeNode(index);
    cluster.StartNode(index);
    token.PlantWrongKey(2 + scheduler.Draw(4));
  }
  if (kind == 3) {  // keys proved before are unwrapped again after a restart
    cluster.CrashNode(index, Crash::kKill);
    cluster.StartNode(index);
    token.PlantWrongKey(1 + scheduler.Draw(4));
  }
  for (int i = 0; i < 120; ++i) {
    for (const char* name : {"a", "s"}) {
      KeyEntryPtr entry = Entry(cluster, name);
      if (entry != nullptr) CheckServesTheRightKey(cluster, *entry, i % 3 == 0 ? scheduler.Draw(3) : index);
    }
    if (i % 20 == 0) caller.Sign("a");  // the caller verifies it
    scheduler.Sleep(i < 80 ? absl::Milliseconds(15) : absl::Milliseconds(150));
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
