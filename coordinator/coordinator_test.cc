// The coordinator on real partition cores (fake tokens, disks in memory, no network).
#include "coordinator/coordinator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "absl/time/clock.h"
#include "coordinator/op_ids.h"
#include "tests/testing/eventually.h"
#include "tests/testing/local_cluster.h"
#include "tests/testing/matchers.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;
using testing::LocalCluster;

class CoordinatorTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(cluster_.StartCoordinator()); }
  Coordinator& coordinator() { return cluster_.coordinator(); }
  Core& core() { return coordinator().core(); }
  Caller caller() { return cluster_.caller(); }

  absl::StatusOr<v1::Key> Create(const std::string& name, v1::KeyType type = v1::KEY_TYPE_EC_HSM,
                                 std::string op_id = "") {
    v1::CreateKeyRequest request;
    request.set_name(name);
    request.set_type(type);
    request.set_op_id(std::move(op_id));
    return coordinator().CreateKey(caller(), request);
  }
  absl::StatusOr<v1::Key> Get(const std::string& name, const std::string& version = "") {
    v1::GetKeyRequest request;
    request.set_name(name);
    request.set_version(version);
    return coordinator().GetKey(caller(), request);
  }
  absl::StatusOr<v1::Key> Rotate(const std::string& name) {
    v1::RotateKeyRequest request;
    request.set_name(name);
    return coordinator().RotateKey(caller(), request);
  }
  absl::StatusOr<v1::Key> SetEnabled(const std::string& name, bool enabled) {
    v1::SetKeyAttributesRequest request;
    request.set_name(name);
    request.set_enabled(enabled);
    return coordinator().SetKeyAttributes(caller(), request);
  }
  std::vector<v1::ProofResult> Prove(const std::string& name) {
    v1::ProveKeyRequest request;
    request.set_name(name);
    auto response = coordinator().ProveKey(caller(), request);
    std::vector<v1::ProofResult> results;
    if (!response.ok()) return results;
    for (const auto& partition : response->partitions()) results.push_back(partition.result());
    return results;
  }
  std::string OpIdNow() { return SystemRandom().NewOpId(RealClock()).Raw(); }
  bool Eventually(const std::function<bool()>& holds) {
    for (Deadline deadline(RealClock(), absl::Seconds(20)); !deadline.Passed();) {
      if (holds()) return true;
      Mutex mutex;
      CondVar never;
      MutexLock lock(mutex);
      RealClock().Await(mutex, never, [] { return false; }, absl::Milliseconds(5));
    }
    return false;
  }
  // Calls of these names to a partition fail as if it were unreachable; heartbeats go through.
  void Block(size_t partition, std::set<std::string> calls) {
    cluster_.SetFilter([=](size_t index, std::string_view call) {
      bool hit = index == partition && calls.contains(std::string(call));
      return hit ? Error(v1::REASON_UNREACHABLE, "blocked") : absl::OkStatus();
    });
  }

  LocalCluster cluster_;
};

TEST_F(CoordinatorTest, ACreatedKeyIsProvedEverywhere) {
  for (auto type : {v1::KEY_TYPE_EC_HSM, v1::KEY_TYPE_OCT_HSM}) {
    std::string name = type == v1::KEY_TYPE_EC_HSM ? "ec" : "oct";
    auto key = Create(name, type);
    ASSERT_THAT(key, IsOk());
    EXPECT_EQ(key->kid(), "https://local.managedhsm.local/keys/" + name + "/" + key->version());
    EXPECT_TRUE(key->attributes().enabled());
    EXPECT_EQ(key->public_key().spki().empty(), type == v1::KEY_TYPE_OCT_HSM);
    EXPECT_EQ(Prove(name), std::vector<v1::ProofResult>(3, v1::PROOF_RESULT_PROVED));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(Eventually([&] { return cluster_.Use(i, name).reason() == v1::REASON_UNSPECIFIED; })) << i;
    }
  }
  EXPECT_EQ(cluster_.Names(), (std::vector<std::string>{"ec", "oct"}));
  EXPECT_THAT(Create("ec"), HasReason(v1::REASON_KEY_EXISTS));
  EXPECT_THAT(Get("none"), HasReason(v1::REASON_KEY_NOT_FOUND));
}

