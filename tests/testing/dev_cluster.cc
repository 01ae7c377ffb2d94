#include "tests/testing/dev_cluster.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "cli/output.h"
#include "common/clock.h"

namespace hsm::testing {

std::string At(const Json& document, const std::string& path) {
  Json part = cli::Select(document, path);
  return part.AsString().value_or(part.Dump());
}

std::unique_ptr<DevCluster> DevCluster::Up(const std::vector<std::string>& options) {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = std::string(base == nullptr ? "/tmp" : base) + "/qhsm-test.XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    ADD_FAILURE() << "no temporary directory";
    return nullptr;
  }
  std::unique_ptr<DevCluster> cluster(new DevCluster(pattern));
  std::vector<std::string> arguments = {"dev",   "up",       "--name",    "test", "--data",
                                        pattern, "--detach", "--timeout", "60"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  Ended up = cluster->Qhsm(arguments, absl::Seconds(90));
  cluster->up_took_ = up.took;
  if (up.exit_code != 0) {
    ADD_FAILURE() << "qhsm dev up: " << up.out << up.err;
    return nullptr;
  }
  Json variables = cluster->Answer({"dev", "env", "--data", pattern});
  for (const auto& [name, value] : variables.members())
    cluster->environment_[name] = value.AsString().value_or("");
  return cluster;
}

DevCluster::~DevCluster() {
  Ended down = Qhsm({"dev", "down", "--data", data_});
  EXPECT_EQ(down.exit_code, 0) << down.err;
  if (::testing::Test::HasFailure()) {
    std::fprintf(stderr, "the processes' logs are kept in %s/run\n", data_.c_str());
    return;
  }
  std::error_code ignored;
  std::filesystem::remove_all(data_, ignored);
}

Ended DevCluster::Qhsm(const std::vector<std::string>& arguments, absl::Duration timeout) const {
  std::vector<std::string> all = {ProgramPath("qhsm")};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return RunProgram(all, environment_, timeout);
}

Ended DevCluster::QhsmAs(const std::string& person, const std::vector<std::string>& arguments) const {
  std::map<std::string, std::string> environment = environment_;
  environment["QHSM_CERTIFICATE"] = Folder(person) + "/tls.crt";
  environment["QHSM_KEY"] = Folder(person) + "/tls.key";
  std::vector<std::string> all = {ProgramPath("qhsm")};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return RunProgram(all, environment);
}

Json DevCluster::Answer(const std::vector<std::string>& arguments, absl::Duration timeout) const {
  std::vector<std::string> all = arguments;
  all.insert(all.end(), {"-o", "json"});
  Ended ended = Qhsm(all, timeout);
  EXPECT_EQ(ended.exit_code, 0) << arguments[0] << " " << (arguments.size() > 1 ? arguments[1] : "") << ": "
                                << ended.out << ended.err;
  return ended.Document();
}

void DevCluster::Kill(const std::string& process, const std::string& signal) const {
  EXPECT_EQ(Qhsm({"dev", "kill", process, "--signal", signal}).exit_code, 0);
}

void DevCluster::Start(const std::string& process) const {
  EXPECT_EQ(Qhsm({"dev", "start", process}).exit_code, 0);
}

bool DevCluster::AwaitReady(absl::Duration timeout) const {
  Deadline deadline(RealClock(), timeout);
  Ended last;
  while (!deadline.Passed()) {
    last = Qhsm({"status", "-o", "json"});
    auto status = Json::Parse(last.out);
    const Json* partitions = status.ok() ? status->Find("partitions") : nullptr;
    bool ready = last.exit_code == 0 && partitions != nullptr && !partitions->items().empty();
    for (const Json& p : ready ? partitions->items() : std::vector<Json>{}) {
      ready &= At(p, "state") == "READY" && At(p, "keys") == At(p, "proved");
    }
    if (ready) return true;
    PauseFor(absl::Milliseconds(200));
  }
  ADD_FAILURE() << "not all READY: " << last.out << last.err;
  return false;
}

}  // namespace hsm::testing
