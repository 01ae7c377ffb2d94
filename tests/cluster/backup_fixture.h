#pragma once
// A local cluster with a directory to back up to.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/testing/eventually.h"
#include "tests/testing/local_cluster.h"

namespace hsm::testing {

namespace fs = std::filesystem;

class BackupRestoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "qhsm-backup-XXXXXX";
    root_ = mkdtemp(pattern.data());
    ASSERT_TRUE(cluster_.StartCoordinator());
  }
  void TearDown() override { fs::remove_all(root_); }

  v1::StartBackupRequest BackupRequest() const {
    v1::StartBackupRequest request;
    request.mutable_target()->set_directory(root_);
    return request;
  }
  v1::Job Backup() {
    const auto started = cluster_.jobs().StartBackup(cluster_.caller(), BackupRequest());
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? cluster_.Await(started->job_id()) : v1::Job();
  }
  // The job's id; empty, and the test fails, if it was refused.
  std::string StartRestore(const std::string& folder) {
    v1::StartRestoreRequest request;
    request.mutable_target()->set_directory(root_);
    request.set_folder(folder);
    const auto started = cluster_.jobs().StartRestore(cluster_.caller(), request);
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? started->job_id() : "";
  }
  v1::Job Restore(const std::string& folder) {
    const std::string id = StartRestore(folder);
    return id.empty() ? v1::Job() : cluster_.Await(id);
  }
  // Until it has ended or waits for something it may wait for for a minute.
  v1::Job RestoreUntilItWaits(const std::string& folder) {
    v1::GetJobRequest get;
    get.set_id(StartRestore(folder));
    v1::Job job;
    Eventually([&] {
      if (const auto now = cluster_.jobs().GetJob(cluster_.caller(), get); now.ok()) job = *now;
      return job.ended() != 0 || job.status() == v1::JOB_STATUS_PAUSED;
    });
    return job;
  }
  void CreateKeys(int count) {
    for (int i = 0; i < count; ++i) ASSERT_TRUE(cluster_.Create(fmt::format("k{:03}", i)).ok());
  }
  std::vector<fs::path> Chunks(const std::string& folder) const {
    std::vector<fs::path> chunks;
    for (const auto& entry : fs::directory_iterator(root_ + "/" + folder)) {
      if (entry.path().filename() != "manifest") chunks.push_back(entry.path());
    }
    std::sort(chunks.begin(), chunks.end());
    return chunks;
  }
  v1::BackupSummary Verify(const std::string& folder) {
    v1::VerifyBackupRequest request;
    request.mutable_target()->set_directory(root_);
    request.set_folder(folder);
    const auto summary = cluster_.jobs().VerifyBackup(cluster_.caller(), request);
    EXPECT_TRUE(summary.ok()) << summary.status();
    return summary.value_or(v1::BackupSummary());
  }

  LocalCluster cluster_;
  std::string root_;
};

}  // namespace hsm::testing
