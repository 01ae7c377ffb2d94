#include "coordinator/backup_target_directory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/error.h"

namespace hsm {
namespace {

constexpr char kFolder[] = "mhsm-x-2026112507200000";

class BackupTargetDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "qhsm-target-XXXXXX";
    root_ = mkdtemp(pattern.data());
    v1::BackupTarget target;
    target.set_directory(root_ + "/deep/er");
    target_ = std::move(OpenBackupTarget(target)).value();
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string PathOf(const std::string& object) const { return root_ + "/deep/er/" + kFolder + "/" + object; }

  std::string root_;
  std::unique_ptr<BackupStorage> target_;
};

TEST_F(BackupTargetDirectoryTest, ObjectsComeBackInOrder) {
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  ASSERT_TRUE(target_->Create(kFolder, "1-aa", View("one")).ok());
  ASSERT_TRUE(target_->Create(kFolder, "0-bb", View("zero")).ok());
  EXPECT_EQ(*target_->ListObjects(kFolder), (std::vector<std::string>{"0-bb", "1-aa"}));
  EXPECT_EQ(*target_->Read(kFolder, "1-aa", 100), ToBytes("one"));
  EXPECT_EQ(*target_->ListFolders(), std::vector<std::string>{kFolder});
}

TEST_F(BackupTargetDirectoryTest, AnObjectIsNeverRewritten) {
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  ASSERT_TRUE(target_->Create(kFolder, "0-aa", View("first")).ok());
  EXPECT_EQ(ReasonOf(target_->Create(kFolder, "0-aa", View("second"))), v1::REASON_CONFLICT);
  EXPECT_EQ(*target_->Read(kFolder, "0-aa", 100), ToBytes("first"));
}

TEST_F(BackupTargetDirectoryTest, AnUnfinishedFileIsInvisibleAndInNobodysWay) {
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  std::ofstream(PathOf(".0-aa.tmp")) << "half";
  EXPECT_TRUE(target_->ListObjects(kFolder)->empty());
  ASSERT_TRUE(target_->Create(kFolder, "0-aa", View("whole")).ok());
  EXPECT_EQ(*target_->Read(kFolder, "0-aa", 100), ToBytes("whole"));
}

TEST_F(BackupTargetDirectoryTest, NothingIsReadThroughASymbolicLink) {
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  std::ofstream(root_ + "/secret") << "outside";
  ASSERT_EQ(symlink((root_ + "/secret").c_str(), PathOf("0-aa").c_str()), 0);
  EXPECT_EQ(ReasonOf(target_->Read(kFolder, "0-aa", 100).status()), v1::REASON_BACKUP_INVALID);
  ASSERT_EQ(symlink(root_.c_str(), (root_ + "/deep/er/mhsm-link").c_str()), 0);
  EXPECT_EQ(ReasonOf(target_->ListObjects("mhsm-link").status()), v1::REASON_BACKUP_INVALID);
}

TEST_F(BackupTargetDirectoryTest, OnlyPlainFilesOfPossibleSizeAreRead) {
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  ASSERT_EQ(mkfifo(PathOf("0-aa").c_str(), 0600), 0);
  EXPECT_EQ(ReasonOf(target_->Read(kFolder, "0-aa", 100).status()), v1::REASON_BACKUP_INVALID);
  std::ofstream(PathOf("1-aa")) << "";
  ASSERT_EQ(truncate(PathOf("1-aa").c_str(), off_t{1} << 40), 0);  // sparse
  EXPECT_EQ(ReasonOf(target_->Read(kFolder, "1-aa", 1 << 20).status()), v1::REASON_BACKUP_INVALID);
}

TEST_F(BackupTargetDirectoryTest, NamesThatLeaveTheFolderAreRefused) {
  for (const char* folder : {"..", "a/b", "", ".", "-x", "a b"})
    EXPECT_FALSE(target_->MakeFolder(folder).ok()) << folder;
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  for (const char* object : {"../x", "a/b", "", ".", "A"}) {
    EXPECT_FALSE(target_->Create(kFolder, object, View("x")).ok()) << object;
    EXPECT_FALSE(target_->Read(kFolder, object, 10).ok()) << object;
  }
  for (const char* path : {"", "relative", "/", "/a/../b"}) {
    v1::BackupTarget target;
    target.set_directory(path);
    EXPECT_EQ(ReasonOf(OpenBackupTarget(target).status()), v1::REASON_INVALID_ARGUMENT) << path;
  }
}

TEST_F(BackupTargetDirectoryTest, MissingThingsHaveTheirOwnReason) {
  EXPECT_EQ(ReasonOf(target_->ListFolders().status()), v1::REASON_NOT_FOUND);
  ASSERT_TRUE(target_->MakeFolder(kFolder).ok());
  EXPECT_EQ(ReasonOf(target_->ListObjects("mhsm-none").status()), v1::REASON_NOT_FOUND);
  EXPECT_EQ(ReasonOf(target_->Read(kFolder, "manifest", 10).status()), v1::REASON_NOT_FOUND);
}

TEST_F(BackupTargetDirectoryTest, ATargetThatIsAFileIsAFailedTarget) {
  std::ofstream(root_ + "/deep") << "";
  EXPECT_EQ(ReasonOf(target_->MakeFolder(kFolder)), v1::REASON_TARGET_FAILED);
}

}  // namespace
}  // namespace hsm
