#include "node/use_audit.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "common/error.h"
#include "common/file.h"
#include "tests/testing/eventually.h"

namespace hsm {
namespace {

using testing::Eventually;

class UseAuditTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/use-audit-XXXXXX";
    directory_ = mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::unique_ptr<UseAudit> Open() {
    auto audit = UseAudit::Open({.directory = directory_,
                                 .node = "p1",
                                 .batch = absl::Milliseconds(1),
                                 .file_bytes_max = file_bytes_max_,
                                 .files_max = files_max_},
                                RealClock());
    EXPECT_TRUE(audit.ok()) << audit.status();
    return audit.ok() ? std::move(*audit) : nullptr;
  }
  static UseEntry Entry(uint64_t n) {
    UseEntry entry;
    entry.time_us = 1'800'000'000'000'000 + static_cast<int64_t>(n);
    entry.uid.value[0] = static_cast<uint8_t>(n);
    entry.operation = v1::CRYPTO_OPERATION_SIGN;
    entry.algorithm = v1::ALGORITHM_ES256;
    entry.correlation = n;
    return entry;
  }
  std::string OnlyFile() { return JoinPath(directory_, ListDirectory(directory_)->front()); }

  std::string directory_;
  uint64_t file_bytes_max_ = 1 << 20;
  size_t files_max_ = 100;
};

TEST_F(UseAuditTest, EntriesComeBackInOrderAndTheChainVerifies) {
  UseAuditHead head;
  {
    auto audit = Open();
    for (uint64_t n = 1; n <= 500; ++n) ASSERT_TRUE(audit->Append(Entry(n)).ok());
    ASSERT_TRUE(audit->Flush().ok());
    head = audit->Head();
  }
  std::vector<UseEntry> entries;
  auto summary = VerifyUseAudit(directory_, &entries);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->head, head);
  ASSERT_EQ(entries.size(), 500u);
  EXPECT_EQ(entries[41].sequence, 42u);
  EXPECT_EQ(entries[41].correlation, 42u);
}

TEST_F(UseAuditTest, GoesOnAfterARestart) {
  for (int run = 0; run < 3; ++run) {
    auto audit = Open();
    for (uint64_t n = 0; n < 10; ++n) ASSERT_TRUE(audit->Append(Entry(n)).ok());
  }
  auto summary = VerifyUseAudit(directory_, nullptr);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->head.sequence, 30u);
}

TEST_F(UseAuditTest, EveryChangedByteIsFound) {
  {
    auto audit = Open();
    for (uint64_t n = 0; n < 5; ++n) ASSERT_TRUE(audit->Append(Entry(n)).ok());
  }
  Bytes good = *ReadFile(OnlyFile(), 1 << 20);
  // From behind the header (magic, name) to the end; a changed length only makes a tail, which `torn_bytes`
  // shows.
  for (size_t at = 10; at < good.size(); at += 3) {
    Bytes bad = good;
    bad[at] ^= 1;
    ASSERT_TRUE(WriteFileAtomic(OnlyFile(), bad).ok());
    auto summary = VerifyUseAudit(directory_, nullptr);
    EXPECT_TRUE(!summary.ok() || summary->torn_bytes > 0) << "byte " << at;
  }
}

TEST_F(UseAuditTest, ABlockCutShortByACrashIsRemovedAndTheChainGoesOn) {
  {
    auto audit = Open();
    ASSERT_TRUE(audit->Append(Entry(1)).ok());
    ASSERT_TRUE(audit->Flush().ok());
    ASSERT_TRUE(audit->Append(Entry(2)).ok());
  }
  Bytes content = *ReadFile(OnlyFile(), 1 << 20);
  content.resize(content.size() - 7);
  ASSERT_TRUE(WriteFileAtomic(OnlyFile(), content).ok());
  EXPECT_GT(VerifyUseAudit(directory_, nullptr)->torn_bytes, 0u);
  {
    auto audit = Open();
    EXPECT_EQ(audit->Head().sequence, 1u);
    ASSERT_TRUE(audit->Append(Entry(3)).ok());
  }
  auto summary = VerifyUseAudit(directory_, nullptr);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->head.sequence, 2u);
  EXPECT_EQ(summary->torn_bytes, 0u);
}

TEST_F(UseAuditTest, FilesRotateAndTheOldestGo) {
  file_bytes_max_ = 1000;
  files_max_ = 3;
  auto audit = Open();
  for (uint64_t n = 0; n < 200; ++n) {
    ASSERT_TRUE(audit->Append(Entry(n)).ok());
    if (n % 10 == 0) {
      ASSERT_TRUE(audit->Flush().ok());
    }
  }
  ASSERT_TRUE(audit->Flush().ok());
  auto summary = VerifyUseAudit(directory_, nullptr);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_LE(summary->files, 3u);
  EXPECT_GT(summary->first_sequence, 1u);
  EXPECT_EQ(summary->head.sequence, 200u);
}

TEST_F(UseAuditTest, AMissingFileInTheMiddleIsFound) {
  file_bytes_max_ = 500;
  {
    auto audit = Open();
    for (uint64_t n = 0; n < 60; ++n) {
      ASSERT_TRUE(audit->Append(Entry(n)).ok());
      ASSERT_TRUE(audit->Flush().ok());
    }
  }
  auto files = *ListDirectory(directory_);
  ASSERT_GT(files.size(), 3u);
  ASSERT_TRUE(RemoveFile(JoinPath(directory_, files[1])).ok());
  EXPECT_EQ(ReasonOf(VerifyUseAudit(directory_, nullptr).status()), v1::REASON_RECORD_CORRUPT);
}

TEST_F(UseAuditTest, WhatCannotBeWrittenStopsAllUse) {
  auto audit = Open();
  std::filesystem::remove_all(directory_);  // the first block needs a file that cannot be made now
  EXPECT_TRUE(audit->Append(Entry(1)).ok());
  EXPECT_EQ(ReasonOf(audit->Flush()), v1::REASON_AUDIT_FAILED);
  EXPECT_EQ(ReasonOf(audit->Append(Entry(2))), v1::REASON_AUDIT_FAILED);
  ASSERT_TRUE(MakeDirectories(directory_).ok());
  // It tries again by itself, and keeps what it had.
  ASSERT_TRUE(Eventually([&] { return audit->Append(Entry(3)).ok(); }));
  ASSERT_TRUE(audit->Flush().ok());
  auto summary = VerifyUseAudit(directory_, nullptr);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->head.sequence, 2u);
}

TEST(UseAuditMemoryTest, WithoutADirectoryOnlyTheChainIsKept) {
  auto audit = *UseAudit::Open({.node = "p1", .batch = absl::Milliseconds(1)}, RealClock());
  ASSERT_TRUE(audit->Append(UseEntry{}).ok());
  ASSERT_TRUE(audit->Flush().ok());
  EXPECT_EQ(audit->Head().sequence, 1u);
  EXPECT_NE(audit->Head().hash, Bytes(32));
}

}  // namespace
}  // namespace hsm
