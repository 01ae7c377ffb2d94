#include "tests/sim/linearizability.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/sim/key_model.h"
#include "tests/testing/seeded_random.h"

namespace hsm::testing {
namespace {

using Op = KeyModel::Op;
using Kind = KeyModel::Kind;
using Answer = KeyModel::Answer;

// Every order of every subset that leaves out only open operations.
bool BruteForce(std::vector<Op> left, KeyModel::State state) {
  bool all_open = true;
  for (const Op& op : left) all_open &= op.returned == kNeverReturned;
  if (all_open) return true;
  for (size_t i = 0; i < left.size(); ++i) {
    bool may_be_first = true;
    for (const Op& other : left) may_be_first &= other.returned >= left[i].called;
    KeyModel::State next = state;
    if (!may_be_first || !KeyModel::Step(next, left[i])) continue;
    std::vector<Op> rest = left;
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
    if (BruteForce(std::move(rest), std::move(next))) return true;
  }
  return false;
}

// Operations of a few callers on one real state, so that about half of the histories are good; then some
// answers are changed.
std::vector<Op> RandomHistory(SeededRandom& random, size_t size, uint64_t changed_one_in,
                              uint64_t unknown_one_in = 6) {
  std::vector<Op> history;
  KeyModel::State state;
  int64_t now = 0;
  for (size_t i = 0; i < size; ++i) {
    Op op;
    now += 2;
    op.called = now - static_cast<int64_t>(random.Below(8));
    op.returned = now + 1 + static_cast<int64_t>(random.Below(8));
    op.kind = static_cast<Kind>(random.Below(8));
    op.enabled = op.kind == Kind::kSetEnabled ? random.OneIn(2) : state.enabled;
    op.version =
        op.kind == Kind::kCreate || op.kind == Kind::kRotate ? "v" + std::to_string(i) : state.latest;
    KeyModel::State next = state;
    if (KeyModel::Step(next, op)) {
      state = next;
    } else {
      const bool of_deleted = op.kind == Kind::kRecover || op.kind == Kind::kPurge;
      op.answer = op.kind == Kind::kCreate    ? Answer::kExists
                  : state.live && !of_deleted ? Answer::kDisabled
                                              : Answer::kNotFound;
    }
    if (random.OneIn(unknown_one_in)) {
      op.answer = Answer::kUnknown;
      op.returned = kNeverReturned;
      if (op.kind == Kind::kCreate || op.kind == Kind::kRotate) op.version.clear();
      if (op.kind == Kind::kGet || op.kind == Kind::kSign) continue;
    }
    if (random.OneIn(changed_one_in)) op.answer = static_cast<Answer>(random.Below(5));
    history.push_back(op);
  }
  return history;
}

TEST(LinearizabilityTest, AgreesWithBruteForceOnSmallHistories) {
  SeededRandom random(1);
  int good = 0, bad = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<Op> history = RandomHistory(random, 1 + random.Below(6), 8);
    bool expected = BruteForce(history, {});
    (expected ? good : bad)++;
    ASSERT_EQ(IsLinearizable<KeyModel>(history), expected) << KeyModel::Text(history);
  }
  EXPECT_GT(good, 2'000);
  EXPECT_GT(bad, 2'000);
}

TEST(LinearizabilityTest, LongHistoriesAreCheckedFast) {
  SeededRandom random(2);
  for (int round = 0; round < 20; ++round) {
    EXPECT_TRUE(IsLinearizable<KeyModel>(RandomHistory(random, 1'000, UINT64_MAX, 40))) << round;
  }
}

TEST(LinearizabilityTest, AUseAfterAnAcknowledgedDeleteIsFound) {
  std::vector<Op> history = {{1, 2, Kind::kCreate, Answer::kOk, true, "a"},
                             {3, 4, Kind::kDelete, Answer::kOk},
                             {5, 6, Kind::kSign, Answer::kOk, true, "a"}};
  EXPECT_FALSE(IsLinearizable<KeyModel>(history));
  history[2].called = 3;  // overlaps the delete: may have come first
  EXPECT_TRUE(IsLinearizable<KeyModel>(history));
}

TEST(LinearizabilityTest, ADeletedKeyKeepsItsNameUntilItIsPurged) {
  std::vector<Op> history = {{1, 2, Kind::kCreate, Answer::kOk, true, "a"},
                             {3, 4, Kind::kDelete, Answer::kOk},
                             {5, 6, Kind::kCreate, Answer::kExists},
                             {7, 8, Kind::kRecover, Answer::kOk},
                             {9, 10, Kind::kSign, Answer::kOk, true, "a"},
                             {11, 12, Kind::kDelete, Answer::kOk},
                             {13, 14, Kind::kPurge, Answer::kOk},
                             {15, 16, Kind::kRecover, Answer::kNotFound},
                             {17, 18, Kind::kCreate, Answer::kOk, true, "b"}};
  EXPECT_TRUE(IsLinearizable<KeyModel>(history));
  history[2] = {5, 6, Kind::kCreate, Answer::kOk, true, "b"};
  EXPECT_FALSE(IsLinearizable<KeyModel>(history));
}

TEST(LinearizabilityTest, AnUnknownOutcomeMayHappenLateOrNever) {
  std::vector<Op> history = {{1, 2, Kind::kCreate, Answer::kOk, true, "a"},
                             {3, kNeverReturned, Kind::kSetEnabled, Answer::kUnknown, false},
                             {10, 11, Kind::kSign, Answer::kOk, true, "a"},
                             {12, 13, Kind::kSign, Answer::kDisabled}};
  EXPECT_TRUE(IsLinearizable<KeyModel>(history));
  history.push_back({14, 15, Kind::kSign, Answer::kOk, true, "a"});
  EXPECT_FALSE(IsLinearizable<KeyModel>(history));
}

TEST(LinearizabilityTest, MinimiseKeepsOnlyTheContradiction) {
  std::vector<Op> history = {{1, 2, Kind::kCreate, Answer::kOk, true, "a"},
                             {3, 4, Kind::kSign, Answer::kOk, true, "a"},
                             {5, 6, Kind::kGet, Answer::kOk, true, "a"},
                             {7, 8, Kind::kGet, Answer::kNotFound},
                             {9, 10, Kind::kSign, Answer::kOk, true, "a"}};
  EXPECT_EQ(Minimise<KeyModel>(history).size(), 2u);
}

}  // namespace
}  // namespace hsm::testing
