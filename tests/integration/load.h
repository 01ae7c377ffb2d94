#pragma once
#include <gtest/gtest.h>

#include <string>

#include "cli/output.h"
#include "common/thread.h"
#include "tests/testing/dev_cluster.h"

namespace hsm::testing {

// Signing load by `qhsm bench`, in another process; Finish says what became of it.
class Load {
 public:
  Load(const DevCluster& cluster, const std::string& key, const std::string& seconds)
      : thread_("load", [this, &cluster, key, seconds] {
          ended_ =
              cluster.Qhsm({"bench", "--faces", "cluster", "--cases", "sign-p256", "--key", key, "--callers",
                            "8", "--seconds", seconds, "--rounds", "1", "--pin", "none", "-o", "json"},
                           absl::Seconds(120));
        }) {
    PauseFor(absl::Seconds(1));
  }
  void ExpectNoFailedCall() {
    thread_.Join();
    Json document = ended_.Document();
    EXPECT_EQ(ended_.exit_code, 0) << ended_.out << ended_.err;
    EXPECT_EQ(At(document, "rows[0].errors"), "0");
    EXPECT_GT(cli::Select(document, "rows[0].operations").AsInteger().value_or(0), 100) << ended_.out;
  }

 private:
  Ended ended_;
  Thread thread_;
};

}  // namespace hsm::testing
