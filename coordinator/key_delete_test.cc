// Deleting, recovering and purging, on real partition cores (fake tokens, disks in memory, no network).
#include <gtest/gtest.h>

#include "common/clock.h"
#include "coordinator/coordinator.h"
#include "tests/testing/eventually.h"
#include "tests/testing/local_cluster.h"
#include "tests/testing/matchers.h"

namespace hsm {
namespace {

using testing::Eventually;
using testing::HasReason;
using testing::IsOk;
using testing::LocalCluster;

class KeyDeleteTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(cluster_.StartCoordinator()); }
  Coordinator& coordinator() { return cluster_.coordinator(); }
  Core& core() { return coordinator().core(); }
  Caller caller() { return cluster_.caller(); }
  absl::Status Create(const std::string& name) { return cluster_.Create(name, v1::KEY_TYPE_EC_HSM); }
  absl::StatusOr<v1::Key> Get(const std::string& name) {
    v1::GetKeyRequest request;
    request.set_name(name);
    return coordinator().GetKey(caller(), request);
  }
  static std::string OpIdNow() { return SystemRandom().NewOpId(RealClock()).Raw(); }

  LocalCluster cluster_;
};

TEST_F(KeyDeleteTest, ADeletedKeyIsGoneForGoodAndItsNameIsFree) {
  ASSERT_THAT(Create("k"), IsOk());
  KeyUid uid = core().table.Find("k")->head.uid;
  ASSERT_THAT(cluster_.Destroy("k"), IsOk());
  EXPECT_THAT(Get("k"), HasReason(v1::REASON_KEY_NOT_FOUND));
  auto left = core().catalogue.Versions(1, uid, 0, 10);
  ASSERT_THAT(left, IsOk());
  EXPECT_TRUE(left->rows.empty()) << "the wrapped key is erased from the store";
  auto tombstone = core().catalogue.Read<rpc::StoredTombstone>(store_key::Tombstone(uid));
  EXPECT_TRUE((*tombstone)->value.erased());
  EXPECT_THAT(Create("k"), IsOk());
  EXPECT_NE(core().table.Find("k")->head.uid, uid);
}

TEST_F(KeyDeleteTest, ADeletedKeyKeepsItsNameAndCanBeRecovered) {
  ASSERT_THAT(Create("k"), IsOk());
  auto key = Get("k");
  ASSERT_THAT(cluster_.Delete("k"), IsOk());
  EXPECT_THAT(Get("k"), HasReason(v1::REASON_KEY_NOT_FOUND));
  EXPECT_THAT(Create("k"), HasReason(v1::REASON_KEY_EXISTS));
  EXPECT_THAT(cluster_.Delete("k"), HasReason(v1::REASON_KEY_NOT_FOUND));
  v1::RotateKeyRequest rotate;
  rotate.set_name("k");
  EXPECT_THAT(coordinator().RotateKey(caller(), rotate), HasReason(v1::REASON_KEY_NOT_FOUND));
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(cluster_.Use(i, "k").reason(), v1::REASON_KEY_NOT_FOUND) << i;
  EXPECT_EQ(coordinator().Status().keys(), 0u);
  EXPECT_EQ(coordinator().Status().deleted_keys(), 1u);
  auto listed = coordinator().ListDeletedKeys(caller(), {});
  ASSERT_THAT(listed, IsOk());
  ASSERT_EQ(listed->keys_size(), 1);
  EXPECT_EQ(listed->keys(0).scheduled_purge() - listed->keys(0).deleted(), 90 * 86'400);
  EXPECT_TRUE(coordinator().ListKeys(caller(), {})->keys().empty());

  v1::RecoverDeletedKeyRequest recover;
  recover.set_name("k");
  recover.set_op_id(OpIdNow());
  auto back = coordinator().RecoverDeletedKey(caller(), recover);
  ASSERT_THAT(back, IsOk());
  EXPECT_EQ(back->SerializeAsString(),
            coordinator().RecoverDeletedKey(caller(), recover)->SerializeAsString());
  EXPECT_EQ(back->version(), key->version());
  EXPECT_EQ(back->public_key().spki(), key->public_key().spki());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(cluster_.Use(i, "k").reason(), v1::REASON_UNSPECIFIED) << i;
  recover.set_op_id(OpIdNow());
  EXPECT_THAT(coordinator().RecoverDeletedKey(caller(), recover), HasReason(v1::REASON_KEY_NOT_FOUND));
}

TEST_F(KeyDeleteTest, OnlyADeletedKeyIsPurged) {
  ASSERT_THAT(Create("k"), IsOk());
  v1::PurgeDeletedKeyRequest purge;
  purge.set_name("k");
  EXPECT_THAT(coordinator().PurgeDeletedKey(caller(), purge), HasReason(v1::REASON_KEY_NOT_FOUND));
  EXPECT_THAT(Get("k"), IsOk());
}

TEST_F(KeyDeleteTest, ListsOfDeletedKeysComeInPages) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(Create("k" + std::to_string(i)), IsOk());
    if (i == 2) continue;
    ASSERT_THAT(cluster_.Delete("k" + std::to_string(i)), IsOk());
  }
  std::vector<std::string> names;
  v1::ListDeletedKeysRequest request;
  request.set_page_size(2);
  do {
    auto page = coordinator().ListDeletedKeys(caller(), request);
    ASSERT_THAT(page, IsOk());
    for (const v1::DeletedKey& deleted : page->keys()) names.push_back(deleted.key().name());
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(names, (std::vector<std::string>{"k0", "k1", "k3", "k4"}));
  v1::ListKeysRequest live;
  live.set_page_size(1);
  auto page = coordinator().ListKeys(caller(), live);
  ASSERT_THAT(page, IsOk());
  ASSERT_EQ(page->keys_size(), 1);
  EXPECT_EQ(page->keys(0).name(), "k2");
}

