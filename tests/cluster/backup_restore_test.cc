// Backup and restore through real partitions' cores on fake tokens: what comes back, what is refused, and
// what a crash at each step leaves.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "common/mutant.h"
#include "coordinator/backup.h"
#include "tests/cluster/backup_fixture.h"
#include "tests/testing/eventually.h"

namespace hsm::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(BackupRestoreTest, KeysComeBackAndSignEverywhere) {
  CreateKeys(5);
  ASSERT_TRUE(cluster_.Create("ec", v1::KEY_TYPE_EC_HSM).ok());
  const std::vector<std::string> before = cluster_.Names();
  std::vector<std::string> values;
  for (const std::string& name : before) values.push_back(cluster_.Use(0, name).value());

  const v1::Job backup = Backup();
  ASSERT_EQ(backup.status(), v1::JOB_STATUS_SUCCEEDED) << backup.ShortDebugString();
  EXPECT_EQ(backup.backup().keys(), 6u);
  EXPECT_EQ(backup.backup().versions(), 6u);
  ASSERT_TRUE(cluster_.Create("later").ok());

  const v1::Job restore = Restore(backup.backup().folder());
  ASSERT_EQ(restore.status(), v1::JOB_STATUS_SUCCEEDED) << restore.ShortDebugString();
  EXPECT_EQ(restore.restore().keys_restored(), 6u);
  EXPECT_EQ(cluster_.Names(), before);
  ASSERT_TRUE(cluster_.AwaitReady(3));
  for (size_t i = 0; i < before.size(); ++i) {
    for (size_t p = 0; p < 3; ++p) {
      const v1::CryptoResult used = cluster_.Use(p, before[i]);
      EXPECT_EQ(used.reason(), v1::REASON_UNSPECIFIED) << before[i] << " on " << p << ": " << used.message();
      if (before[i] == "ec") continue;  // its signatures are never the same twice
      EXPECT_EQ(used.value(), values[i]) << "another key under the old name";
    }
  }
}

TEST_F(BackupRestoreTest, ForecastIsFixedBeforeAndMeasuredAfter) {
  CreateKeys(3);
  const v1::BackupResult result = Backup().backup();
  EXPECT_EQ(result.forecast().busy_partitions(), 1u);
  EXPECT_GT(result.forecast().ratio(), 0);
  EXPECT_EQ(result.measured().source(), "probe");
  EXPECT_GT(result.measured().baseline_ops(), 0);
  EXPECT_GT(result.measured().seconds(), 0);
  EXPECT_EQ(result.profile(), "none");
}

TEST_F(BackupRestoreTest, AnEmptyHsmHasABackupToo) {
  const v1::Job backup = Backup();
  ASSERT_EQ(backup.status(), v1::JOB_STATUS_SUCCEEDED) << backup.ShortDebugString();
  EXPECT_EQ(backup.backup().keys(), 0u);
  EXPECT_FALSE(backup.backup().measured().has_ratio());
  CreateKeys(1);
  const v1::Job restore = Restore(backup.backup().folder());
  ASSERT_EQ(restore.status(), v1::JOB_STATUS_SUCCEEDED) << restore.ShortDebugString();
  EXPECT_TRUE(cluster_.Names().empty());
}

TEST_F(BackupRestoreTest, ManyVersionsOfOneKeySpanCalls) {
  ASSERT_TRUE(cluster_.Create("many").ok());
  for (int i = 0; i < 80; ++i) {
    v1::RotateKeyRequest request;
    request.set_name("many");
    ASSERT_TRUE(cluster_.coordinator().RotateKey(cluster_.caller(), request).ok());
  }
  const v1::Job backup = Backup();
  ASSERT_EQ(backup.backup().versions(), 81u) << backup.ShortDebugString();
  const v1::Job restore = Restore(backup.backup().folder());
  ASSERT_EQ(restore.status(), v1::JOB_STATUS_SUCCEEDED) << restore.ShortDebugString();
  EXPECT_EQ(restore.restore().versions_restored(), 81u);
}

TEST_F(BackupRestoreTest, ADestroyedKeyComesBackAsANewIncarnation) {
  CreateKeys(2);
  const std::string folder = Backup().backup().folder();
  ASSERT_TRUE(cluster_.Destroy("k000").ok());
  const v1::Job restore = Restore(folder);
  ASSERT_EQ(restore.status(), v1::JOB_STATUS_SUCCEEDED) << restore.ShortDebugString();
  EXPECT_THAT(restore.restore().new_incarnations(), ElementsAre("k000"));
  EXPECT_EQ(cluster_.coordinator().core().table.Find("k000")->head.incarnation, 2u);
  EXPECT_EQ(cluster_.Use(0, "k000").reason(), v1::REASON_UNSPECIFIED);
}

