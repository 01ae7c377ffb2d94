// What strangers send, what broken tokens and full disks do: a typed answer, nothing changed, every process
// alive.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/output.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/x509.h"
#include "tests/testing/dev_cluster.h"
#include "tests/testing/paths.h"
#include "tests/testing/seeded_random.h"

namespace hsm::testing {
namespace {

namespace fs = std::filesystem;
constexpr char kDigest[] = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

// What a port answers to these bytes, sent without TLS.
std::string Send(const std::string& address, const std::string& bytes) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  timeval wait{.tv_sec = 2, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  std::string out(4096, '\0');
  (void)send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  ssize_t got = recv(fd, out.data(), out.size(), 0);
  close(fd);
  out.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return out;
}

class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = DevCluster::Up({"--module", BinaryDir() + "/tests/libfaulty_module.so"});
    if (cluster_ == nullptr) return;
    cluster_->Answer({"key", "create", "--name", "ec", "--kty", "EC-HSM"});
    cluster_->Answer({"key", "create", "--name", "rsa", "--kty", "RSA-HSM"});
  }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    ASSERT_NE(cluster_, nullptr);
    ASSERT_TRUE(cluster_->AwaitReady());
  }
  static Ended Sign(const std::string& key, const std::string& algorithm) {
    return cluster_->Qhsm(
        {"key", "sign", "--name", key, "--algorithm", algorithm, "--digest", kDigest, "-o", "json"});
  }
  static bool Valid(const std::string& key, const std::string& algorithm, const std::string& signature) {
    return At(cluster_->Answer({"key", "verify", "--name", key, "--algorithm", algorithm, "--digest", kDigest,
                                "--signature", signature}),
              "valid") == "true";
  }
  static std::string Process(const std::string& name, const std::string& field) {
    Json status = cluster_->Answer({"dev", "status"});
    for (const Json& process : status.Find("processes")->items()) {
      if (At(process, "name") == name) return At(process, field);
    }
    return "";
  }
  // Runs `qhsm status` as whoever holds this certificate.
  static Ended StatusAs(const std::string& certificate, const std::string& key) {
    return RunProgram({ProgramPath("qhsm"), "status", "--timeout", "3", "-o", "json"},
                      {{"QHSM_ENDPOINT", Process("coordinator", "address")},
                       {"QHSM_CA", cluster_->Folder("ca/tls.crt")},
                       {"QHSM_CERTIFICATE", certificate},
                       {"QHSM_KEY", key},
                       {"QHSM_HSM", "test"}});
  }
  static void Touch(const std::string& path) { std::ofstream(path) << "on"; }
  static std::unique_ptr<DevCluster> cluster_;
};
std::unique_ptr<DevCluster> BadInputTest::cluster_;

TEST_F(BadInputTest, CertificatesOfOthersAreNotServed) {
  auto authority = IssueCertificate({.common_name = "another CA", .authority = true}, nullptr);
  ASSERT_TRUE(authority.ok());
  auto stranger = IssueCertificate(
      {.common_name = "x", .uris = {"urn:uuid:11111111-2222-3333-4444-555555555555"}}, &*authority);
  ASSERT_TRUE(stranger.ok());
  std::string certificate = cluster_->Folder("stranger.crt"), key = cluster_->Folder("stranger.key");
  ASSERT_TRUE(WriteFileAtomic(certificate, View(stranger->certificate.Pem())).ok());
  ASSERT_TRUE(WriteFileAtomic(key, stranger->key.Pem().Expose()).ok());
  Ended of_another_ca = StatusAs(certificate, key);
  EXPECT_NE(of_another_ca.exit_code, 0);
  EXPECT_EQ(At(of_another_ca.Document(), "error.code"), "UNREACHABLE") << of_another_ca.out;
  // From our CA, but a node's: it names no principal.
  Ended node = StatusAs(cluster_->Folder("p1/tls.crt"), cluster_->Folder("p1/tls.key"));
  EXPECT_EQ(node.exit_code, 1);
  EXPECT_EQ(At(node.Document(), "error.code"), "UNAUTHENTICATED") << node.out;
  // And nobody's answer is taken for the coordinator's: a node is none.
  Ended misled = RunProgram({ProgramPath("qhsm"), "status", "--timeout", "3", "-o", "json"},
                            {{"QHSM_ENDPOINT", Process("p1", "address")},
                             {"QHSM_CA", cluster_->Folder("ca/tls.crt")},
                             {"QHSM_CERTIFICATE", cluster_->Folder("admin/tls.crt")},
                             {"QHSM_KEY", cluster_->Folder("admin/tls.key")},
                             {"QHSM_HSM", "test"}});
  EXPECT_NE(misled.exit_code, 0) << misled.out;
}

