#include "common/file.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"

namespace {
int files_synced = 0, directories_synced = 0;
}  // namespace

// Stands in for the C library's, to see what is synced.
extern "C" int fsync(int descriptor) {
  struct stat found{};
  if (fstat(descriptor, &found) == 0) ++(S_ISDIR(found.st_mode) ? directories_synced : files_synced);
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

namespace hsm {
namespace {

class FileTest : public testing::Test {
 protected:
  FileTest() {
    std::string pattern = testing::TempDir() + "file_test.XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  std::string directory_;
};

TEST_F(FileTest, ReplacesAtOnceAndKeepsModeAndLeavesNothingBeside) {
  ASSERT_TRUE(WriteFileAtomic(Path("a"), View("old")).ok());
  ASSERT_TRUE(WriteFileAtomic(Path("a"), View("new")).ok());
  EXPECT_EQ(ReadTextFile(Path("a"), 100).value(), "new");
  struct stat found;
  ASSERT_EQ(stat(Path("a").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  EXPECT_EQ(ListDirectory(directory_).value(), std::vector<std::string>{"a"});
}

TEST_F(FileTest, ContentAndNameAreOnTheDiskBeforeItReturns) {
  files_synced = directories_synced = 0;
  ASSERT_TRUE(WriteFileAtomic(Path("a"), View("new")).ok());
  EXPECT_EQ(files_synced, 1);
  EXPECT_EQ(directories_synced, 1);
  ASSERT_TRUE(CreateFileDurable(Path("b"), View("new")).ok());
  EXPECT_EQ(files_synced, 2);
  EXPECT_EQ(directories_synced, 2);
}

TEST_F(FileTest, CreateNeverOverwrites) {
  ASSERT_TRUE(CreateFileDurable(Path("a"), View("first")).ok());
  EXPECT_EQ(ReasonOf(CreateFileDurable(Path("a"), View("second"))), v1::REASON_CONFLICT);
  EXPECT_EQ(ReadTextFile(Path("a"), 100).value(), "first");
  EXPECT_EQ(ListDirectory(directory_).value().size(), 1u);
}

TEST_F(FileTest, ReadingHasACap) {
  ASSERT_TRUE(WriteFileAtomic(Path("a"), View("12345")).ok());
  EXPECT_TRUE(ReadFile(Path("a"), 5).ok());
  EXPECT_EQ(ReasonOf(ReadFile(Path("a"), 4).status()), v1::REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(ReasonOf(ReadFile(Path("b"), 4).status()), v1::REASON_NOT_FOUND);
}

TEST_F(FileTest, SecretsLoseTheirNewlineAndMustNotBeEmpty) {
  ASSERT_TRUE(WriteFileAtomic(Path("pin"), View("1234 \r\n\n")).ok());
  EXPECT_TRUE(ReadSecretFile(Path("pin"), 64).value().Equals(View("1234 ")));
  ASSERT_TRUE(WriteFileAtomic(Path("pin"), View("\n")).ok());
  EXPECT_EQ(ReasonOf(ReadSecretFile(Path("pin"), 64).status()), v1::REASON_INVALID_ARGUMENT);
  ASSERT_TRUE(WriteFileAtomic(Path("pin"), View("12345")).ok());
  EXPECT_EQ(ReasonOf(ReadSecretFile(Path("pin"), 4).status()), v1::REASON_LIMIT_EXCEEDED);
}

TEST_F(FileTest, OneHolderOfADirectoryAtATime) {
  {
    auto first = DirectoryLock::Take(directory_);
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(ReasonOf(DirectoryLock::Take(directory_).status()), v1::REASON_LOCKED);
  }
  EXPECT_TRUE(DirectoryLock::Take(directory_).ok());
}

TEST_F(FileTest, MakesDirectoriesAndRefusesAFileInTheWay) {
  EXPECT_TRUE(MakeDirectories(Path("x/y/z")).ok());
  EXPECT_TRUE(MakeDirectories(Path("x/y/z")).ok());
  ASSERT_TRUE(WriteFileAtomic(Path("f"), View("")).ok());
  EXPECT_FALSE(MakeDirectories(Path("f")).ok());
  EXPECT_FALSE(MakeDirectories(Path("f/g")).ok());
}

TEST_F(FileTest, RemovingWhatIsNotThereIsFine) {
  EXPECT_TRUE(RemoveFile(Path("a")).ok());
  ASSERT_TRUE(WriteFileAtomic(Path("a"), View("")).ok());
  EXPECT_TRUE(RemoveFile(Path("a")).ok());
  EXPECT_FALSE(FileExists(Path("a")));
}

}  // namespace
}  // namespace hsm
