// The names and figures scripts rely on: JSON fields, exit codes, one document on standard output, time of a
// call.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "cli/output.h"
#include "common/bytes.h"
#include "tests/testing/dev_cluster.h"
#include "tests/testing/slowdown.h"

namespace hsm::testing {
namespace {

constexpr char kDigest[] = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";  // SHA-256 of "hello"

bool IsNumber(const Json& document, const std::string& path) {
  return cli::Select(document, path).AsNumber().has_value();
}

class CliContractTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { cluster_ = DevCluster::Up(); }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    if (cluster_ == nullptr) GTEST_FAIL() << "no cluster";
  }
  static std::unique_ptr<DevCluster> cluster_;
};
std::unique_ptr<DevCluster> CliContractTest::cluster_;

TEST_F(CliContractTest, UpAnswersInFifteenSeconds) {
  EXPECT_LE(cluster_->up_took(), kSlowdown * absl::Seconds(15));
}

TEST_F(CliContractTest, CreateAndSign) {
  Json key = cluster_->Answer({"key", "create", "--name", "one", "--kty", "EC-HSM", "--curve", "P-256"});
  EXPECT_NE(At(key, "key.kid").find("/keys/one/"), std::string::npos) << key.Dump();
  EXPECT_EQ(At(key, "attributes.enabled"), "true");
  EXPECT_EQ(At(key, "attributes.exp"), "null");
  EXPECT_EQ(At(key, "key.crv"), "P-256");
  Json padded = cluster_->Answer(
      {"key", "sign", "--name", "one", "--algorithm", "ES256", "--digest", std::string(kDigest) + "="});
  Json bare = cluster_->Answer({"key", "sign", "--name", "one", "--algorithm", "ES256", "--digest", kDigest});
  for (const Json& answer : {padded, bare}) {
    auto value = FromBase64Url(At(answer, "value"));
    ASSERT_TRUE(value.has_value());
    EXPECT_EQ(value->size(), 64u);
  }
  Json valid = cluster_->Answer({"key", "verify", "--name", "one", "--algorithm", "ES256", "--digest",
                                 kDigest, "--signature", At(bare, "value")});
  EXPECT_EQ(At(valid, "valid"), "true");
}

TEST_F(CliContractTest, ABadSignatureIsExitCodeOne) {
  cluster_->Answer({"key", "create", "--name", "bad", "--kty", "EC-HSM"});
  Ended ended = cluster_->Qhsm({"key", "verify", "--name", "bad", "--algorithm", "ES256", "--digest", kDigest,
                                "--signature", Base64Url(Bytes(64, 1)), "-o", "json"});
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_EQ(At(ended.Document(), "valid"), "false");
}

TEST_F(CliContractTest, AllKindsOfKeys) {
  struct Kind {
    const char* kty;
    const char* flag;
    const char* value;
  };
  int number = 0;
  for (Kind kind : {Kind{"EC-HSM", "--curve", "P-384"}, Kind{"EC-HSM", "--curve", "P-521"},
                    Kind{"EC-HSM", "--curve", "P-256K"}, Kind{"RSA-HSM", "--size", "2048"},
                    Kind{"oct-HSM", "--size", "128"}, Kind{"oct-HSM", "--size", "256"}}) {
    std::string name = "kind-" + std::to_string(++number);
    Json key = cluster_->Answer({"key", "create", "--name", name, "--kty", kind.kty, kind.flag, kind.value});
    EXPECT_EQ(At(key, "key.kty"), kind.kty);
    Json proofs = cluster_->Answer({"key", "prove", "--name", name});
    EXPECT_EQ(At(proofs, "partitions[].result"), R"(["proved","proved","proved"])") << name << proofs.Dump();
  }
}

TEST_F(CliContractTest, EncryptAndWrapComeBack) {
  cluster_->Answer({"key", "create", "--name", "aes", "--kty", "oct-HSM", "--size", "256"});
  Json sealed =
      cluster_->Answer({"key", "encrypt", "--name", "aes", "--algorithm", "A256GCM", "--value", "aGVsbG8"});
  Json opened = cluster_->Answer({"key", "decrypt", "--name", "aes", "--algorithm", "A256GCM", "--value",
                                  At(sealed, "value"), "--iv", At(sealed, "iv"), "--tag", At(sealed, "tag")});
  EXPECT_EQ(At(opened, "value"), "aGVsbG8");
  std::string key_bytes = Base64Url(Bytes(32, 7));
  Json wrapped =
      cluster_->Answer({"key", "wrap", "--name", "aes", "--algorithm", "A256KW", "--value", key_bytes});
  Json unwrapped = cluster_->Answer(
      {"key", "unwrap", "--name", "aes", "--algorithm", "A256KW", "--value", At(wrapped, "value")});
  EXPECT_EQ(At(unwrapped, "value"), key_bytes);
}