TEST_F(BackupRestoreTest, ADeletedKeyComesBackAsOneThatCanBeRecovered) {
  CreateKeys(2);
  ASSERT_TRUE(cluster_.Delete("k000").ok());
  v1::GetDeletedKeyRequest look;
  look.set_name("k000");
  const auto before = cluster_.coordinator().GetDeletedKey(cluster_.caller(), look);
  ASSERT_TRUE(before.ok()) << before.status();
  const std::string folder = Backup().backup().folder();
  ASSERT_TRUE(cluster_.Destroy("k000").ok());
  cluster_.clock().Pass(absl::Seconds(1));  // short enough that no partition is missed
  ASSERT_TRUE(cluster_.AwaitReady(3));
  const v1::Job restore = Restore(folder);
  ASSERT_EQ(restore.status(), v1::JOB_STATUS_SUCCEEDED) << restore.ShortDebugString();
  EXPECT_EQ(cluster_.Names(), std::vector<std::string>{"k001"});
  const auto after = cluster_.coordinator().GetDeletedKey(cluster_.caller(), look);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_GE(after->scheduled_purge(), before->scheduled_purge() + 1) << "its retention begins again";
  EXPECT_EQ(cluster_.Use(0, "k000").reason(), v1::REASON_KEY_NOT_FOUND);
  v1::RecoverDeletedKeyRequest recover;
  recover.set_name("k000");
  const auto back = cluster_.coordinator().RecoverDeletedKey(cluster_.caller(), recover);
  ASSERT_TRUE(back.ok()) << back.status();
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(cluster_.Use(i, "k000").reason(), v1::REASON_UNSPECIFIED) << i;
}

TEST_F(BackupRestoreTest, TombstonesTravelWithoutBeingNames) {
  CreateKeys(3);
  ASSERT_TRUE(cluster_.Destroy("k001").ok());
  const v1::Job backup = Backup();
  ASSERT_EQ(backup.status(), v1::JOB_STATUS_SUCCEEDED) << backup.ShortDebugString();
  EXPECT_EQ(backup.backup().keys(), 2u);
  EXPECT_EQ(Chunks(backup.backup().folder()).size(), 2u);
  EXPECT_TRUE(Verify(backup.backup().folder()).complete());
  EXPECT_EQ(Restore(backup.backup().folder()).restore().keys_restored(), 2u);
}

TEST_F(BackupRestoreTest, WithoutARecentBackupThereIsNoRestore) {
  CreateKeys(1);
  // A complete folder, but the job that made it is another HSM's as far as this one knows.
  const std::string folder = Backup().backup().folder();
  StoreTransaction forget;
  const auto rows = cluster_.store().Scan(store_key::JobPrefix(), "", 10);
  for (const StoreRecord& row : rows->records) forget.ops.push_back(StoreOp::Delete(row.key));
  ASSERT_EQ(cluster_.store().Commit(forget).outcome, StoreOutcome::kCommitted);
  const v1::Job restore = Restore(folder);
  EXPECT_EQ(restore.status(), v1::JOB_STATUS_FAILED);
  EXPECT_EQ(restore.error().reason(), v1::REASON_RESTORE_GATE);
  EXPECT_THAT(cluster_.Names(), ElementsAre("k000"));
}

TEST_F(BackupRestoreTest, OneJobAtATimeAndOneEffectPerOpId) {
  CreateKeys(1);
  v1::StartBackupRequest request = BackupRequest();
  request.set_op_id(SystemRandom().NewOpId(RealClock()).Raw());
  const auto first = cluster_.jobs().StartBackup(cluster_.caller(), request);
  const auto again = cluster_.jobs().StartBackup(cluster_.caller(), request);
  ASSERT_TRUE(first.ok() && again.ok()) << first.status() << again.status();
  EXPECT_EQ(first->job_id(), again->job_id());
  EXPECT_EQ(ReasonOf(cluster_.jobs().StartBackup(cluster_.caller(), BackupRequest()).status()),
            v1::REASON_CONFLICT);
  v1::StartBackupRequest other = request;
  other.set_allow_degraded(true);
  EXPECT_EQ(ReasonOf(cluster_.jobs().StartBackup(cluster_.caller(), other).status()),
            v1::REASON_OP_ID_CONFLICT);
  EXPECT_EQ(cluster_.Await(first->job_id()).status(), v1::JOB_STATUS_SUCCEEDED);
  EXPECT_EQ(cluster_.jobs().StartBackup(cluster_.caller(), request)->job_id(), first->job_id());
}

