#include "coordinator/cluster_state.h"

#include <gtest/gtest.h>

#include "coordinator/revoker.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/fake_partition_client.h"
#include "tests/testing/matchers.h"

namespace hsm {
namespace {

using testing::FakePartitionClient;
using testing::HasReason;
using testing::IsOk;

class ClusterStateTest : public ::testing::Test {
 protected:
  ClusterStateTest() {
    for (const char* name : {"p1", "p2", "p3"})
      clients_.push_back(std::make_unique<FakePartitionClient>(name));
    std::vector<PartitionClient*> raw;
    for (auto& client : clients_) raw.push_back(client.get());
    cluster_ = std::make_unique<ClusterState>(
        raw, clock_, MembershipTimes{absl::Seconds(2), absl::Seconds(5), clock_.Uptime()});
  }
  void Beat(size_t index, uint64_t incarnation = 1) {
    rpc::HeartbeatRequest heartbeat;
    heartbeat.set_node(cluster_->name(index));
    heartbeat.set_incarnation(incarnation);
    heartbeat.set_state(rpc::NODE_STATE_SERVING);
    cluster_->ChangeFacts(index, [](PartitionFacts& facts) { facts.right_hsm = true; }, clock_.Uptime());
    cluster_->OnHeartbeat(index, heartbeat, clock_.Uptime());
  }
  void MakeReady() {
    for (size_t i = 0; i < 3; ++i) {
      Beat(i);
      ASSERT_TRUE(cluster_->FinishSync(i, cluster_->BeginSync(i), clock_.Uptime()));
    }
  }

