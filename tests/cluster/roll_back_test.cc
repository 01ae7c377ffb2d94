// What serves after a restore: the replaced keys again by a roll-back, and never keys that partitions do not
// hold.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/record.h"
#include "tests/cluster/backup_fixture.h"

namespace hsm::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(BackupRestoreTest, RollBackBringsTheReplacedKeysBack) {
  CreateKeys(2);
  const std::string folder = Backup().backup().folder();
  ASSERT_TRUE(cluster_.Create("made-later").ok());
  ASSERT_TRUE(cluster_.Destroy("k000").ok());
  const std::vector<std::string> replaced = cluster_.Names();
  ASSERT_EQ(Restore(folder).status(), v1::JOB_STATUS_SUCCEEDED);
  const auto rolled = cluster_.jobs().RollbackRestore(cluster_.caller(), {});
  ASSERT_TRUE(rolled.ok()) << rolled.status();
  EXPECT_EQ(cluster_.Names(), replaced);
  EXPECT_EQ(cluster_.Use(1, "made-later").reason(), v1::REASON_UNSPECIFIED);
}

TEST_F(BackupRestoreTest, RollBackRefusesToLoseChangesUnlessToldTo) {
  CreateKeys(1);
  const std::string folder = Backup().backup().folder();
  ASSERT_EQ(Restore(folder).status(), v1::JOB_STATUS_SUCCEEDED);
  ASSERT_TRUE(cluster_.Create("since").ok());
  v1::RollbackRestoreRequest request;
  EXPECT_EQ(ReasonOf(cluster_.jobs().RollbackRestore(cluster_.caller(), request).status()),
            v1::REASON_CONFLICT);
  EXPECT_THAT(cluster_.Names(), ElementsAre("k000", "since"));
  request.set_discard_changes(true);
  const auto rolled = cluster_.jobs().RollbackRestore(cluster_.caller(), request);
  ASSERT_TRUE(rolled.ok()) << rolled.status();
  EXPECT_THAT(cluster_.Names(), ElementsAre("k000"));
}

// A roll-back may throw changes away, but gives nothing back that was taken away.
TEST_F(BackupRestoreTest, RollBackKeepsWhatWasRevokedSince) {
  ASSERT_TRUE(cluster_.Create("disabled").ok());
  ASSERT_TRUE(cluster_.Create("narrowed").ok());
  ASSERT_TRUE(cluster_.Create("ended").ok());
  ASSERT_TRUE(cluster_.Create("untouched").ok());
  ASSERT_TRUE(cluster_.Create("tagged").ok());
  const std::string folder = Backup().backup().folder();
  ASSERT_EQ(Restore(folder).status(), v1::JOB_STATUS_SUCCEEDED);
  auto change = [&](const std::string& name, auto fill) {
    v1::SetKeyAttributesRequest request;
    request.set_name(name);
    fill(request);
    const auto changed = cluster_.coordinator().SetKeyAttributes(cluster_.caller(), request);
    ASSERT_TRUE(changed.ok()) << changed.status();
  };
  change("disabled", [](auto& r) { r.set_enabled(false); });
  change("narrowed", [](auto& r) {
    r.set_set_operations(true);
    r.add_operations(v1::KEY_OPERATION_VERIFY);
  });
  change("ended", [](auto& r) { r.set_expires(1'000'000); });
  change("tagged", [](auto& r) {
    r.set_set_tags(true);
    (*r.mutable_tags())["a"] = "b";
  });
  v1::RollbackRestoreRequest request;
  request.set_discard_changes(true);
  const auto rolled = cluster_.jobs().RollbackRestore(cluster_.caller(), request);
  ASSERT_TRUE(rolled.ok()) << rolled.status();
  auto head = [&](const std::string& name) { return cluster_.coordinator().core().table.Find(name)->head; };
  EXPECT_FALSE(head("disabled").enabled);
  EXPECT_EQ(head("narrowed").operations, Bit(v1::KEY_OPERATION_VERIFY));
  EXPECT_EQ(head("ended").expires, 1'000'000);
  EXPECT_TRUE(head("untouched").enabled);
  EXPECT_TRUE(head("tagged").tags.empty()) << "that was to be discarded";
  ASSERT_TRUE(cluster_.AwaitReady(3));
  for (size_t p = 0; p < 3; ++p) {
    EXPECT_EQ(cluster_.Use(p, "disabled").reason(), v1::REASON_KEY_DISABLED) << p;
    EXPECT_EQ(cluster_.Use(p, "untouched").reason(), v1::REASON_UNSPECIFIED) << p;
  }
}

TEST_F(BackupRestoreTest, KeysThatPartitionsCannotProveDoNotServe) {
  ASSERT_TRUE(cluster_.Create("ec", v1::KEY_TYPE_EC_HSM).ok());
  const std::string folder = Backup().backup().folder();
  cluster_.SetFilter([&](size_t partition, std::string_view call) -> absl::Status {
    if (call == "PutRecords" && partition < 2) cluster_.token(partition).PlantWrongKey(1'000);
    return absl::OkStatus();
  });
  const v1::Job restore = RestoreUntilItWaits(folder);
  EXPECT_NE(restore.status(), v1::JOB_STATUS_SUCCEEDED);
  EXPECT_THAT(restore.message(), HasSubstr("have proved the restored keys")) << restore.ShortDebugString();
  EXPECT_EQ(cluster_.coordinator().core().state.View()->data_set, 1u);
  cluster_.SetFilter(nullptr);
}

TEST_F(BackupRestoreTest, APartitionThatLostALoadedKeyIsNoticedBeforeTheSwitch) {
  CreateKeys(2);
  const KeyUid uid = cluster_.coordinator().core().table.Find("k001")->head.uid;
  const std::string folder = Backup().backup().folder();
  cluster_.SetFilter([&](size_t partition, std::string_view call) -> absl::Status {
    if (call != "Digest" || partition == 2) return absl::OkStatus();
    rpc::QuarantineRequest lose;
    *lose.mutable_fence() = cluster_.coordinator().core().Fence();
    lose.mutable_fence()->set_data_set(2);
    lose.set_uid(uid.Raw());
    const auto process = cluster_.Reach(partition, "Test");
    if (process.ok()) (void)(*process)->partition->Quarantine(lose);
    return absl::OkStatus();
  });
  const v1::Job restore = RestoreUntilItWaits(folder);
  EXPECT_EQ(restore.status(), v1::JOB_STATUS_PAUSED);
  EXPECT_THAT(restore.message(), HasSubstr("hold what was loaded")) << restore.ShortDebugString();
  EXPECT_EQ(cluster_.coordinator().core().state.View()->data_set, 1u);
  cluster_.SetFilter(nullptr);
}

}  // namespace
}  // namespace hsm::testing
