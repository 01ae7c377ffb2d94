// Commands for operators, as a person types them: partitions, jobs, roll-back, figures and texts for other
// programs.
#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/documents.h"
#include "cli/output.h"
#include "tests/testing/dev_cluster.h"

namespace hsm::testing {
namespace {

constexpr char kDigest[] = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// What `script` prints under bash.
std::string Bash(const std::string& script) {
  Ended ended = RunProgram({"/bin/bash", "-c", "PATH=" + ProgramPath("") + ":$PATH\n" + script});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  while (!ended.out.empty() && ended.out.back() == '\n') ended.out.pop_back();
  return ended.out;
}

class CliCommandsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { cluster_ = DevCluster::Up({"--profile", "luna-a790"}); }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override { ASSERT_NE(cluster_, nullptr); }
  static std::unique_ptr<DevCluster> cluster_;
};
std::unique_ptr<DevCluster> CliCommandsTest::cluster_;

TEST_F(CliCommandsTest, APartitionIsDrainedAndResumedByName) {
  EXPECT_EQ(At(cluster_->Answer({"partition", "drain", "p2"}), "state"), "DRAINED");
  EXPECT_EQ(At(cluster_->Answer({"status"}), "quorum.have"), "2");
  EXPECT_EQ(At(cluster_->Answer({"partition", "show", "p2"}), "state"), "DRAINED");
  EXPECT_EQ(At(cluster_->Answer({"partition", "list"}), "partitions[].name"), R"(["p1","p2","p3"])");
  cluster_->Answer({"partition", "resume", "--name", "p2"});
  EXPECT_TRUE(cluster_->AwaitReady());
  Ended unknown = cluster_->Qhsm({"partition", "drain", "p9", "-o", "json"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_EQ(At(unknown.Document(), "error.code"), "NOT_FOUND");
  Ended approved = cluster_->Qhsm({"partition", "approve", "p2", "--fingerprint", "00",
                                   "--sponsor-certificate", cluster_->Folder("p1/tls.crt"), "--so-pin-file",
                                   cluster_->Folder("p1/so-pin"), "-o", "json"});
  EXPECT_EQ(At(approved.Document(), "error.code"), "CONFLICT") << "it waits for nothing";
}

TEST_F(CliCommandsTest, AProofSaysWhoCouldNotBeAsked) {
  cluster_->Answer({"key", "create", "--name", "proved", "--kty", "EC-HSM"});
  cluster_->Kill("p3");
  EXPECT_EQ(At(cluster_->Answer({"key", "prove", "--name", "proved"}), "partitions[].result"),
            R"(["proved","proved","unreachable"])");
  cluster_->Start("p3");
  EXPECT_TRUE(cluster_->AwaitReady());
}

TEST_F(CliCommandsTest, ReportsSayProfileAndBackend) {
  Json status = cluster_->Answer({"status"});
  EXPECT_EQ(At(status, "partitions[0].profile"), "luna-a790");
  EXPECT_TRUE(Has(At(status, "partitions[0].backend"), "SoftHSM"));
  EXPECT_EQ(At(cluster_->Answer({"backup", "plan"}), "profile"), "luna-a790");
  std::string target = cluster_->Folder("profiled");
  Json backup = cluster_->Answer({"backup", "start", "--target", target, "--wait"});
  EXPECT_EQ(At(backup, "profile"), "luna-a790");
  EXPECT_TRUE(Has(At(backup, "backend"), "SoftHSM"));
}

TEST_F(CliCommandsTest, ARestoreIsRolledBackAndJobsAreListed) {
  cluster_->Answer({"key", "create", "--name", "before", "--kty", "EC-HSM"});
  std::string target = cluster_->Folder("backups");
  Json backup = cluster_->Answer({"backup", "start", "--target", target, "--wait"});
  cluster_->Answer({"key", "create", "--name", "after", "--kty", "EC-HSM"});
  Json restore =
      cluster_->Answer({"restore", "start", "--target", target, "--folder", At(backup, "folder"), "--wait"});
  EXPECT_EQ(cluster_->Qhsm({"key", "show", "--name", "after"}).exit_code, 1);
  EXPECT_EQ(At(cluster_->Answer({"restore", "show", "--id", At(restore, "job_id")}), "status"), "succeeded");
  cluster_->Answer({"key", "set-attributes", "--name", "before", "--enabled", "false"});
  Ended refused = cluster_->Qhsm({"restore", "rollback", "-o", "json"});
  EXPECT_EQ(At(refused.Document(), "error.code"), "CONFLICT") << refused.out;
  EXPECT_EQ(At(cluster_->Answer({"restore", "rollback", "--discard-changes"}), "status"), "rolled_back");
  cluster_->Answer({"key", "sign", "--name", "after", "--algorithm", "ES256", "--digest", kDigest});
  Ended revoked = cluster_->Qhsm(
      {"key", "sign", "--name", "before", "--algorithm", "ES256", "--digest", kDigest, "-o", "json"});
  EXPECT_EQ(At(revoked.Document(), "error.code"), "KEY_DISABLED") << "a roll-back gives nothing back";
  Json jobs = cluster_->Answer({"job", "list"});
  const std::string ids = At(jobs, "jobs[].job_id");
  EXPECT_GE(jobs.Find("jobs")->items().size(), 3u);
  EXPECT_LT(ids.find(At(restore, "job_id")), ids.find(At(backup, "job_id"))) << "newest first: " << ids;
  EXPECT_EQ(At(cluster_->Answer({"backup", "show", At(backup, "job_id")}), "status"), "succeeded");
  EXPECT_TRUE(Has(cluster_->Qhsm({"audit", "show"}).out, "SwitchDataSet"));
}

TEST_F(CliCommandsTest, MetricsAreWhatPrometheusReads) {
  cluster_->Answer({"key", "create", "--name", "counted", "--kty", "EC-HSM"});
  Ended ended = cluster_->Qhsm({"metrics"});
  ASSERT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_TRUE(Has(ended.out, "qhsm_quorum_have{hsm=\"test\"} 3\n")) << ended.out;
  EXPECT_TRUE(Has(ended.out, "qhsm_partition_state{hsm=\"test\",partition=\"p2\",state=\"READY\"} 1\n"));
  EXPECT_TRUE(Has(ended.out, "# TYPE qhsm_partition_operations_total counter\n"));
  EXPECT_TRUE(Has(ended.out, "profile=\"luna-a790\""));
  // Each line is a comment or NAME{LABELS} VALUE, and each name was announced by a TYPE line before.
  std::istringstream lines(ended.out);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# ")) continue;
    std::string name = line.substr(0, line.find_first_of("{ "));
    EXPECT_TRUE(Has(ended.out, "# TYPE " + name + " ")) << line;
    EXPECT_NE(line.rfind("} "), std::string::npos) << line;
  }
  std::string file = cluster_->Folder("qhsm.prom");
  EXPECT_EQ(cluster_->Qhsm({"metrics", "--to-file", file}).exit_code, 0);
  std::ifstream written(file);
  std::string first;
  std::getline(written, first);
  EXPECT_TRUE(first.starts_with("# HELP qhsm_")) << first;
}

TEST_F(CliCommandsTest, BenchHasTheAgreedFields) {
  Json bench = cluster_->Answer({"bench", "--cases", "sign-p256", "--callers", "2", "--faces", "token",
                                 "cluster", "--seconds", "0.3", "--rounds", "1", "--data", cluster_->data()},
                                absl::Seconds(90));
  EXPECT_NE(bench.Find("environment"), nullptr);
  const Json* rows = bench.Find("rows");
  ASSERT_TRUE(rows != nullptr && rows->items().size() == 2) << bench.Dump();
  for (const Json& row : rows->items()) {
    for (const char* field : {"face", "op", "key", "callers", "ops_per_second", "cpu_us", "r", "p50_us",
                              "p99_us", "dropped_rounds"}) {
      EXPECT_NE(row.Find(field), nullptr) << field;
    }
    for (const char* process : {"client", "coordinator", "node"}) {
      EXPECT_NE(row.Find("cpu_us")->Find(process), nullptr) << process;
    }
  }
  EXPECT_EQ(At(rows->items()[0], "cpu_us.coordinator"), "null") << "the bare token has none: absent, not 0";
  EXPECT_TRUE(rows->items()[1].Find("cpu_us")->Find("node")->AsNumber().has_value());
}

TEST(CliTextsTest, BashCompletes) {
  std::string load = "source <(qhsm completion bash)\n";
  auto complete = [&](const std::string& words) {
    return Bash(load + "COMP_WORDS=(" + words +
                "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _qhsm; echo ${COMPREPLY[@]}");
  };
  EXPECT_EQ(complete("qhsm key cr"), "create");
  EXPECT_EQ(complete("qhsm -o json backup ver"), "verify");
  EXPECT_EQ(complete("qhsm key create --kty EC"), "EC-HSM EC");
  EXPECT_EQ(complete("qhsm key create --cur"), "--curve");
  EXPECT_EQ(complete("qhsm dev kill p2 --signal ''"), "KILL STOP");
  EXPECT_EQ(complete("qhsm status --output ''"), "table json");
  EXPECT_TRUE(Has(complete("qhsm ''"), "metrics"));
  EXPECT_FALSE(Has(complete("qhsm dev ''"), "supervise")) << "hidden";
}

TEST(CliTextsTest, TheManualHasEveryCommandAndNoRoffAccidents) {
  std::string page = RunProgram({ProgramPath("qhsm"), "man"}).out;
  EXPECT_TRUE(page.starts_with(".TH qhsm 1"));
  for (const char* part :
       {"qhsm key create", "qhsm backup start", "qhsm dev up", "\\-\\-sponsor\\-certificate", "Examples:"})
    EXPECT_TRUE(Has(page, part)) << part;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with('.')) continue;
    std::string macro = line.substr(1, 2);
    EXPECT_TRUE(Has("TH SH SS TP PP nf fi", macro)) << line;
  }
}