TEST_F(CliContractTest, StatusHasTheAgreedFields) {
  Json status = cluster_->Answer({"status"});
  const Json* partitions = status.Find("partitions");
  ASSERT_NE(partitions, nullptr);
  ASSERT_EQ(partitions->items().size(), 3u);
  for (const Json& partition : partitions->items()) {
    EXPECT_EQ(At(partition, "state"), "READY");
    for (const char* figure : {"keys", "proved", "ops_per_second"}) {
      ASSERT_NE(partition.Find(figure), nullptr) << figure;
      EXPECT_TRUE(partition.Find(figure)->AsNumber().has_value()) << figure;
    }
    EXPECT_EQ(At(partition, "busy"), "null");
  }
  EXPECT_EQ(At(status, "quorum.have"), "3");
  EXPECT_EQ(At(status, "quorum.need"), "2");
  EXPECT_NE(At(status, "warnings").find("unprotected-domain"), std::string::npos);
}

TEST_F(CliContractTest, ANewKeyIsCountedAtOnceByEveryPartition) {
  // With the heartbeat of each second alone, hardly one look in ten would find all three right.
  int right = 0;
  for (int i = 0; i < 10; ++i) {
    cluster_->Answer({"key", "create", "--name", "counted" + std::to_string(i), "--kty", "oct-HSM"});
    Json status = cluster_->Answer({"status"});
    const std::string all = At(status, "versions");
    if (At(status, "partitions[].proved") == "[" + all + "," + all + "," + all + "]") ++right;
  }
  EXPECT_GE(right, 5);
}