// 90 days by the clock that has lived through them, not by one that was set.
TEST_F(KeyDeleteTest, RetentionEndsByTimeThatHasPassed) {
  ASSERT_THAT(Create("k"), IsOk());
  ASSERT_THAT(cluster_.Delete("k"), IsOk());
  auto witnessed = [&] {
    auto row = core().catalogue.Read<rpc::StoredTime>(store_key::Time());
    return row.ok() && row->has_value() ? (*row)->value.witnessed() : 0;
  };
  const absl::Duration day = absl::Hours(24);
  auto pass = [&](absl::Duration time) {  // and be told of it
    const int64_t before = witnessed();
    cluster_.clock().Pass(time);
    const int64_t enough = before == 0 ? 1 : before + absl::ToInt64Seconds(time) - 60;
    return Eventually([&] { return witnessed() >= enough; });
  };
  ASSERT_TRUE(pass(absl::Minutes(2)));
  cluster_.clock().Jump(200 * day);
  ASSERT_TRUE(pass(absl::Minutes(2)));
  EXPECT_EQ(coordinator().Status().deleted_keys(), 1u) << "a wall clock set forward purges nothing";
  cluster_.clock().Jump(-400 * day);
  ASSERT_TRUE(pass(88 * day));
  EXPECT_EQ(coordinator().Status().deleted_keys(), 1u);
  ASSERT_TRUE(pass(absl::Minutes(2)));
  cluster_.StopCoordinator();
  ASSERT_TRUE(cluster_.StartCoordinator()) << "what was witnessed outlives the process";
  ASSERT_TRUE(pass(absl::Minutes(2)));
  EXPECT_EQ(coordinator().Status().deleted_keys(), 1u);
  ASSERT_TRUE(pass(3 * day));
  EXPECT_EQ(coordinator().Status().deleted_keys(), 1u) << "by the wall clocks the date has not come";
  cluster_.clock().Jump(200 * day);
  ASSERT_TRUE(pass(absl::Minutes(2)));
  EXPECT_TRUE(Eventually([&] { return coordinator().Status().deleted_keys() == 0; }));
  ASSERT_TRUE(cluster_.AwaitReady(3));
  EXPECT_THAT(Create("k"), IsOk());
}

}  // namespace
}  // namespace hsm