TEST(CliTextsTest, FiguresOfAPartitionNobodyHasHeardOfAreAbsent) {
  v1::PartitionStatus partition;
  partition.set_state(v1::PARTITION_STATE_DOWN);
  Json shown = cli::PartitionJson(partition);
  for (const char* figure : {"keys", "proved", "ops_per_second"})
    EXPECT_EQ(At(shown, figure), "null") << figure;
  partition.set_backend("SoftHSM");
  EXPECT_EQ(At(cli::PartitionJson(partition), "keys"), "0");
}

TEST(CliTextsTest, FiguresOfARefusedPartitionWithoutATokenAreAbsent) {
  v1::PartitionStatus partition;
  partition.set_state(v1::PARTITION_STATE_REFUSED);
  EXPECT_EQ(At(cli::PartitionJson(partition), "keys"), "null");
}

TEST(CliTextsTest, FiguresOfABackupThatCountedNothingAreAbsent) {
  v1::Job job;
  job.set_kind("backup");
  job.set_status(v1::JOB_STATUS_FAILED);
  job.set_ended(1);
  job.mutable_backup()->set_folder("mhsm-demo-1");
  Json shown = cli::JobJson(job);
  for (const char* figure : {"total", "keys", "versions", "bytes", "snapshot_revision", "measured.ratio"})
    EXPECT_EQ(At(shown, figure), "null") << figure;
  EXPECT_FALSE(Has(cli::JobTable(job), " 0 ")) << cli::JobTable(job);
  job.set_total(3);
  EXPECT_EQ(At(cli::JobJson(job), "keys"), "0");
}

