#pragma once
// A real cluster of the built programs for one test, by `qhsm dev`; ended and removed with the object.
#include <memory>
#include <string>
#include <vector>

#include "tests/testing/eventually.h"
#include "tests/testing/subprocess.h"

namespace hsm::testing {

class DevCluster {
 public:
  // Fails the test and returns null if it does not come up. `options` go to `qhsm dev up`.
  static std::unique_ptr<DevCluster> Up(const std::vector<std::string>& options = {});
  ~DevCluster();
  DevCluster(const DevCluster&) = delete;

  const std::string& data() const { return data_; }
  absl::Duration up_took() const { return up_took_; }
  std::string Folder(const std::string& name) const { return data_ + "/" + name; }

  // Runs `qhsm ARGUMENTS...` pointed at this cluster.
  Ended Qhsm(const std::vector<std::string>& arguments, absl::Duration timeout = absl::Seconds(60)) const;
  // The same by another person: DATA/person holds tls.crt and tls.key.
  Ended QhsmAs(const std::string& person, const std::vector<std::string>& arguments) const;
  // With -o json; fails the test unless the exit code is 0.
  Json Answer(const std::vector<std::string>& arguments, absl::Duration timeout = absl::Seconds(60)) const;
  void Kill(const std::string& process, const std::string& signal = "KILL") const;
  void Start(const std::string& process) const;
  // All partitions READY and every key version proved on each.
  bool AwaitReady(absl::Duration timeout = absl::Seconds(60)) const;

 private:
  explicit DevCluster(std::string data) : data_(std::move(data)) {}
  std::string data_;
  std::map<std::string, std::string> environment_;
  absl::Duration up_took_;
};

// "a.b" in a document, as text; numbers and booleans as JSON writes them.
std::string At(const Json& document, const std::string& path);

}  // namespace hsm::testing
