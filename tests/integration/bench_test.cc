// The speed that docs/performance.md promises, by `qhsm bench` on release programs: label bench, never part
// of ci. R is the CPU of the bare token divided by that of the whole chain in the same run, so that a slow
// machine changes it little; a machine that is busy with other work makes every figure worthless.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/testing/dev_cluster.h"

namespace hsm::testing {
namespace {

struct Promise {
  const char* name;
  const char* bench_case;
  int callers;
  double must, aim;  // R
};

class BenchTest : public ::testing::TestWithParam<Promise> {
 protected:
  static void SetUpTestSuite() { cluster_ = DevCluster::Up(); }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override { ASSERT_NE(cluster_, nullptr); }
  static std::unique_ptr<DevCluster> cluster_;
};
std::unique_ptr<DevCluster> BenchTest::cluster_;

TEST_P(BenchTest, KeepsItsPromise) {
  const Promise& promise = GetParam();
  const Json document = cluster_->Answer({"bench", "--cases", promise.bench_case, "--callers",
                                          fmt::format("{}", promise.callers), "--faces", "token", "cluster"},
                                         absl::Minutes(5));
  const Json* rows = document.Find("rows");
  ASSERT_NE(rows, nullptr);
  std::optional<double> measured;
  for (const Json& row : rows->items()) {
    if (At(row, "face") != "cluster") continue;
    EXPECT_EQ(At(row, "errors"), "0");
    if (const Json* r = row.Find("r")) measured = r->AsNumber();
  }
  ASSERT_TRUE(measured.has_value()) << document.Dump();
  fmt::print("{}: R {:.2f}, must {:.2f}, aim {:.2f}\n", promise.name, *measured, promise.must, promise.aim);
  EXPECT_GE(*measured, promise.must);
}

INSTANTIATE_TEST_SUITE_P(Ratios, BenchTest,
                         ::testing::Values(Promise{"P256_1", "sign-p256", 1, 0.25, 0.33},
                                           Promise{"P256_8", "sign-p256", 8, 0.65, 0.80},
                                           Promise{"P256_32", "sign-p256", 32, 0.85, 1.00},
                                           Promise{"Rsa2048_8", "sign-rsa2048", 8, 0.92, 0.96},
                                           Promise{"Hmac_8", "hmac", 8, 0.50, 0.90},
                                           Promise{"Gcm_8", "gcm", 8, 0.50, 0.90}),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace hsm::testing
