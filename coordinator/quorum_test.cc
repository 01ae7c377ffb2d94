#include "coordinator/quorum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hsm {
namespace {

using ::testing::ElementsAreArray;

TEST(MajorityTest, IsMoreThanHalf) {
  EXPECT_EQ(Majority(1), 1u);
  EXPECT_EQ(Majority(2), 2u);
  EXPECT_EQ(Majority(3), 2u);
  EXPECT_EQ(Majority(4), 3u);
  EXPECT_EQ(Majority(5), 3u);
}

struct Case {
  const char* name;
  std::vector<std::string> answers;
  std::vector<v1::ProofResult> want;
};
constexpr v1::ProofResult kProved = v1::PROOF_RESULT_PROVED;
constexpr v1::ProofResult kDifferent = v1::PROOF_RESULT_DIFFERENT;
constexpr v1::ProofResult kMissing = v1::PROOF_RESULT_MISSING;
constexpr v1::ProofResult kAlone = v1::PROOF_RESULT_SELF_CHECKED;

class CompareAnswersTest : public ::testing::TestWithParam<Case> {};

TEST_P(CompareAnswersTest, SaysWhoAgrees) {
  EXPECT_THAT(CompareAnswers(GetParam().answers), ElementsAreArray(GetParam().want));
}

INSTANTIATE_TEST_SUITE_P(
    Quorum, CompareAnswersTest,
    ::testing::Values(Case{"AllAgree", {"a", "a", "a"}, {kProved, kProved, kProved}},
                      Case{"TheOddOneOut", {"a", "b", "a"}, {kProved, kDifferent, kProved}},
                      Case{"OneAnswerIsNoProof", {"", "a", ""}, {kMissing, kAlone, kMissing}},
                      Case{"TwoThatDifferSettleNothing", {"a", "b", ""}, {kDifferent, kDifferent, kMissing}},
                      Case{"ThreeThatDiffer", {"a", "b", "c"}, {kDifferent, kDifferent, kDifferent}},
                      Case{
                          "TwoCamps", {"a", "a", "b", "b"}, {kDifferent, kDifferent, kDifferent, kDifferent}},
                      Case{"NoAnswer", {"", ""}, {kMissing, kMissing}}),
    [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace hsm
