#include "coordinator/healer.h"

#include <gtest/gtest.h>

#include "coordinator/coordinator.h"
#include "store/store_model.h"
#include "tests/testing/fake_partition_client.h"
#include "tests/testing/matchers.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::FakePartitionClient;
using testing::HasReason;
using testing::IsOk;

// Only what domain keys need: makes, joins and sponsors without any cryptography.
class FakeNode final : public FakePartitionClient {
 public:
  using FakePartitionClient::FakePartitionClient;

  absl::StatusOr<rpc::GetInfoResponse> GetInfo(const rpc::GetInfoRequest&, absl::Duration) override {
    MutexLock lock(mutex);
    rpc::GetInfoResponse response;
    response.mutable_status()->set_data_set(1);
    if (bundle.has_value()) *response.mutable_bundle() = *bundle;
    return response;
  }
  absl::StatusOr<rpc::MakeDomainResponse> MakeDomain(const rpc::MakeDomainRequest& request,
                                                     absl::Duration) override {
    MutexLock lock(mutex);
    ++made;
    rpc::DomainBundle fresh;
    fresh.set_hsm_id(request.hsm_id());
    fresh.set_generation(1);
    bundle = fresh;
    rpc::MakeDomainResponse response;
    *response.mutable_bundle() = fresh;
    return response;
  }
  absl::StatusOr<rpc::JoinKey> BeginJoin(const rpc::BeginJoinRequest&, absl::Duration) override {
    rpc::JoinKey key;
    key.set_node(name());
    key.set_spki("join key of " + name());
    return key;
  }
  absl::StatusOr<rpc::SponsorResponse> Sponsor(const rpc::SponsorRequest& request, absl::Duration) override {
    MutexLock lock(mutex);
    sponsored = request.join_key().node();
    pin = request.sealed_so_pin();
    polls = 0;
    rpc::SponsorResponse response;
    response.set_handover_id("id");
    return response;
  }
  // Its process is gone at first, then its helper is at work, then it is done.
  absl::StatusOr<rpc::TakeHandoverResponse> TakeHandover(const rpc::TakeHandoverRequest&,
                                                         absl::Duration) override {
    MutexLock lock(mutex);
    rpc::TakeHandoverResponse response;
    if (++polls == 1) return Error(v1::REASON_UNREACHABLE, "restarting");
    if (polls == 2) {
      response.set_pending(true);
      return response;
    }
    response.mutable_handover()->set_node(sponsored);
    *response.mutable_handover()->mutable_bundle() = *bundle;
    return response;
  }
  absl::StatusOr<rpc::CompleteJoinResponse> CompleteJoin(const rpc::CompleteJoinRequest& request,
                                                         absl::Duration) override {
    MutexLock lock(mutex);
    bundle = request.handover().bundle();
    return rpc::CompleteJoinResponse();
  }
  absl::StatusOr<rpc::DigestResponse> Digest(const rpc::DigestRequest&, absl::Duration) override {
    rpc::DigestResponse response;
    for (size_t i = 0; i < limits::kBuckets; ++i) response.add_buckets(ToString(BucketDigest({})));
    return response;
  }
  bool HasDomain() {
    MutexLock lock(mutex);
    return bundle.has_value();
  }

  Mutex mutex;
  std::optional<rpc::DomainBundle> bundle;
  std::string sponsored, pin;
  int polls = 0, made = 0;
};

class HealerTest : public ::testing::Test {
 protected:
  HealerTest() : random_(5), store_(RealClock()) {
    for (const char* name : {"p1", "p2", "p3"}) {
      nodes_.push_back(std::make_unique<FakeNode>(name));
      config_.partitions.push_back({name, "", ""});
    }
    config_.hsm_name = "h";
    config_.tick = absl::Milliseconds(5);
    config_.healing = HealingPolicy::kAutomatic;
    config_.administrators = {random_.NewId<PrincipalId>()};
    caller_.principal = config_.administrators[0];
  }
  ~HealerTest() override { Stop(); }

  void Start() {
    std::vector<PartitionClient*> clients;
    for (auto& node : nodes_) clients.push_back(node.get());
    coordinator_ = std::make_unique<Coordinator>(config_, store_, clients, RealClock(), SystemRandom());
    ASSERT_THAT(coordinator_->Start(), IsOk());
    beating_ = true;
    beats_ = Thread("beats", [this] {
      while (beating_) {
        for (size_t i = 0; i < nodes_.size(); ++i) {
          if (!silent_[i]) Beat(i);
        }
        Sleep();
      }
    });
  }
  void Stop() {
    beating_ = false;
    beats_.Join();
    coordinator_.reset();
  }
  void Beat(size_t i) {
    FakeNode& node = *nodes_[i];
    rpc::HeartbeatRequest heartbeat;
    heartbeat.set_node(node.name());
    heartbeat.set_incarnation(7);
    heartbeat.set_state(node.HasDomain() ? rpc::NODE_STATE_SERVING : rpc::NODE_STATE_NO_DOMAIN);
    heartbeat.set_data_set(1);
    if (node.HasDomain()) {
      MutexLock lock(node.mutex);
      heartbeat.set_hsm_id(node.bundle->hsm_id());
    }
    coordinator_->OnHeartbeat(heartbeat);
  }
  static void Sleep() {
    Mutex mutex;
    CondVar never;
    MutexLock lock(mutex);
    RealClock().Await(mutex, never, [] { return false; }, absl::Milliseconds(5));
  }
  bool Eventually(const std::function<bool()>& holds) {
    for (Deadline deadline(RealClock(), absl::Seconds(20)); !deadline.Passed(); Sleep()) {
      if (holds()) return true;
    }
    return false;
  }
  bool AllReady() {
    return Eventually([&] { return coordinator_->Status().quorum_have() == 3; });
  }

