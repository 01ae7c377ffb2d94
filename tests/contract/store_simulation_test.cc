// The SQLite store inside a deterministic simulation: same seed, same run, also when its process is killed.
#include <gtest/gtest.h>

#include "common/log.h"
#include "common/thread.h"
#include "store/store_sqlite.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/sim_scheduler.h"

namespace hsm {
namespace {

using testing::CrashVfs;
using testing::SimClock;
using testing::SimScheduler;

struct Outcome {
  uint64_t trace = 0;
  int acknowledged = 0, found = 0;
};

Outcome CrashOnce(uint64_t seed) {
  Outcome outcome;
  static int runs = 0;
  auto* disk = new CrashVfs("simulation-" + std::to_string(++runs));  // the killed store still points at it
  SimScheduler scheduler({.seed = seed});
  absl::Status ended = scheduler.Run([&] {
    auto* clock = new SimClock(scheduler);
    StoreSqliteOptions options;
    options.vfs = disk->name();
    options.path = "/store";
    options.clock = clock;
    options.readers = 2;
    options.checkpoint_pages = 20;
    testing::ProcessId process = scheduler.NewProcess("coordinator");
    scheduler.Spawn(process, "main", [&, options] {
      auto* store = (*OpenStoreSqlite(options)).release();
      auto* threads = new std::vector<Thread>;
      for (int t = 0; t < 3; ++t) {
        threads->emplace_back("client", [&, store, t] {
          std::string key = "/k/" + std::to_string(t);
          for (int i = 0;; ++i) {
            StoreCommit commit = store->Commit({{}, {StoreOp::Put(key + "/" + std::to_string(i), "x")}, {}});
            if (commit.outcome == StoreOutcome::kCommitted) ++outcome.acknowledged;
            store->Scan("/k/", "", 10).status().IgnoreError();
            scheduler.Sleep(absl::Milliseconds(1));
          }
        });
      }
    });
    scheduler.Sleep(absl::Milliseconds(5 + scheduler.Draw(60)));
    scheduler.Kill(process);
    scheduler.Note("killed");
    disk->Load(disk->ImageAt(disk->moment(), 50, seed));
    auto store = OpenStoreSqlite(options);
    EXPECT_TRUE(store.ok()) << store.status();
    auto page = (*store)->Scan("/k/", "", 500);
    outcome.found = static_cast<int>(page->records.size());
  });
  EXPECT_TRUE(ended.ok()) << ended;
  outcome.trace = scheduler.trace_hash();
  return outcome;
}

TEST(StoreSimulationTest, AKilledStoreIsDeterministicAndLosesNothing) {
  SetLogLevel(LogLevel::kOff);
  int acknowledged = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Outcome first = CrashOnce(seed);
    EXPECT_GE(first.found, first.acknowledged) << "seed " << seed;
    EXPECT_LE(first.found, first.acknowledged + 3) << "seed " << seed;
    acknowledged += first.acknowledged;
    if (seed > 5) continue;
    Outcome second = CrashOnce(seed);
    EXPECT_EQ(first.trace, second.trace) << "seed " << seed;
    EXPECT_EQ(first.found, second.found) << "seed " << seed;
  }
  EXPECT_GT(acknowledged, 500);
}

}  // namespace
}  // namespace hsm