TEST_F(BackupRestoreTest, StrangersMayNothing) {
  Caller stranger;
  stranger.principal.value.fill(9);
  EXPECT_EQ(ReasonOf(cluster_.jobs().StartBackup(stranger, BackupRequest()).status()),
            v1::REASON_PERMISSION_DENIED);
  v1::StartRestoreRequest restore;
  EXPECT_EQ(ReasonOf(cluster_.jobs().StartRestore(stranger, restore).status()), v1::REASON_PERMISSION_DENIED);
  const v1::Job job = Backup();
  v1::GetJobRequest get;
  get.set_id(job.id());
  EXPECT_EQ(ReasonOf(cluster_.jobs().GetJob(stranger, get).status()), v1::REASON_NOT_FOUND);
}

TEST_F(BackupRestoreTest, TooFewPartitionsPauseABackupAndSayWhy) {
  CreateKeys(1);
  cluster_.StopNode(2);
  ASSERT_TRUE(cluster_.AwaitReady(2));
  const auto started = cluster_.jobs().StartBackup(cluster_.caller(), BackupRequest());
  ASSERT_TRUE(started.ok());
  v1::GetJobRequest get;
  get.set_id(started->job_id());
  v1::Job job;
  Eventually([&] {
    job = *cluster_.jobs().GetJob(cluster_.caller(), get);
    return job.status() == v1::JOB_STATUS_PAUSED;
  });
  EXPECT_EQ(job.status(), v1::JOB_STATUS_PAUSED);
  EXPECT_THAT(job.message(), HasSubstr("2 are READY"));
  cluster_.StartNode(2);
  EXPECT_EQ(cluster_.Await(started->job_id()).status(), v1::JOB_STATUS_SUCCEEDED);
}

TEST_F(BackupRestoreTest, DegradedKeepsOneFree) {
  CreateKeys(1);
  cluster_.StopNode(2);
  ASSERT_TRUE(cluster_.AwaitReady(2));
  v1::StartBackupRequest request = BackupRequest();
  request.set_allow_degraded(true);
  const auto started = cluster_.jobs().StartBackup(cluster_.caller(), request);
  ASSERT_TRUE(started.ok());
  EXPECT_EQ(cluster_.Await(started->job_id()).status(), v1::JOB_STATUS_SUCCEEDED);
}

// --- hostile folders ---------------------------------------------------------------------------------------

struct Hostility {
  const char* name;
  std::function<void(const fs::path& folder, const std::vector<fs::path>& chunks)> apply;
};
class HostileFolderTest : public BackupRestoreTest, public ::testing::WithParamInterface<Hostility> {};

TEST_P(HostileFolderTest, IsRefusedAndNothingChanges) {
  CreateKeys(3);
  ASSERT_TRUE(cluster_.Destroy("k002").ok());  // so that there are two chunks
  const std::string folder = Backup().backup().folder();
  const std::vector<fs::path> chunks = Chunks(folder);
  ASSERT_EQ(chunks.size(), 2u);
  GetParam().apply(root_ + "/" + folder, chunks);
  const std::vector<std::string> before = cluster_.Names();
  const v1::BackupSummary summary = Verify(folder);
  EXPECT_FALSE(summary.complete());
  EXPECT_NE(summary.message(), "");
  const v1::Job restore = Restore(folder);
  EXPECT_EQ(restore.status(), v1::JOB_STATUS_FAILED);
  EXPECT_EQ(restore.error().reason(), v1::REASON_BACKUP_INVALID) << restore.error().message();
  EXPECT_EQ(cluster_.Names(), before);
  EXPECT_EQ(cluster_.coordinator().core().state.View()->data_set, 1u);
  EXPECT_EQ(cluster_.Use(0, "k000").reason(), v1::REASON_UNSPECIFIED);
}

void FlipByte(const fs::path& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(at);
  file.put(byte);
}

// A sound manifest in every respect but that nobody signed what it says now.
void EditManifest(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string stored((std::istreambuf_iterator<char>(in)), {});
  rpc::ManifestFile file = *ParseManifestFile(View(stored));
  rpc::ManifestFields fields;
  fields.ParseFromString(file.manifest());
  fields.set_created(fields.created() + 1);
  file.set_manifest(fields.SerializeAsString());
  std::ofstream(path, std::ios::binary) << StringView(EncodeManifestFile(file));
}