  testing::SeededRandom random_;
  StoreModel store_;
  CoordinatorConfig config_;
  Caller caller_;
  std::vector<std::unique_ptr<FakeNode>> nodes_;
  std::array<std::atomic<bool>, 3> silent_{};
  std::unique_ptr<Coordinator> coordinator_;
  std::atomic<bool> beating_{false};
  Thread beats_;
};

TEST_F(HealerTest, ANewHsmGetsOneDomainOnAllPartitions) {
  Start();
  ASSERT_TRUE(AllReady());
  EXPECT_EQ(coordinator_->Status().state(), "active");
  EXPECT_EQ(nodes_[0]->made + nodes_[1]->made + nodes_[2]->made, 1);
  for (auto& node : nodes_) EXPECT_EQ(node->bundle->hsm_id(), nodes_[0]->bundle->hsm_id());
}

TEST_F(HealerTest, NothingIsMadeBeforeAllPartitionsAreHeardOf) {
  silent_[2] = true;
  Start();
  for (int i = 0; i < 40; ++i) Sleep();
  EXPECT_EQ(nodes_[0]->made, 0);
  silent_[2] = false;
  EXPECT_TRUE(AllReady());
}

TEST_F(HealerTest, AnEmptyCatalogueNeverMakesASecondDomain) {
  nodes_[1]->bundle.emplace();
  nodes_[1]->bundle->set_hsm_id(std::string(16, 'x'));
  Start();
  ASSERT_TRUE(Eventually([&] { return coordinator_->Status().state() == "stopped"; }));
  EXPECT_EQ(nodes_[0]->made, 0);
  EXPECT_NE(coordinator_->Status().warnings(0).find("p2"), std::string::npos);
}

TEST_F(HealerTest, ACrashAfterTheDomainWasMadeIsMadeGood) {
  Start();
  ASSERT_TRUE(AllReady());
  Stop();
  // As if the coordinator had died before it recorded the bundle, and the others had not joined.
  Catalogue catalogue(store_);
  auto hsm = *catalogue.Hsm();
  rpc::StoredHsm early = hsm->value;
  early.set_mode(rpc::HSM_MODE_PROVISIONED);
  early.clear_bundle();
  StoreTransaction back;
  back.ops = {StoreOp::Put(store_key::Hsm(), early.SerializeAsString())};
  ASSERT_EQ(store_.Commit(back).outcome, StoreOutcome::kCommitted);
  nodes_[1]->bundle.reset();
  nodes_[2]->bundle.reset();
  Start();
  ASSERT_TRUE(AllReady());
  EXPECT_EQ(nodes_[0]->made + nodes_[1]->made + nodes_[2]->made, 1);
}

TEST_F(HealerTest, AWipedPartitionIsHealedByItself) {
  Start();
  ASSERT_TRUE(AllReady());
  {
    MutexLock lock(nodes_[2]->mutex);
    nodes_[2]->bundle.reset();
  }
  EXPECT_TRUE(Eventually([&] { return nodes_[2]->HasDomain(); }));
  EXPECT_TRUE(AllReady());
}

TEST_F(HealerTest, WithoutApprovalNothingIsHandedOver) {
  config_.healing = HealingPolicy::kAutomatic;
  Start();
  ASSERT_TRUE(AllReady());
  Stop();
  config_.healing = HealingPolicy::kApproved;
  nodes_[1]->bundle.reset();
  Start();
  v1::ApprovePartitionRequest request;
  request.set_name("p2");
  request.set_fingerprint("00");
  request.set_sealed_so_pin("sealed");
  ASSERT_TRUE(Eventually([&] {
    return coordinator_->Status().partitions(1).message().find("--fingerprint") != std::string::npos &&
           coordinator_->Status().quorum_have() == 2;
  }));
  EXPECT_THAT(coordinator_->ApprovePartition(caller_, request), HasReason(v1::REASON_CONFLICT));
  EXPECT_FALSE(nodes_[1]->HasDomain());
  std::string message = coordinator_->Status().partitions(1).message();
  size_t at = message.find("--fingerprint ") + 14;
  request.set_fingerprint(message.substr(at, 64));
  // The PIN is sealed to one sponsor, so that one it is, however loaded the others are.
  request.set_sponsor("p9");
  EXPECT_THAT(coordinator_->ApprovePartition(caller_, request), HasReason(v1::REASON_NOT_FOUND));
  request.set_sponsor("p2");
  EXPECT_THAT(coordinator_->ApprovePartition(caller_, request), HasReason(v1::REASON_INVALID_ARGUMENT));
  request.set_sponsor("p3");
  EXPECT_THAT(coordinator_->ApprovePartition(caller_, request), IsOk());
  EXPECT_TRUE(AllReady());
  EXPECT_EQ(nodes_[0]->pin, "");
  EXPECT_EQ(nodes_[2]->pin, "sealed");
  request.set_name("p1");
  EXPECT_THAT(coordinator_->ApprovePartition(caller_, request), HasReason(v1::REASON_CONFLICT));
}

}  // namespace
}  // namespace hsm
