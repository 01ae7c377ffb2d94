// A wiped token healed by an officer's approval, on real tokens; and what all that was secret on the way left
// behind: nothing in logs, stores, configurations, command lines, environments or core files.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cli/output.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "tests/testing/dev_cluster.h"

namespace hsm::testing {
namespace {

namespace fs = std::filesystem;
constexpr char kDigest[] = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";
constexpr char kCanary[] = "canary-in-plaintext-0123456789ab";  // 32 bytes: also a key for A256KW

std::string Content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
std::string Trimmed(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class SecretsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    cluster_ = DevCluster::Up();
    ASSERT_NE(cluster_, nullptr);
    for (const char* partition : {"p1", "p2", "p3"}) {
      for (const char* pin : {"pin", "so-pin"}) {
        std::string file = cluster_->Folder(std::string(partition) + "/" + pin);
        secrets_[file] = Trimmed(Content(file));
        ASSERT_GE(secrets_[file].size(), 8u);
      }
    }
    secrets_["what callers sent"] = kCanary;
    secrets_["what callers sent, base64url"] = Base64Url(View(std::string_view(kCanary)));
    secrets_["what callers sent, hex"] = Hex(View(std::string_view(kCanary)));
  }

  std::vector<int> Pids() const {
    std::vector<int> pids;
    Json status = cluster_->Answer({"dev", "status"});
    for (const Json& process : status.Find("processes")->items()) {
      if (auto pid = process.Find("pid")->AsInteger()) pids.push_back(static_cast<int>(*pid));
    }
    return pids;
  }
  void ExpectNoSecret(const std::string& text, const std::string& where,
                      const std::string& except = "") const {
    for (const auto& [name, secret] : secrets_) {
      if (name == except) continue;
      EXPECT_EQ(text.find(secret), std::string::npos) << name << " is in " << where;
    }
  }

  // What a partition's message says behind `text`, once it is in there.
  std::string AwaitMessage(const std::string& partition, const std::string& text) const {
    for (Deadline deadline(RealClock(), absl::Seconds(60)); !deadline.Passed();
         PauseFor(absl::Milliseconds(200))) {
      Ended ended = cluster_->Qhsm({"partition", "show", partition, "--query", "message"});
      size_t at = ended.out.find(text);
      if (at != std::string::npos) return ended.out.substr(at + text.size());
    }
    ADD_FAILURE() << cluster_->Qhsm({"status"}).out;
    return "";
  }