TEST_F(BadInputTest, GarbageOnAPortHarmsNobody) {
  SeededRandom random(7);
  std::vector<std::string> pids;
  for (const char* name : {"coordinator", "p1", "p2", "p3"}) pids.push_back(Process(name, "pid"));
  for (const char* name : {"coordinator", "p1"}) {
    std::string address = Process(name, "address");
    Send(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    Send(address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string(100'000, '\xff'));
    Send(address, std::string("\x16\x03\x01\xff\xff\x01", 6));
    for (size_t size : {1, 100, 60'000}) Send(address, ToString(random.Draw(size)));
  }
  size_t at = 0;
  for (const char* name : {"coordinator", "p1", "p2", "p3"})
    EXPECT_EQ(Process(name, "pid"), pids[at++]) << name;
  EXPECT_EQ(Sign("ec", "ES256").exit_code, 0);
}

TEST_F(BadInputTest, ATruncatedBackupIsNoBackup) {
  std::string target = cluster_->Folder("backups");
  Json backup = cluster_->Answer({"backup", "start", "--target", target, "--wait"});
  std::string folder = At(backup, "folder");
  for (const auto& entry : fs::directory_iterator(target + "/" + folder)) {
    if (entry.path().filename() != "manifest") fs::resize_file(entry.path(), fs::file_size(entry.path()) / 2);
  }
  Ended verified = cluster_->Qhsm({"backup", "verify", "--target", target, "--folder", folder, "-o", "json"});
  EXPECT_EQ(verified.exit_code, 1);
  EXPECT_EQ(At(verified.Document(), "error.code"), "BACKUP_INVALID");
  Ended restored =
      cluster_->Qhsm({"restore", "start", "--target", target, "--folder", folder, "--wait", "-o", "json"});
  EXPECT_EQ(restored.exit_code, 1);
  EXPECT_EQ(At(restored.Document(), "error.code"), "BACKUP_INVALID") << restored.out;
  EXPECT_EQ(At(cluster_->Answer({"status"}), "state"), "active");
  EXPECT_EQ(Sign("ec", "ES256").exit_code, 0);
}

TEST_F(BadInputTest, ATokenThatSignsWronglyIsNotBelieved) {
  Touch(cluster_->Folder("p1/fault-lie"));
  for (int i = 0; i < 12; ++i) {
    Ended signed_one = Sign("rsa", "PS256");
    ASSERT_EQ(signed_one.exit_code, 0) << signed_one.out;
    EXPECT_TRUE(Valid("rsa", "PS256", At(signed_one.Document(), "value"))) << i;
  }
  for (const char* other : {"p2", "p3"}) Touch(cluster_->Folder(std::string(other) + "/fault-lie"));
  Ended refused = Sign("rsa", "RS256");
  EXPECT_NE(refused.exit_code, 0) << "no signature is better than a wrong one";
  EXPECT_NE(At(refused.Document(), "error.code"), "null");
  for (const char* name : {"p1", "p2", "p3"}) fs::remove(cluster_->Folder(std::string(name) + "/fault-lie"));
  EXPECT_TRUE(cluster_->AwaitReady());
  EXPECT_EQ(Sign("rsa", "RS256").exit_code, 0);
}

TEST_F(BadInputTest, AHungTokenCostsItsProcessAndNoCall) {
  std::string fault = cluster_->Folder("p2/fault-hang");
  Touch(fault);
  Deadline deadline(RealClock(), absl::Seconds(60));
  while (Process("p2", "last_end") != "exit 76" && !deadline.Passed()) {
    Ended signed_one = Sign("ec", "ES256");
    ASSERT_EQ(signed_one.exit_code, 0) << signed_one.out;
  }
  EXPECT_EQ(Process("p2", "last_end"), "exit 76") << "the watchdog ends what cannot be cancelled";
  fs::remove(fault);
  EXPECT_TRUE(cluster_->AwaitReady());
}

// On a small file system of its own; needs the right to mount one.
TEST(FullDiskTest, ATypedErrorAndNothingChanged) {
  std::string place = fs::temp_directory_path().string() + "/qhsm-small.XXXXXX";
  ASSERT_NE(mkdtemp(place.data()), nullptr);
  if (geteuid() != 0 || mount("tmpfs", place.c_str(), "tmpfs", 0, "size=256m,mode=0700") != 0) {
    fs::remove(place);
    GTEST_SKIP() << "no file system can be mounted here; the stores' own tests have a full disk as well";
  }
  const char* before = std::getenv("TMPDIR");
  std::string old = before == nullptr ? "" : before;
  setenv("TMPDIR", place.c_str(), 1);
  {
    auto cluster = DevCluster::Up();
    before == nullptr ? unsetenv("TMPDIR") : setenv("TMPDIR", old.c_str(), 1);
    ASSERT_NE(cluster, nullptr);
    cluster->Answer({"key", "create", "--name", "there", "--kty", "EC-HSM"});
    std::ofstream filler(place + "/filler", std::ios::binary);
    const std::string block(1 << 20, 'x');
    while (filler.write(block.data(), static_cast<std::streamsize>(block.size()))) filler.flush();
    filler.close();
    Ended refused = cluster->Qhsm({"key", "create", "--name", "not-there", "--kty", "EC-HSM", "-o", "json"});
    EXPECT_NE(refused.exit_code, 0);
    EXPECT_NE(At(refused.Document(), "error.code"), "null") << refused.out;
    EXPECT_NE(At(refused.Document(), "error.code"), "INTERNAL") << refused.out;
    EXPECT_EQ(cluster->Qhsm({"status"}).exit_code, 0) << "alive";
    fs::remove(place + "/filler");
    EXPECT_TRUE(cluster->AwaitReady());
    EXPECT_EQ(cluster->Qhsm({"key", "show", "--name", "not-there"}).exit_code, 1) << "failed means not done";
    cluster->Answer({"key", "create", "--name", "after", "--kty", "EC-HSM"});
    Json proofs = cluster->Answer({"key", "prove", "--name", "there"});
    EXPECT_EQ(At(proofs, "partitions[].result"), R"(["proved","proved","proved"])");
  }
  umount(place.c_str());
  fs::remove(place);
}

}  // namespace
}  // namespace hsm::testing
