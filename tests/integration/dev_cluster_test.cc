// `qhsm dev`: two clusters side by side, what kill and start do, nothing left running, and failures that say
// why.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "cli/output.h"
#include "tests/testing/dev_cluster.h"

namespace hsm::testing {
namespace {

std::vector<int> Pids(const DevCluster& cluster) {
  std::vector<int> pids;
  Json status = cluster.Answer({"dev", "status"});
  for (const Json& process : status.Find("processes")->items()) {
    if (auto pid = process.Find("pid")->AsInteger()) pids.push_back(static_cast<int>(*pid));
  }
  return pids;
}

std::string ProcessField(const DevCluster& cluster, const std::string& name, const std::string& field) {
  Json status = cluster.Answer({"dev", "status"});
  for (const Json& process : status.Find("processes")->items()) {
    if (At(process, "name") == name) return At(process, field);
  }
  return "absent";
}

bool Alive(int pid) { return kill(pid, 0) == 0; }

TEST(DevClusterTest, TwoSideBySideAndNothingStaysBehind) {
  auto first = DevCluster::Up({"--partitions", "3"});
  auto second = DevCluster::Up({"--partitions", "1"});
  ASSERT_TRUE(first != nullptr && second != nullptr);
  first->Answer({"key", "create", "--name", "only-here", "--kty", "EC-HSM"});
  EXPECT_EQ(second->Qhsm({"key", "show", "--name", "only-here"}).exit_code, 1);
  std::vector<int> pids = Pids(*first);
  EXPECT_EQ(pids.size(), 4u);
  for (int pid : pids) EXPECT_TRUE(Alive(pid));
  std::string data = first->data();
  EXPECT_EQ(first->Qhsm({"dev", "down", "--data", data}).exit_code, 0);
  for (int pid : pids) EXPECT_FALSE(Alive(pid)) << pid;
  EXPECT_EQ(second->Qhsm({"status"}).exit_code, 0);
}

TEST(DevClusterTest, KillActsBeforeItReturnsAndStays) {
  auto cluster = DevCluster::Up();
  ASSERT_NE(cluster, nullptr);
  int pid = std::stoi(ProcessField(*cluster, "p2", "pid"));
  cluster->Kill("p2");
  EXPECT_FALSE(Alive(pid));
  PauseFor(absl::Seconds(1));
  EXPECT_EQ(ProcessField(*cluster, "p2", "state"), "killed");
  cluster->Start("p2");
  EXPECT_EQ(ProcessField(*cluster, "p2", "state"), "running");
  cluster->Kill("p3", "STOP");
  EXPECT_EQ(ProcessField(*cluster, "p3", "state"), "stopped");
  cluster->Start("p3");
  EXPECT_EQ(ProcessField(*cluster, "p3", "state"), "running");
  EXPECT_TRUE(cluster->AwaitReady());
  // What dies by itself comes back by itself.
  int restarts =
      std::stoi(ProcessField(*cluster, "p1", "restarts"));  // a sponsor has some from its hand-overs
  pid = std::stoi(ProcessField(*cluster, "p1", "pid"));
  kill(pid, SIGKILL);
  PauseFor(absl::Milliseconds(300));
  EXPECT_TRUE(cluster->AwaitReady());
  EXPECT_EQ(ProcessField(*cluster, "p1", "restarts"), std::to_string(restarts + 1));
  EXPECT_EQ(ProcessField(*cluster, "p1", "last_end"), "signal 9");
}

TEST(DevClusterTest, DownAndUpAgainKeepsTheKeys) {
  auto cluster = DevCluster::Up();
  ASSERT_NE(cluster, nullptr);
  Json made = cluster->Answer({"key", "create", "--name", "kept", "--kty", "EC-HSM"});
  ASSERT_EQ(cluster->Qhsm({"dev", "down", "--data", cluster->data()}).exit_code, 0);
  Ended up = cluster->Qhsm({"dev", "up", "--data", cluster->data(), "--detach", "--timeout", "60"});
  ASSERT_EQ(up.exit_code, 0) << up.err;
  EXPECT_TRUE(cluster->AwaitReady());
  Json found = cluster->Answer({"key", "show", "--name", "kept"});
  EXPECT_EQ(At(found, "key.kid"), At(made, "key.kid"));
}

TEST(DevClusterTest, UpSaysWhyItFailedInItsLastLine) {
  std::string data = std::filesystem::temp_directory_path().string() + "/qhsm-no-module";
  std::filesystem::remove_all(data);
  Ended ended = RunProgram(
      {ProgramPath("qhsm"), "dev", "up", "--data", data, "--module", "/nonexistent.so", "--detach"});
  EXPECT_NE(ended.exit_code, 0);
  for (std::string text : {ended.out, ended.err}) {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    EXPECT_NE(text.substr(text.rfind('\n') + 1).find("/nonexistent.so"), std::string::npos) << text;
  }
  std::filesystem::remove_all(data);
}

TEST(DevClusterTest, UpSaysWhyAProcessDoesNotStayUp) {
  auto cluster = DevCluster::Up({"--partitions", "1"});
  ASSERT_NE(cluster, nullptr);
  ASSERT_EQ(cluster->Qhsm({"dev", "down", "--data", cluster->data()}).exit_code, 0);
  std::ofstream(cluster->Folder("p1/tls.key"), std::ios::trunc) << "no key";
  Ended up = cluster->Qhsm({"dev", "up", "--data", cluster->data(), "--detach", "--timeout", "60"});
  EXPECT_EQ(up.exit_code, 1);
  std::string text = up.err;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  EXPECT_NE(text.substr(text.rfind('\n') + 1).find("tls.key"), std::string::npos) << up.err;
}

TEST(DevClusterTest, ATakenPortIsRefused) {
  auto cluster = DevCluster::Up({"--partitions", "1"});
  ASSERT_NE(cluster, nullptr);
  Json status = cluster->Answer({"dev", "status"});
  std::string endpoint = At(status, "endpoint");
  std::string port = endpoint.substr(endpoint.find(':') + 1);
  std::string data = cluster->data() + "/second";
  Ended ended = cluster->Qhsm({"dev", "up", "--data", data, "--port-base", port, "--detach", "-o", "json"});
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_EQ(At(ended.Document(), "error.code"), "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace hsm::testing