TEST_F(CliContractTest, VersionsAttributesAndDelete) {
  cluster_->Answer({"key", "create", "--name", "life", "--kty", "EC-HSM", "--tags", "team=a", "use=b"});
  Json rotated = cluster_->Answer({"key", "rotate", "--name", "life"});
  Json versions = cluster_->Answer({"key", "list-versions", "--name", "life"});
  EXPECT_EQ(versions.Find("keys")->items().size(), 2u);
  Json off = cluster_->Answer({"key", "set-attributes", "--name", "life", "--enabled", "false"});
  EXPECT_EQ(At(off, "attributes.enabled"), "false");
  EXPECT_EQ(At(off, "tags.team"), "a");
  Ended refused = cluster_->Qhsm(
      {"key", "sign", "--name", "life", "--algorithm", "ES256", "--digest", kDigest, "-o", "json"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(At(refused.Document(), "error.code"), "KEY_DISABLED");
  Json deleted = cluster_->Answer({"key", "delete", "--name", "life"});
  EXPECT_EQ(At(deleted, "name"), "life");
  EXPECT_NE(At(deleted, "scheduled_purge_date"), "null");
  Ended gone = cluster_->Qhsm({"key", "show", "--name", "life", "-o", "json"});
  EXPECT_EQ(gone.exit_code, 1);
  EXPECT_EQ(At(gone.Document(), "error.code"), "KEY_NOT_FOUND");
  EXPECT_EQ(At(cluster_->Answer({"key", "list-deleted"}), "keys[].name"), "[\"life\"]");
  EXPECT_EQ(At(cluster_->Answer({"key", "show-deleted", "--name", "life"}), "name"), "life");
  Ended taken = cluster_->Qhsm({"key", "create", "--name", "life", "--kty", "EC-HSM", "-o", "json"});
  EXPECT_EQ(At(taken.Document(), "error.code"), "KEY_EXISTS");
  Json back = cluster_->Answer({"key", "recover", "--name", "life"});
  EXPECT_EQ(At(back, "version"), At(rotated, "version"));
  EXPECT_EQ(cluster_->Answer({"key", "list-versions", "--name", "life"}).Find("keys")->items().size(), 2u);
  cluster_->Answer({"key", "delete", "--name", "life"});
  EXPECT_EQ(At(cluster_->Answer({"key", "purge", "--name", "life"}), "versions"), "2");
  EXPECT_EQ(At(cluster_->Answer({"key", "list-deleted"}), "keys[].name"), "[]");
  cluster_->Answer({"key", "create", "--name", "life", "--kty", "EC-HSM"});
}

TEST_F(CliContractTest, ErrorsAreDocumentsOnStandardOutput) {
  struct Case {
    std::vector<std::string> arguments;
    int exit_code;
    const char* code;
  };
  for (const Case& tested :
       {Case{{"key", "show", "--name", "nobody"}, 1, "KEY_NOT_FOUND"},
        Case{{"key", "sign", "--name", "nobody", "--algorithm", "ES256", "--digest", kDigest},
             1,
             "KEY_NOT_FOUND"},
        Case{{"key", "create"}, 2, "INVALID_ARGUMENT"}, Case{{"nonsense"}, 2, "INVALID_ARGUMENT"},
        Case{{"key", "create", "--name", "bad name", "--kty", "EC-HSM"}, 1, "INVALID_ARGUMENT"},
        Case{{"backup", "plan", "--min-throughput", "1.8"}, 1, "INVALID_ARGUMENT"},
        Case{{"job", "show", "--id", "00000000000000000000000000000000"}, 1, "NOT_FOUND"},
        Case{{"backup", "start", "--target", "relative"}, 1, "INVALID_ARGUMENT"}}) {
    std::vector<std::string> arguments = tested.arguments;
    arguments.insert(arguments.end(), {"-o", "json"});
    Ended ended = cluster_->Qhsm(arguments);
    EXPECT_EQ(ended.exit_code, tested.exit_code) << ended.out;
    Json document = ended.Document();
    EXPECT_EQ(At(document, "error.code"), tested.code) << ended.out;
    EXPECT_NE(At(document, "error.message"), "null");
    EXPECT_NE(At(document, "error.hint"), "null");
  }
}

TEST_F(CliContractTest, NobodyToAskIsExitCodeThree) {
  Ended ended = RunProgram({ProgramPath("qhsm"), "status", "-o", "json", "--timeout", "1"},
                           {{"QHSM_ENDPOINT", "127.0.0.1:1"},
                            {"QHSM_CA", cluster_->Folder("ca/tls.crt")},
                            {"QHSM_CERTIFICATE", cluster_->Folder("admin/tls.crt")},
                            {"QHSM_KEY", cluster_->Folder("admin/tls.key")},
                            {"QHSM_HSM", "test"}});
  EXPECT_EQ(ended.exit_code, 3) << ended.out;
  EXPECT_EQ(At(ended.Document(), "error.code"), "UNREACHABLE");
}

TEST_F(CliContractTest, ACallTakesAtMostAHundredMilliseconds) {
  // CPU time of the fastest call: what remains on an idle machine, also when this one is busy.
  absl::Duration fastest = absl::InfiniteDuration();
  for (int i = 0; i < 9; ++i) fastest = std::min(fastest, cluster_->Qhsm({"status", "-o", "json"}).cpu);
  EXPECT_LE(fastest, kSlowdown * absl::Milliseconds(100)) << absl::FormatDuration(fastest);
}

TEST_F(CliContractTest, EnvPrintsOnlyExportLines) {
  Ended ended = cluster_->Qhsm({"dev", "env", "--data", cluster_->data()});
  EXPECT_EQ(ended.exit_code, 0);
  std::string rest = ended.out;
  int lines = 0;
  for (size_t end; (end = rest.find('\n')) != std::string::npos; rest.erase(0, end + 1), ++lines) {
    EXPECT_TRUE(rest.starts_with("export QHSM_")) << rest;
  }
  EXPECT_GE(lines, 5);
}

TEST_F(CliContractTest, BackupAndRestore) {
  cluster_->Answer({"key", "create", "--name", "kept", "--kty", "EC-HSM"});
  Json before =
      cluster_->Answer({"key", "sign", "--name", "kept", "--algorithm", "ES256", "--digest", kDigest});
  std::string target = cluster_->Folder("backups/here");
  Json plan = cluster_->Answer({"backup", "plan"});
  EXPECT_NE(At(plan, "forecast.busy_partitions"), "null");
  Json backup = cluster_->Answer({"backup", "start", "--target", target, "--wait"});
  EXPECT_EQ(At(backup, "status"), "succeeded");
  EXPECT_NE(At(backup, "job_id"), "null");
  std::string folder = At(backup, "folder");
  EXPECT_EQ(folder.find('/'), std::string::npos);
  EXPECT_TRUE(folder.starts_with("mhsm-test-")) << folder;
  for (const char* figure :
       {"keys", "versions", "forecast.seconds", "forecast.ratio", "measured.seconds", "measured.ratio",
        "measured.baseline_ops", "measured.during_ops", "measured.window_seconds"}) {
    EXPECT_TRUE(IsNumber(backup, figure)) << figure << " in " << backup.Dump();
  }
  EXPECT_TRUE((std::set<std::string>{"probe", "traffic"}.contains(At(backup, "measured.source"))));
  cluster_->Answer({"backup", "verify", "--target", target, "--folder", folder});
  cluster_->Answer({"key", "delete", "--name", "kept"});
  cluster_->Answer({"key", "create", "--name", "later", "--kty", "EC-HSM"});
  Json restore = cluster_->Answer({"restore", "start", "--target", target, "--folder", folder, "--wait"});
  EXPECT_EQ(At(restore, "status"), "succeeded");
  EXPECT_EQ(At(restore, "keys_restored"), At(backup, "keys"));
  Json valid = cluster_->Answer({"key", "verify", "--name", "kept", "--algorithm", "ES256", "--digest",
                                 kDigest, "--signature", At(before, "value")});
  EXPECT_EQ(At(valid, "valid"), "true");
  EXPECT_EQ(cluster_->Qhsm({"key", "show", "--name", "later"}).exit_code, 1);
}

}  // namespace
}  // namespace hsm::testing