TEST_F(CoordinatorTest, OneEffectPerOpId) {
  std::string op_id = OpIdNow();
  auto first = Create("k", v1::KEY_TYPE_EC_HSM, op_id);
  ASSERT_THAT(first, IsOk());
  auto again = Create("k", v1::KEY_TYPE_EC_HSM, op_id);
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->SerializeAsString(), first->SerializeAsString());
  EXPECT_THAT(Create("other", v1::KEY_TYPE_EC_HSM, op_id), HasReason(v1::REASON_OP_ID_CONFLICT));
  std::string old(16, '\0');
  EXPECT_THAT(Create("k", v1::KEY_TYPE_EC_HSM, old), HasReason(v1::REASON_OP_ID_EXPIRED));
  EXPECT_THAT(Create("k", v1::KEY_TYPE_EC_HSM, std::string(16, '\xff')),
              HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(Create("k", v1::KEY_TYPE_EC_HSM, "short"), HasReason(v1::REASON_INVALID_ARGUMENT));
  cluster_.StopCoordinator();
  ASSERT_TRUE(cluster_.StartCoordinator());
  auto after = Create("k", v1::KEY_TYPE_EC_HSM, op_id);
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ(after->version(), first->version());
}

// Whatever the coordinator remembers: the transaction itself refuses a second record for an op id.
TEST_F(CoordinatorTest, AnOpRecordIsWrittenOnce) {
  OpIds one(core()), other(core());
  const std::string op_id = OpIdNow();
  auto change = [&](OpIds& op_ids) {
    auto begun = op_ids.Begin(caller(), op_id, "Test", "request");
    EXPECT_THAT(begun, IsOk());
    Change out;
    OpIds::AddRecord(*begun, rpc::StoredOp(), out);
    return out;
  };
  Change first = change(one), second = change(other);
  EXPECT_THAT(core().committer.Commit(std::move(first)).status, IsOk());
  EXPECT_EQ(core().committer.Commit(std::move(second)).outcome, StoreOutcome::kConflict);
}

// A leader whose store does not answer grants nothing past its term, for another one may lead by then.
TEST_F(CoordinatorTest, WithoutATermNoLeaseIsGranted) {
  cluster_.StopCoordinator();
  cluster_.config().leader_ttl = absl::Seconds(2);
  ASSERT_TRUE(cluster_.StartCoordinator());
  auto granted = [&] {
    auto process = cluster_.Reach(0, "Test");
    return process.ok() &&
           coordinator().OnHeartbeat((*process)->partition->StatusForHeartbeat()).lease_granted();
  };
  EXPECT_TRUE(Eventually(granted));
  std::atomic<bool> hangs{true};
  static_cast<StoreModel&>(cluster_.store()).SetFaults([&](const StoreTransaction* transaction) {
    while (transaction == nullptr && hangs) testing::PauseFor(absl::Milliseconds(5));
    return StoreModel::Fault::kNone;
  });
  EXPECT_TRUE(Eventually([&] { return !granted(); }));
  hangs = false;
  cluster_.StopCoordinator();
  static_cast<StoreModel&>(cluster_.store()).SetFaults(nullptr);
}

TEST_F(CoordinatorTest, AMinorityMakesNoKeyAndLeavesNothing) {
  Block(0, {});
  cluster_.SetFilter([](size_t index, std::string_view call) {
    return index > 0 && call == "Install" ? Error(v1::REASON_UNREACHABLE, "blocked") : absl::OkStatus();
  });
  EXPECT_THAT(Create("k"), HasReason(v1::REASON_NO_QUORUM));
  cluster_.SetFilter(nullptr);
  EXPECT_THAT(Get("k"), HasReason(v1::REASON_KEY_NOT_FOUND));
  EXPECT_THAT(Create("k"), IsOk());
}

TEST_F(CoordinatorTest, WithOnePartitionLeftCreatingIsRefusedAtOnceAndReadingGoesOn) {
  ASSERT_THAT(Create("k"), IsOk());
  cluster_.StopNode(1);
  cluster_.StopNode(2);
  EXPECT_THAT(Create("k2"), HasReason(v1::REASON_NO_QUORUM));
  EXPECT_THAT(Get("k"), IsOk());
  EXPECT_EQ(cluster_.Use(0, "k").reason(), v1::REASON_UNSPECIFIED);
}