  testing::FakeClock clock_;
  std::vector<std::unique_ptr<FakePartitionClient>> clients_;
  std::unique_ptr<ClusterState> cluster_;
};

TEST_F(ClusterStateTest, RoutesOnlyToReadyPartitions) {
  EXPECT_EQ(cluster_->Pick(nullptr, 0, 1), -1);
  MakeReady();
  EXPECT_EQ(cluster_->ReadyCount(), 3u);
  EXPECT_GE(cluster_->Pick(nullptr, 0, 1), 0);
  EXPECT_EQ(cluster_->Pick(nullptr, 0b101, 1), 1);
  EXPECT_EQ(cluster_->Pick(nullptr, 0b111, 1), -1);
  clock_.Advance(absl::Seconds(3));
  for (size_t i = 0; i < 3; ++i) cluster_->Refresh(i, clock_.Uptime());
  EXPECT_EQ(cluster_->Pick(nullptr, 0, 1), -1);
}

TEST_F(ClusterStateTest, WithOneOperationAtATimePartitionsTakeTurns) {
  MakeReady();
  std::vector<int> turns(3);
  for (int turn = 0; turn < 30; ++turn) {
    const int chosen = cluster_->Pick(nullptr, 0, 1);
    ASSERT_GE(chosen, 0);
    ++turns[static_cast<size_t>(chosen)];
    for (uint64_t bits : {0u, 7u, 1u << 31}) EXPECT_EQ(cluster_->Pick(nullptr, 0, bits), chosen);
    clock_.Advance(absl::Milliseconds(20));
  }
  EXPECT_EQ(turns, (std::vector<int>{10, 10, 10}));
  cluster_->Begin(0, 1);  // now it is by load, and by chance
  EXPECT_EQ(cluster_->Pick(nullptr, 0, uint64_t{1} << 32 | 1), 1);
  EXPECT_EQ(cluster_->Pick(nullptr, 0, uint64_t{1} << 32 | 2), 2);
}

TEST_F(ClusterStateTest, APartitionBehindOnAKeyIsNotAskedForIt) {
  MakeReady();
  KeyUid uid, other;
  uid.value[0] = 1;
  cluster_->MarkBehind(0, uid);
  EXPECT_EQ(cluster_->Pick(&uid, 0b110, 1), -1);
  EXPECT_EQ(cluster_->Pick(&other, 0b110, 1), 0);
  auto marks = cluster_->Behind(0);
  cluster_->MarkBehind(0, uid);  // missed another change while the repair was under way
  cluster_->ClearBehind(0, marks);
  EXPECT_EQ(cluster_->Pick(&uid, 0b110, 1), -1);
  cluster_->ClearBehind(0, cluster_->Behind(0));
  EXPECT_EQ(cluster_->Pick(&uid, 0b110, 1), 0);
}

TEST_F(ClusterStateTest, ErrorsOpenTheBreakerAndProbesCloseIt) {
  MakeReady();
  for (int i = 0; i < 5; ++i) {
    cluster_->Begin(0, 1);
    cluster_->End(0, 1, false);
  }
  EXPECT_EQ(cluster_->StateOf(0), v1::PARTITION_STATE_SUSPECT);
  EXPECT_EQ(cluster_->Pick(nullptr, 0b110, 1), -1);
  for (int probe = 0; probe < 3; ++probe) {
    clock_.Advance(absl::Seconds(1));
    Beat(0);
    ASSERT_EQ(cluster_->Pick(nullptr, 0b110, 1), 0);
    EXPECT_EQ(cluster_->Pick(nullptr, 0b110, 1), -1) << "one probe at a time";
    cluster_->Begin(0, 1);
    cluster_->End(0, 1, true);
  }
  EXPECT_EQ(cluster_->StateOf(0), v1::PARTITION_STATE_READY);
}

TEST_F(ClusterStateTest, ARestartedPartitionIsSyncedAgainFirst) {
  MakeReady();
  Beat(1, 2);
  EXPECT_EQ(cluster_->StateOf(1), v1::PARTITION_STATE_SYNCING);
  EXPECT_FALSE(cluster_->GrantLease(1, clock_.Uptime(), absl::Seconds(3)));
}

TEST_F(ClusterStateTest, ASyncThatBeganBeforeAMissedMessageDoesNotCount) {
  MakeReady();
  uint64_t begun = cluster_->BeginSync(2);
  cluster_->WithholdLease(2, clock_.Uptime());
  EXPECT_FALSE(cluster_->FinishSync(2, begun, clock_.Uptime()));
  EXPECT_FALSE(cluster_->GrantLease(2, clock_.Uptime(), absl::Seconds(3)));
  EXPECT_TRUE(cluster_->FinishSync(2, cluster_->BeginSync(2), clock_.Uptime()));
  EXPECT_TRUE(cluster_->GrantLease(2, clock_.Uptime(), absl::Seconds(3)));
}

TEST_F(ClusterStateTest, LeasesOfAnEarlierLeaderAreReckonedWith) {
  EXPECT_GE(cluster_->LeaseUntil(0) - clock_.Uptime(), absl::Seconds(3));
}

// --- the revoker, on the same cluster ---

class RevokerTest : public ClusterStateTest {
 protected:
  RevokerTest() : revoker_(*cluster_, state_, clock_, absl::Seconds(2)) {
    MakeReady();
    clock_.Advance(absl::Seconds(1));
    for (size_t i = 0; i < 3; ++i) {
      Beat(i);
      cluster_->GrantLease(i, clock_.Uptime(), absl::Seconds(3));
    }
    revoker_.Start();
  }
  HsmState state_;
  Revoker revoker_;
};

TEST_F(RevokerTest, HoldsWhenAllTookIt) {
  rpc::ControlRequest stop;
  stop.set_stop_serving(true);
  auto taken = revoker_.Barrier(stop);
  ASSERT_THAT(taken, IsOk());
  EXPECT_EQ(*taken, 3u);
}

TEST_F(RevokerTest, WaitsOutTheLeaseOfOneThatIsGone) {
  clients_[1]->control = Error(v1::REASON_UNREACHABLE, "gone");
  std::atomic<bool> done{false};
  absl::StatusOr<uint32_t> taken = 0;
  Thread waiter("waiter", [&] {
    rpc::ControlRequest stop;
    stop.set_stop_serving(true);
    taken = revoker_.Barrier(stop);
    done = true;
  });
  // Its lease is withheld first; the barrier does not hold before the lease it has is over.
  for (Deadline wait(RealClock(), absl::Seconds(10)); cluster_->StateOf(1) == v1::PARTITION_STATE_READY;) {
    ASSERT_FALSE(wait.Passed());
  }
  Beat(1);
  EXPECT_FALSE(cluster_->GrantLease(1, clock_.Uptime(), absl::Seconds(3)));
  EXPECT_FALSE(done);
  clock_.Advance(absl::Seconds(4));
  waiter.Join();
  ASSERT_THAT(taken, IsOk());
  EXPECT_EQ(*taken, 2u);
}

TEST_F(RevokerTest, SequencesReachEachPartitionInOrder) {
  std::vector<Thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back("revoke", [&] {
      rpc::ControlRequest stop;
      stop.set_stop_serving(true);
      EXPECT_THAT(revoker_.Barrier(stop), IsOk());
    });
  }
  for (Thread& thread : threads) thread.Join();
  for (auto& client : clients_) {
    EXPECT_TRUE(std::is_sorted(client->sequences.begin(), client->sequences.end()));
    EXPECT_EQ(client->sequences.size(), 16u);
  }
}

}  // namespace
}  // namespace hsm