INSTANTIATE_TEST_SUITE_P(
    BackupRestore, HostileFolderTest,
    ::testing::Values(
        Hostility{"Truncated", [](auto&, auto& chunks) { fs::resize_file(chunks[0], 40); }},
        Hostility{"Flipped", [](auto&, auto& chunks) { FlipByte(chunks[0], 60); }},
        Hostility{"Missing", [](auto&, auto& chunks) { fs::remove(chunks[1]); }},
        Hostility{"Swapped",
                  [](auto& folder, auto& chunks) {
                    fs::rename(chunks[0], folder / "x");
                    fs::rename(chunks[1], chunks[0]);
                    fs::rename(folder / "x", chunks[1]);
                  }},
        Hostility{"NoManifest", [](auto& folder, auto&) { fs::remove(folder / "manifest"); }},
        Hostility{"FlippedManifest", [](auto& folder, auto&) { FlipByte(folder / "manifest", 30); }},
        Hostility{"EditedManifest", [](auto& folder, auto&) { EditManifest(folder / "manifest"); }},
        Hostility{"Symlink",
                  [](auto& folder, auto& chunks) {
                    fs::rename(chunks[0], folder / "x");
                    fs::create_symlink(folder / "x", chunks[0]);
                  }},
        Hostility{"Huge", [](auto&, auto& chunks) { fs::resize_file(chunks[0], uintmax_t{1} << 40); }}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_F(BackupRestoreTest, AManifestOfAnotherFolderIsRefused) {
  CreateKeys(1);
  const std::string one = Backup().backup().folder();
  const std::string two = Backup().backup().folder();
  fs::copy_file(root_ + "/" + one + "/manifest", root_ + "/" + two + "/manifest",
                fs::copy_options::overwrite_existing);
  EXPECT_EQ(Restore(two).error().reason(), v1::REASON_BACKUP_INVALID);
  v1::ListBackupsRequest list;
  list.mutable_target()->set_directory(root_);
  const auto listed = cluster_.jobs().ListBackups(cluster_.caller(), list);
  ASSERT_TRUE(listed.ok()) << listed.status();
  ASSERT_EQ(listed->backups_size(), 2);
  EXPECT_EQ(listed->backups(0).folder(), two);
  EXPECT_FALSE(listed->backups(0).complete());
  EXPECT_TRUE(listed->backups(1).complete());
}

// --- crashes -----------------------------------------------------------------------------------------------

struct CrashPoint {
  const char* name;
  const char* call;  // the coordinator dies at the first such call
};
class CrashTest : public BackupRestoreTest, public ::testing::WithParamInterface<CrashPoint> {
 protected:
  // Lets the coordinator die at the point, and another one take over.
  v1::Job CrashAndTakeOver(const std::string& job_id) {
    EXPECT_TRUE(Eventually([&] { return reached_.load(); }));
    cluster_.StopCoordinator();
    cluster_.SetFilter(nullptr);
    EXPECT_TRUE(cluster_.StartCoordinator());
    return cluster_.Await(job_id);
  }
  void ArmCrash(const std::string& at) {
    cluster_.SetFilter([this, at](size_t, std::string_view call) -> absl::Status {
      if (call == at) reached_ = true;
      if (reached_ && call != "Heartbeat") return Error(v1::REASON_UNREACHABLE, "the coordinator is dying");
      return absl::OkStatus();
    });
  }
  std::atomic<bool> reached_{false};
};

class BackupCrashTest : public CrashTest {};
TEST_P(BackupCrashTest, ResumesAndEqualsTheCatalogue) {
  CreateKeys(4);
  ArmCrash(GetParam().call);
  const auto started = cluster_.jobs().StartBackup(cluster_.caller(), BackupRequest());
  ASSERT_TRUE(started.ok());
  const v1::Job backup = CrashAndTakeOver(started->job_id());
  ASSERT_EQ(backup.status(), v1::JOB_STATUS_SUCCEEDED) << backup.ShortDebugString();
  EXPECT_EQ(backup.backup().keys(), 4u);
  EXPECT_TRUE(Verify(backup.backup().folder()).complete());
}
INSTANTIATE_TEST_SUITE_P(BackupRestore, BackupCrashTest,
                         ::testing::Values(CrashPoint{"Probe", "Prove"}, CrashPoint{"Export", "Export"},
                                           CrashPoint{"Seal", "DeriveAead"},
                                           CrashPoint{"Manifest", "SignManifest"}),
                         [](const auto& tested) { return std::string(tested.param.name); });

class RestoreCrashTest : public CrashTest {};
TEST_P(RestoreCrashTest, EndsInTheOldStateOrTheNew) {
  CreateKeys(4);
  const std::string folder = Backup().backup().folder();
  ASSERT_TRUE(cluster_.Create("later").ok());
  ArmCrash(GetParam().call);
  v1::StartRestoreRequest request;
  request.mutable_target()->set_directory(root_);
  request.set_folder(folder);
  const auto started = cluster_.jobs().StartRestore(cluster_.caller(), request);
  ASSERT_TRUE(started.ok()) << started.status();
  const v1::Job restore = CrashAndTakeOver(started->job_id());
  if (restore.status() == v1::JOB_STATUS_SUCCEEDED) {
    EXPECT_THAT(cluster_.Names(), ElementsAre("k000", "k001", "k002", "k003"));
  } else {
    EXPECT_THAT(cluster_.Names(), ElementsAre("k000", "k001", "k002", "k003", "later"));
  }
  ASSERT_TRUE(cluster_.AwaitReady(3));
  for (size_t p = 0; p < 3; ++p) EXPECT_EQ(cluster_.Use(p, "k002").reason(), v1::REASON_UNSPECIFIED);
}
INSTANTIATE_TEST_SUITE_P(BackupRestore, RestoreCrashTest,
                         ::testing::Values(CrashPoint{"Barrier", "Control"}, CrashPoint{"Import", "Import"},
                                           CrashPoint{"Stage", "PutRecords"}, CrashPoint{"Prove", "Prove"},
                                           CrashPoint{"Compare", "Digest"}),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST_F(BackupRestoreTest, ANodeThatDiesDuringTheExportCostsNothingButTime) {
  CreateKeys(4);
  std::atomic<bool> died{false};
  cluster_.SetFilter([&](size_t, std::string_view call) -> absl::Status {
    if (call == "Export" && !died.exchange(true)) return Error(v1::REASON_UNREACHABLE, "gone");
    return absl::OkStatus();
  });
  const v1::Job backup = Backup();
  EXPECT_EQ(backup.status(), v1::JOB_STATUS_SUCCEEDED) << backup.ShortDebugString();
  cluster_.SetFilter(nullptr);
}

// What was exported before the crash and changed after it must not stay in the backup as it was.
TEST_F(BackupRestoreTest, AResumedBackupHasTheNewerStateOfWhatChangedMeanwhile) {
  CreateKeys(3);
  std::atomic<bool> reached{false};
  cluster_.SetFilter([&](size_t, std::string_view call) -> absl::Status {
    if (call == "SignManifest") reached = true;
    if (reached && call == "SignManifest") return Error(v1::REASON_UNREACHABLE, "dying");
    return absl::OkStatus();
  });
  const auto started = cluster_.jobs().StartBackup(cluster_.caller(), BackupRequest());
  ASSERT_TRUE(started.ok());
  ASSERT_TRUE(Eventually([&] { return reached.load(); }));
  ASSERT_TRUE(cluster_.Create("k0015").ok());  // in the middle of what was exported
  cluster_.StopCoordinator();
  cluster_.SetFilter(nullptr);
  ASSERT_TRUE(cluster_.StartCoordinator());
  const v1::Job backup = cluster_.Await(started->job_id());
  ASSERT_EQ(backup.status(), v1::JOB_STATUS_SUCCEEDED) << backup.ShortDebugString();
  EXPECT_EQ(backup.backup().keys(), 4u);
  EXPECT_TRUE(Verify(backup.backup().folder()).complete());
}

// --- decisions ---------------------------------------------------------------------------------------------

std::vector<PartitionView> Views(const std::vector<std::pair<bool, uint32_t>>& ready_and_load) {
  std::vector<PartitionView> views;
  for (const auto& [ready, load] : ready_and_load) {
    PartitionView view;
    view.state = ready ? v1::PARTITION_STATE_READY : v1::PARTITION_STATE_DOWN;
    view.in_flight = load;
    views.push_back(view);
  }
  return views;
}

TEST(ChooseBusyTest, KeepsEnoughFreeAndTakesTheLeastLoaded) {
  EXPECT_THAT(ChooseBusy(Views({{true, 5}, {true, 2}, {true, 9}}), 1, 2), ElementsAre(1));
  EXPECT_THAT(ChooseBusy(Views({{true, 5}, {false, 0}, {true, 9}}), 1, 2), ElementsAre());
  EXPECT_THAT(ChooseBusy(Views({{true, 5}, {false, 0}, {true, 9}}), 1, 1), ElementsAre(0));
  EXPECT_THAT(ChooseBusy(Views({{true, 1}, {true, 2}, {true, 3}, {true, 4}, {true, 5}}), 3, 3),
              ElementsAre(0, 1));
}

}  // namespace
}  // namespace hsm::testing