TEST_F(CoordinatorTest, APartitionThatMissedAKeyIsRepaired) {
  Block(2, {"Install", "Activate", "PutRecords"});
  ASSERT_THAT(Create("k"), IsOk());
  EXPECT_EQ(core().cluster.View(2).behind, 1u);
  EXPECT_NE(cluster_.Use(2, "k").reason(), v1::REASON_UNSPECIFIED);
  cluster_.SetFilter(nullptr);
  EXPECT_TRUE(Eventually([&] { return cluster_.Use(2, "k").reason() == v1::REASON_UNSPECIFIED; }));
  EXPECT_TRUE(Eventually([&] { return core().cluster.View(2).behind == 0; }));
}

TEST_F(CoordinatorTest, TooFewActivationsAreAnUnknownOutcomeThatARetryFinishes) {
  std::string op_id = OpIdNow();
  cluster_.SetFilter([](size_t index, std::string_view call) {
    bool hit = index > 0 && (call == "Activate" || call == "PutRecords");
    return hit ? Error(v1::REASON_UNREACHABLE, "blocked") : absl::OkStatus();
  });
  EXPECT_THAT(Create("k", v1::KEY_TYPE_EC_HSM, op_id), HasReason(v1::REASON_OUTCOME_UNKNOWN));
  cluster_.SetFilter(nullptr);
  EXPECT_THAT(Create("k", v1::KEY_TYPE_EC_HSM, op_id), IsOk());
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(Eventually([&] { return cluster_.Use(i, "k").reason() == v1::REASON_UNSPECIFIED; })) << i;
  }
}

TEST_F(CoordinatorTest, RotatingAddsAVersionAndKeepsTheOld) {
  auto first = Create("k");
  ASSERT_THAT(first, IsOk());
  auto second = Rotate("k");
  ASSERT_THAT(second, IsOk());
  EXPECT_NE(second->version(), first->version());
  EXPECT_EQ(Get("k")->version(), second->version());
  EXPECT_EQ(Get("k", first->version())->public_key().spki(), first->public_key().spki());
  v1::ListKeyVersionsRequest request;
  request.set_name("k");
  request.set_page_size(1);
  auto page = coordinator().ListKeyVersions(caller(), request);
  ASSERT_THAT(page, IsOk());
  ASSERT_EQ(page->keys_size(), 1);
  EXPECT_EQ(page->keys(0).version(), first->version());
  request.set_page_token(page->next_page_token());
  page = coordinator().ListKeyVersions(caller(), request);
  EXPECT_EQ(page->keys(0).version(), second->version());
  EXPECT_TRUE(page->next_page_token().empty());
  EXPECT_EQ(Prove("k"), std::vector<v1::ProofResult>(3, v1::PROOF_RESULT_PROVED));
}

TEST_F(CoordinatorTest, AnAcknowledgedDisableHoldsEverywhere) {
  ASSERT_THAT(Create("k"), IsOk());
  auto disabled = SetEnabled("k", false);
  ASSERT_THAT(disabled, IsOk());
  EXPECT_FALSE(disabled->attributes().enabled());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(cluster_.Use(i, "k").reason(), v1::REASON_KEY_DISABLED) << i;
  ASSERT_THAT(SetEnabled("k", true), IsOk());
  EXPECT_TRUE(Eventually([&] { return cluster_.Use(0, "k").reason() == v1::REASON_UNSPECIFIED; }));
}

TEST_F(CoordinatorTest, ADisableWaitsOutTheLeaseOfAPartitionThatDoesNotAnswer) {
  ASSERT_THAT(Create("k"), IsOk());
  Block(1, {"Control"});
  absl::Duration began = RealClock().Uptime();
  ASSERT_THAT(SetEnabled("k", false), IsOk());
  EXPECT_GE(RealClock().Uptime() - began, absl::Seconds(1));
  for (size_t i = 0; i < 3; ++i) EXPECT_NE(cluster_.Use(i, "k").reason(), v1::REASON_UNSPECIFIED) << i;
  cluster_.SetFilter(nullptr);
  ASSERT_TRUE(cluster_.AwaitReady(3));
  EXPECT_EQ(cluster_.Use(1, "k").reason(), v1::REASON_KEY_DISABLED);
}