  std::unique_ptr<DevCluster> cluster_;
  std::map<std::string, std::string> secrets_;
};

TEST_F(SecretsTest, AnOfficerApprovesAWipedTokenAndNoSecretIsLeftAnywhere) {
  cluster_->Answer({"key", "create", "--name", "ec", "--kty", "EC-HSM"});
  cluster_->Answer({"key", "create", "--name", "aes", "--kty", "oct-HSM", "--size", "256"});
  std::string payload = cluster_->Folder("payload");
  std::ofstream(payload) << kCanary;
  std::string data = cluster_->data();
  ASSERT_EQ(cluster_->Qhsm({"dev", "down", "--data", data}).exit_code, 0);
  for (const auto& entry : fs::directory_iterator(cluster_->Folder("p3/tokens"))) fs::remove_all(entry);
  // p3 cannot come up: it waits for its own SO and for the approval of another partition's.
  Ended up = cluster_->Qhsm(
      {"dev", "up", "--data", data, "--healing", "approved", "--detach", "--timeout", "120", "--no-wait"});
  ASSERT_EQ(up.exit_code, 0) << up.err;

  // Only now does it know that its token is empty; a partition with domain keys refuses the file.
  AwaitMessage("p3", "has made no join key");
  fs::copy_file(cluster_->Folder("p3/so-pin"), cluster_->Folder("p3/so-pin-for-join"));
  std::string fingerprint = AwaitMessage("p3", "--fingerprint ").substr(0, 64);
  fs::remove(cluster_->Folder("p3/so-pin-for-join"));
  Ended wrong = cluster_->Qhsm({"partition", "approve", "p3", "--fingerprint", std::string(64, '0'),
                                "--sponsor-certificate", cluster_->Folder("p1/tls.crt"), "--so-pin-file",
                                cluster_->Folder("p1/so-pin"), "-o", "json"});
  EXPECT_EQ(At(wrong.Document(), "error.code"), "CONFLICT");
  Ended approved = cluster_->Qhsm({"partition", "approve", "p3", "--fingerprint", fingerprint,
                                   "--sponsor-certificate", cluster_->Folder("p1/tls.crt"), "--so-pin-file",
                                   cluster_->Folder("p1/so-pin"), "-o", "json"});
  ASSERT_EQ(approved.exit_code, 0) << approved.out;
  ASSERT_TRUE(cluster_->AwaitReady());
  EXPECT_EQ(At(cluster_->Answer({"key", "prove", "--name", "ec"}), "partitions[].result"),
            R"(["proved","proved","proved"])");

  cluster_->Answer({"key", "sign", "--name", "ec", "--algorithm", "ES256", "--digest", kDigest});
  Json sealed =
      cluster_->Answer({"key", "encrypt", "--name", "aes", "--algorithm", "A256GCM", "--data-file", payload});
  cluster_->Answer({"key", "decrypt", "--name", "aes", "--algorithm", "A256GCM", "--value",
                    At(sealed, "value"), "--iv", At(sealed, "iv"), "--tag", At(sealed, "tag")});
  Json wrapped =
      cluster_->Answer({"key", "wrap", "--name", "aes", "--algorithm", "A256KW", "--data-file", payload});
  cluster_->Answer(
      {"key", "unwrap", "--name", "aes", "--algorithm", "A256KW", "--value", At(wrapped, "value")});
  Ended bad = cluster_->Qhsm(
      {"key", "sign", "--name", "ec", "--algorithm", "ES256", "--data-file", payload, "--digest", kDigest});
  ExpectNoSecret(bad.out + bad.err, "an error");
  std::string target = cluster_->Folder("backups");
  cluster_->Answer({"backup", "start", "--target", target, "--wait"});
  ExpectNoSecret(cluster_->Qhsm({"audit", "show", "-o", "json"}).out, "the audit log");

  for (int pid : Pids()) {
    std::string proc = "/proc/" + std::to_string(pid);
    ExpectNoSecret(Content(proc + "/cmdline"), proc + "/cmdline");
    ExpectNoSecret(Content(proc + "/environ"), proc + "/environ");
    std::string limits = Content(proc + "/limits");
    EXPECT_NE(limits.find("Max core file size        0                    0"), std::string::npos)
        << proc << " could leave a core file\n"
        << limits;
  }
  ASSERT_EQ(cluster_->Qhsm({"dev", "down", "--data", data}).exit_code, 0);
  size_t files = 0;
  fs::remove(payload);
  for (const auto& entry : fs::recursive_directory_iterator(data)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    ExpectNoSecret(Content(entry.path()), entry.path().string(), entry.path().string());
  }
  EXPECT_GT(files, 30u) << "logs, stores, tokens, configurations, the backup";
}

// The other way round: beside the file with the SO PIN no partition serves.
TEST_F(SecretsTest, WithApprovedHealingNothingServesBesideAnSoPin) {
  std::string data = cluster_->data();
  ASSERT_EQ(cluster_->Qhsm({"dev", "down", "--data", data}).exit_code, 0);
  fs::copy_file(cluster_->Folder("p2/so-pin"), cluster_->Folder("p2/so-pin-for-join"));
  ASSERT_EQ(cluster_
                ->Qhsm({"dev", "up", "--data", data, "--healing", "approved", "--detach", "--timeout", "60",
                        "--no-wait"})
                .exit_code,
            0);
  std::string state, message;
  for (Deadline deadline(RealClock(), absl::Seconds(30)); state != "REFUSED" && !deadline.Passed();
       PauseFor(absl::Milliseconds(200))) {
    Json shown = Json::Parse(cluster_->Qhsm({"partition", "show", "p2", "-o", "json"}).out).value_or(Json());
    state = At(shown, "state");
    message = At(shown, "message");
  }
  EXPECT_EQ(state, "REFUSED");
  EXPECT_NE(message.find("so-pin-for-join"), std::string::npos) << message;
}

}  // namespace
}  // namespace hsm::testing