TEST(CliTextsTest, HelpTeachesByExamples) {
  for (std::vector<std::string> command : {std::vector<std::string>{"key", "create"},
                                           {"backup", "start"},
                                           {"partition", "approve"},
                                           {"dev", "up"}}) {
    std::vector<std::string> arguments = {ProgramPath("qhsm")};
    arguments.insert(arguments.end(), command.begin(), command.end());
    arguments.push_back("--help");
    Ended ended = RunProgram(arguments);
    EXPECT_EQ(ended.exit_code, 0);
    EXPECT_TRUE(Has(ended.out, "Examples:\n  qhsm ")) << ended.out;
  }
}

// `qhsm dev` needs no rights of root and no home directory.
TEST(OrdinaryUserTest, ACluster) {
  const passwd* nobody = getpwnam("nobody");
  if (geteuid() != 0 || nobody == nullptr) GTEST_SKIP() << "not root: every other test shows it already";
  std::string pattern = std::filesystem::temp_directory_path().string() + "/qhsm-nobody.XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  ASSERT_EQ(chown(pattern.c_str(), nobody->pw_uid, nobody->pw_gid), 0);
  std::string data = pattern + "/cluster";
  auto as_nobody = [&](const std::string& script) {
    return RunProgram({"/sbin/runuser", "-u", "nobody", "--", "/bin/bash", "-c",
                       "unset HOME; qhsm() { " + ProgramPath("qhsm") + " \"$@\"; }; " + script},
                      {}, absl::Seconds(90));
  };
  if (as_nobody("test -x " + ProgramPath("qhsm")).exit_code != 0) {
    std::filesystem::remove_all(pattern);
    GTEST_SKIP() << "nobody may not enter the build directory";
  }
  Ended up = as_nobody("qhsm dev up --name nobodys --data " + data + " --detach --timeout 60");
  EXPECT_EQ(up.exit_code, 0) << up.out << up.err;
  Ended used =
      as_nobody("eval \"$(qhsm dev env --data " + data + ")\" && qhsm key create --name k --kty EC-HSM && " +
                "qhsm key sign --name k --algorithm ES256 --digest " + kDigest);
  EXPECT_EQ(used.exit_code, 0) << used.out << used.err;
  Ended down = as_nobody("qhsm dev down --data " + data);
  EXPECT_EQ(down.exit_code, 0) << down.out << down.err;
  std::filesystem::remove_all(pattern);
}

}  // namespace
}  // namespace hsm::testing
