#include "client/combiner.h"

#include <gtest/gtest.h>

#include <set>

#include "common/error.h"
#include "common/thread.h"

namespace hsm {
namespace {

// Answers each operation with its own data. Holds batches back while closed.
class Backend {
 public:
  absl::Status Send(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result, absl::Duration) {
    MutexLock lock(mutex_);
    ++in_flight_;
    most_in_flight_ = std::max(most_in_flight_, in_flight_);
    sizes_.push_back(batch.ops_size());
    changed_.NotifyAll();
    while (closed_) changed_.Wait(mutex_);
    --in_flight_;
    if (!failure_.ok()) return failure_;
    for (const v1::CryptoOp& op : batch.ops()) {
      v1::CryptoResult* answer = result.add_results();
      answer->set_id(op.id());
      answer->set_value(op.data());
      if (!ids_.insert(op.id()).second) twice_ = true;
    }
    return absl::OkStatus();
  }
  void Close() {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  void Open() {
    MutexLock lock(mutex_);
    closed_ = false;
    changed_.NotifyAll();
  }
  void Fail(absl::Status status) {
    MutexLock lock(mutex_);
    failure_ = std::move(status);
  }
  void AwaitBatches(size_t count) {
    MutexLock lock(mutex_);
    while (sizes_.size() < count) changed_.Wait(mutex_);
  }
  std::vector<int> sizes() {
    MutexLock lock(mutex_);
    return sizes_;
  }
  bool twice() {
    MutexLock lock(mutex_);
    return twice_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool closed_ = false;
  bool twice_ = false;
  absl::Status failure_;
  int in_flight_ = 0;
  int most_in_flight_ = 0;
  std::vector<int> sizes_;
  std::set<uint64_t> ids_;
};

class CombinerTest : public testing::Test {
 protected:
  absl::StatusOr<v1::CryptoResult> RunOne(const std::string& data,
                                          absl::Duration timeout = absl::Seconds(60)) {
    v1::CryptoOp op;
    op.set_data(data);
    return combiner_.Run(std::move(op), timeout);
  }
  Backend backend_;
  Combiner combiner_{
      [this](const auto& batch, auto& result, auto timeout) { return backend_.Send(batch, result, timeout); },
      RealClock(), 4};
};

TEST_F(CombinerTest, ALonelyCallerIsItsOwnBatch) {
  EXPECT_EQ(RunOne("a").value().value(), "a");
  EXPECT_EQ(RunOne("b").value().value(), "b");
  EXPECT_EQ(backend_.sizes(), (std::vector<int>{1, 1}));
}

TEST_F(CombinerTest, ThoseWhoWaitTravelTogether) {
  backend_.Close();
  std::vector<Thread> callers;
  std::atomic<int> right{0};
  auto call = [&](int i) {
    std::string data = "op" + std::to_string(i);
    auto result = RunOne(data);
    if (result.ok() && result->value() == data) ++right;
  };
  callers.emplace_back("first", [&] { call(0); });
  backend_.AwaitBatches(1);
  for (int i = 1; i <= 10; ++i) callers.emplace_back("caller", [&, i] { call(i); });
  // All ten must be queued before the lane is free: an eleventh with no time left would time out only if it
  // waits.
  while (combiner_.QueuedForTest() < 10) sched_yield();
  backend_.Open();
  for (Thread& caller : callers) caller.Join();
  EXPECT_EQ(right, 11);
  EXPECT_EQ(backend_.sizes()[0], 1);
  EXPECT_EQ(backend_.sizes()[1], 10);
  EXPECT_FALSE(backend_.twice());
}

TEST_F(CombinerTest, AFailedBatchFailsItsOwnOperationsOnly) {
  backend_.Fail(Error(v1::REASON_UNREACHABLE, "gone"));
  EXPECT_EQ(ReasonOf(RunOne("a").status()), v1::REASON_UNREACHABLE);
  backend_.Fail(absl::OkStatus());
  EXPECT_TRUE(RunOne("a").ok());
}

TEST_F(CombinerTest, WhoWaitedTooLongIsNotSent) {
  backend_.Close();
  Thread first("first", [&] { (void)RunOne("a"); });
  backend_.AwaitBatches(1);
  absl::Status late;
  Thread second("second", [&] { late = RunOne("late", absl::ZeroDuration()).status(); });
  while (combiner_.QueuedForTest() < 1) sched_yield();
  backend_.Open();
  first.Join();
  second.Join();
  EXPECT_EQ(ReasonOf(late), v1::REASON_DEADLINE_EXCEEDED);
}

TEST_F(CombinerTest, ManyCallersGetTheirOwnAnswers) {
  constexpr int kThreads = 16;
  constexpr int kRounds = 2'000;
  std::atomic<int> right{0};
  std::vector<Thread> callers;
  for (int t = 0; t < kThreads; ++t) {
    callers.emplace_back("caller", [&, t] {
      for (int i = 0; i < kRounds; ++i) {
        std::string data = std::to_string(t) + "/" + std::to_string(i);
        auto result = RunOne(data);
        if (result.ok() && result->value() == data) ++right;
      }
    });
  }
  for (Thread& caller : callers) caller.Join();
  EXPECT_EQ(right, kThreads * kRounds);
  EXPECT_FALSE(backend_.twice());
}

TEST_F(CombinerTest, ABatchHasABound) {
  backend_.Close();
  std::vector<Thread> callers;
  callers.emplace_back("first", [&] { (void)RunOne("a"); });
  backend_.AwaitBatches(1);
  for (size_t i = 0; i < limits::kBatchOpsMax + 10; ++i)
    callers.emplace_back("caller", [&] { (void)RunOne("b"); });
  while (combiner_.QueuedForTest() < limits::kBatchOpsMax + 10) sched_yield();
  backend_.Open();
  for (Thread& caller : callers) caller.Join();
  for (int size : backend_.sizes()) EXPECT_LE(size, static_cast<int>(limits::kBatchOpsMax));
}

// --- how many lanes ---------------------------------------------------------------------------------------

// A backend that does `rate(lanes)` operations a second, always saturated.
uint32_t SettlesAt(const std::function<double(uint32_t)>& rate, double seconds = 30) {
  LaneTuner tuner(8);
  absl::Duration now = absl::Seconds(1);
  double most = 0;
  std::array<double, 9> time_at{};
  while (now < absl::Seconds(1 + seconds)) {
    uint32_t lanes = tuner.lanes();
    absl::Duration took = absl::Seconds(16 / rate(lanes));
    now += took;
    time_at[lanes] += absl::ToDoubleSeconds(took);
    tuner.OnBatch(16, true, now);
  }
  uint32_t usual = 1;
  for (uint32_t lanes = 1; lanes <= 8; ++lanes) {
    if (time_at[lanes] > most) {
      most = time_at[lanes];
      usual = lanes;
    }
  }
  return usual;
}

TEST(LaneTunerTest, OneLaneWhereMoreBringNothing) {
  EXPECT_EQ(SettlesAt([](uint32_t) { return 20'000; }), 1u);
  EXPECT_EQ(SettlesAt([](uint32_t lanes) { return 20'000 - 1'000.0 * lanes; }), 1u);
}

TEST(LaneTunerTest, ManyWhereEachBringsMore) {
  EXPECT_EQ(SettlesAt([](uint32_t lanes) { return 300.0 * lanes; }), 8u);
}

TEST(LaneTunerTest, AsManyAsHelp) {
  EXPECT_EQ(SettlesAt([](uint32_t lanes) { return 1'000.0 * std::min(lanes, 4u); }), 4u);
}

TEST(LaneTunerTest, WithoutWaitingCallersItStaysAtOne) {
  LaneTuner tuner(8);
  for (int i = 0; i < 10'000; ++i) tuner.OnBatch(1, false, absl::Seconds(1) + absl::Milliseconds(i));
  EXPECT_EQ(tuner.lanes(), 1u);
}

}  // namespace
}  // namespace hsm