TEST_F(CoordinatorTest, AttributesChangeAsAskedOrNotAtAll) {
  auto key = Create("k");
  v1::SetKeyAttributesRequest request;
  request.set_name("k");
  request.set_revision(key->revision() + 5);
  request.set_enabled(false);
  EXPECT_THAT(coordinator().SetKeyAttributes(caller(), request), HasReason(v1::REASON_REVISION_CONFLICT));
  request.set_revision(key->revision());
  request.clear_enabled();
  request.set_expires(2'000'000'000);
  request.set_set_tags(true);
  (*request.mutable_tags())["team"] = "blue";
  auto changed = coordinator().SetKeyAttributes(caller(), request);
  ASSERT_THAT(changed, IsOk());
  EXPECT_EQ(changed->tags().at("team"), "blue");
  EXPECT_EQ(changed->attributes().expires(), 2'000'000'000);
  EXPECT_EQ(changed->revision(), key->revision() + 1);
  request.clear_revision();
  request.set_set_operations(true);
  request.add_operations(v1::KEY_OPERATION_ENCRYPT);
  EXPECT_THAT(coordinator().SetKeyAttributes(caller(), request), HasReason(v1::REASON_INVALID_ARGUMENT));
}

TEST_F(CoordinatorTest, APartitionThatWasAwayLearnsOfADelete) {
  ASSERT_THAT(Create("k"), IsOk());
  ASSERT_THAT(Create("stays"), IsOk());
  cluster_.StopNode(2);
  ASSERT_THAT(cluster_.Destroy("k"), IsOk());
  cluster_.StartNode(2);
  ASSERT_TRUE(cluster_.AwaitReady(3));
  EXPECT_TRUE(Eventually([&] { return core().cluster.View(2).heartbeat.keys() == 1; }));
}

TEST_F(CoordinatorTest, ARestartedPartitionIsReadyWithoutProvingAgain) {
  for (int i = 0; i < 20; ++i) ASSERT_THAT(Create("k" + std::to_string(i)), IsOk());
  std::atomic<int> proofs{0};
  cluster_.SetFilter([&](size_t, std::string_view call) {
    proofs += call == "Prove";
    return absl::OkStatus();
  });
  cluster_.StopNode(0);
  cluster_.StartNode(0);
  ASSERT_TRUE(Eventually([&] { return core().cluster.View(0).facts.synced && core().cluster.IsReady(0); }));
  EXPECT_EQ(proofs, 0);
  EXPECT_TRUE(Eventually([&] { return cluster_.Use(0, "k7").reason() == v1::REASON_UNSPECIFIED; }));
}

TEST_F(CoordinatorTest, ANewLeaderFindsEverything) {
  ASSERT_THAT(Create("a"), IsOk());
  ASSERT_THAT(Rotate("a"), IsOk());
  ASSERT_THAT(Create("b", v1::KEY_TYPE_OCT_HSM), IsOk());
  Epoch before = core().state.View()->epoch;
  cluster_.StopCoordinator();
  ASSERT_TRUE(cluster_.StartCoordinator());
  EXPECT_GT(core().state.View()->epoch, before);
  EXPECT_EQ(cluster_.Names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(core().table.versions(), 3u);
  EXPECT_THAT(Rotate("a"), IsOk());
}

TEST_F(CoordinatorTest, AStoreThatWentBackStopsChangesButNotUse) {
  ASSERT_THAT(Create("a"), IsOk());
  StoreModel& store = dynamic_cast<StoreModel&>(cluster_.store());
  auto old = store.Save();
  ASSERT_THAT(Create("b"), IsOk());
  uint64_t commit = core().committer.commit_counter();
  ASSERT_TRUE(Eventually([&] {
    for (const PartitionView& view : core().cluster.Views()) {
      if (view.heartbeat.store_commit() < commit) return false;
    }
    return true;
  }));
  cluster_.StopCoordinator();
  store.RollBack(old);
  ASSERT_TRUE(cluster_.StartCoordinator()) << "partitions that agree with each other go on serving";
  EXPECT_FALSE(core().state.View()->stopped.empty());
  EXPECT_THAT(Create("c"), HasReason(v1::REASON_STORE_ROLLED_BACK));
  EXPECT_EQ(coordinator().Status().state(), "stopped");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(Eventually([&] { return cluster_.Use(i, "a").reason() == v1::REASON_UNSPECIFIED; })) << i;
  }
}

TEST_F(CoordinatorTest, ChangesAndRefusalsAreInTheAudit) {
  ASSERT_THAT(Create("k"), IsOk());
  Caller stranger;
  stranger.principal = SystemRandom().NewId<PrincipalId>();
  v1::CreateKeyRequest request;
  request.set_name("x");
  request.set_type(v1::KEY_TYPE_EC_HSM);
  EXPECT_THAT(coordinator().CreateKey(stranger, request), HasReason(v1::REASON_PERMISSION_DENIED));
  auto found = [&](const std::string& object, const std::string& outcome) {
    auto list = coordinator().ListAudit(caller(), {});
    if (!list.ok() || !list->chain_ok()) return false;
    for (const v1::AuditEntry& entry : list->entries()) {
      if (entry.operation() == "CreateKey" && entry.object() == object && entry.outcome() == outcome)
        return true;
    }
    return false;
  };
  EXPECT_TRUE(found("k", "ok"));
  EXPECT_TRUE(Eventually([&] { return found("x", "PERMISSION_DENIED"); }));
}

TEST_F(CoordinatorTest, ADrainedPartitionIsLeftOutAndComesBack) {
  ASSERT_THAT(Create("k"), IsOk());
  v1::PartitionRequest request;
  request.set_name("p2");
  auto drained = coordinator().DrainPartition(caller(), request);
  ASSERT_THAT(drained, IsOk());
  EXPECT_EQ(drained->partition().state(), v1::PARTITION_STATE_DRAINED);
  EXPECT_EQ(core().cluster.Pick(nullptr, 0b101, 1), -1);
  auto decision = core().catalogue.Read<rpc::StoredPartition>(store_key::Partition("p2"));
  ASSERT_THAT(decision, IsOk());
  EXPECT_TRUE((*decision)->value.drained()) << "remembered by the next leader";
  ASSERT_THAT(coordinator().ResumePartition(caller(), request), IsOk());
  EXPECT_TRUE(cluster_.AwaitReady(3));
  request.set_name("p9");
  EXPECT_THAT(coordinator().DrainPartition(caller(), request), HasReason(v1::REASON_NOT_FOUND));
}

TEST_F(CoordinatorTest, RestoreModeStopsEverythingUntilItIsLeft) {
  ASSERT_THAT(Create("k"), IsOk());
  JobId job = SystemRandom().NewId<JobId>();
  ASSERT_THAT(coordinator().EnterRestore(job, AuditOfSystem("EnterRestore", "job")), IsOk());
  EXPECT_THAT(Get("k"), HasReason(v1::REASON_NOT_ACTIVE));
  EXPECT_THAT(Create("k2"), HasReason(v1::REASON_NOT_ACTIVE));
  EXPECT_NE(cluster_.Use(1, "k").reason(), v1::REASON_UNSPECIFIED);
  EXPECT_THAT(
      coordinator().LeaveRestore(SystemRandom().NewId<JobId>(), AuditOfSystem("LeaveRestore", "other")),
      HasReason(v1::REASON_CONFLICT));
  ASSERT_THAT(coordinator().LeaveRestore(job, AuditOfSystem("LeaveRestore", "job")), IsOk());
  ASSERT_TRUE(cluster_.AwaitReady(3));
  EXPECT_THAT(Get("k"), IsOk());
  EXPECT_TRUE(Eventually([&] { return cluster_.Use(1, "k").reason() == v1::REASON_UNSPECIFIED; }));
}

TEST_F(CoordinatorTest, ManyCreatesAtOnce) {
  std::vector<Thread> threads;
  std::atomic<int> made{0};
  absl::Duration began = RealClock().Uptime();
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back("creator", [&, t] {
      for (int i = 0; i < 25; ++i) made += Create("k" + std::to_string(t) + "-" + std::to_string(i)).ok();
    });
  }
  for (Thread& thread : threads) thread.Join();
  EXPECT_EQ(made, 200);
  EXPECT_EQ(core().table.keys(), 200u);
  RecordProperty("creates_per_second",
                 std::to_string(200 / absl::ToDoubleSeconds(RealClock().Uptime() - began)));
}

}  // namespace
}  // namespace hsm
