#include "tests/testing/sim_scheduler.h"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

#include "common/thread.h"

namespace hsm::testing {
namespace {

// Three threads append their names to a list, letting the lock go each time.
std::string Interleaving(uint64_t seed, uint64_t* trace = nullptr) {
  SimScheduler scheduler({.seed = seed});
  std::string order;
  absl::Status ended = scheduler.Run([&] {
    Mutex mutex;
    auto body = [&](char name) {
      for (int i = 0; i < 5; ++i) {
        MutexLock lock(mutex);
        order.push_back(name);
      }
    };
    Thread a("a", [&] { body('a'); });
    Thread b("b", [&] { body('b'); });
    Thread c("c", [&] { body('c'); });
  });
  EXPECT_TRUE(ended.ok()) << ended;
  if (trace != nullptr) *trace = scheduler.trace_hash();
  return order;
}

TEST(SimSchedulerTest, SameSeedSameRun) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    uint64_t first = 0, second = 0;
    EXPECT_EQ(Interleaving(seed, &first), Interleaving(seed, &second));
    EXPECT_EQ(first, second);
  }
}

TEST(SimSchedulerTest, SeedsGiveManyInterleavings) {
  std::set<std::string> seen;
  for (uint64_t seed = 1; seed <= 50; ++seed) seen.insert(Interleaving(seed));
  EXPECT_GT(seen.size(), 25u);
}

// A counter that is read and written in two critical sections loses updates under some orders.
TEST(SimSchedulerTest, FindsTheRaceBetweenTwoCriticalSections) {
  int lost = 0;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SimScheduler scheduler({.seed = seed});
    int counter = 0;
    ASSERT_TRUE(scheduler
                    .Run([&] {
                      Mutex mutex;
                      auto add = [&] {
                        int value = 0;
                        {
                          MutexLock lock(mutex);
                          value = counter;
                        }
                        MutexLock lock(mutex);
                        counter = value + 1;
                      };
                      Thread a("a", add);
                      Thread b("b", add);
                    })
                    .ok());
    if (counter != 2) ++lost;
  }
  EXPECT_GT(lost, 0);
  EXPECT_LT(lost, 50);
}

// The flag is set without its notification reaching a waiter that has looked but not yet waited.
TEST(SimSchedulerTest, FindsTheLostWakeUp) {
  int deadlocks = 0;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SimScheduler scheduler({.seed = seed});
    absl::Status ended = scheduler.Run([&] {
      auto* mutex = new Mutex;  // outlives threads that a deadlock leaves behind
      auto* changed = new CondVar;
      auto* ready = new bool(false);
      Thread waiter("waiter", [=] {
        bool seen = false;
        {
          MutexLock lock(*mutex);
          seen = *ready;
        }
        MutexLock lock(*mutex);  // the bug: does not look again under this lock
        if (!seen) changed->Wait(*mutex);
      });
      Thread setter("setter", [=] {
        MutexLock lock(*mutex);
        *ready = true;
        changed->NotifyAll();
      });
    });
    if (!ended.ok()) {
      ++deadlocks;
      EXPECT_NE(ended.message().find("deadlock"), std::string::npos) << ended;
      EXPECT_NE(ended.message().find("world/waiter: waits"), std::string::npos) << ended;
    }
  }
  EXPECT_GT(deadlocks, 0);
  EXPECT_LT(deadlocks, 50);
}

TEST(SimSchedulerTest, TimeJumpsToTheNextTimeout) {
  SimScheduler scheduler({});
  SimClock clock(scheduler);
  absl::Duration waited;
  ASSERT_TRUE(scheduler
                  .Run([&] {
                    Mutex mutex;
                    CondVar changed;
                    absl::Duration before = clock.Uptime();
                    MutexLock lock(mutex);
                    EXPECT_FALSE(clock.Await(mutex, changed, [] { return false; }, absl::Hours(3)));
                    waited = clock.Uptime() - before;
                  })
                  .ok());
  EXPECT_GE(waited, absl::Hours(3));
  EXPECT_LT(waited, absl::Hours(3) + absl::Seconds(1));
}

TEST(SimSchedulerTest, AFastClockTimesOutEarly) {
  SimScheduler scheduler({});
  SimClock fast(scheduler, absl::ZeroDuration(), 2.0);
  ASSERT_TRUE(scheduler
                  .Run([&] {
                    Mutex mutex;
                    CondVar changed;
                    MutexLock lock(mutex);
                    EXPECT_FALSE(fast.Await(mutex, changed, [] { return false; }, absl::Seconds(10)));
                  })
                  .ok());
  EXPECT_NEAR(absl::ToDoubleSeconds(scheduler.Now()), 5, 0.1);
}

struct Witness {
  explicit Witness(bool* destroyed) : destroyed(destroyed) {}
  ~Witness() { *destroyed = true; }
  bool* destroyed;
};

TEST(SimSchedulerTest, KilledThreadsNeverRunAgainAndDestroyNothing) {
  SimScheduler scheduler({});
  bool destroyed = false;
  int ticks = 0;
  ASSERT_TRUE(scheduler
                  .Run([&] {
                    ProcessId process = scheduler.NewProcess("p1");
                    EXPECT_TRUE(scheduler.RunIn(process, "start", [&] {
                      auto* loop = new Thread("loop", [&] {
                        Witness witness(&destroyed);
                        for (;; ++ticks) scheduler.Sleep(absl::Seconds(1));
                      });
                      (void)loop;
                    }));
                    scheduler.Sleep(absl::Seconds(10));
                    scheduler.Kill(process);
                    EXPECT_FALSE(scheduler.Alive(process));
                    scheduler.Sleep(absl::Seconds(10));
                    EXPECT_FALSE(scheduler.RunIn(process, "late", [] { FAIL(); }));
                  })
                  .ok());
  EXPECT_GE(ticks, 9);
  EXPECT_LE(ticks, 11);
  EXPECT_FALSE(destroyed);
}

TEST(SimSchedulerTest, AProcessThatKillsItselfEndsThereAndItsWaiterGoesOn) {
  SimScheduler scheduler({});
  bool after = false;
  ASSERT_TRUE(scheduler
                  .Run([&] {
                    ProcessId process = scheduler.NewProcess("p1");
                    EXPECT_FALSE(scheduler.RunIn(process, "suicide", [&] {
                      scheduler.Kill(process);
                      after = true;
                    }));
                  })
                  .ok());
  EXPECT_FALSE(after);
}

TEST(SimSchedulerTest, APausedProcessStandsStillWhileTimeGoesOn) {
  SimScheduler scheduler({});
  int ticks = 0;
  ASSERT_TRUE(scheduler
                  .Run([&] {
                    ProcessId process = scheduler.NewProcess("p1");
                    scheduler.Spawn(process, "loop", [&] {
                      for (;; ++ticks) scheduler.Sleep(absl::Seconds(1));
                    });
                    scheduler.Sleep(absl::Seconds(3));
                    scheduler.Pause(process);
                    int before = ticks;
                    scheduler.Sleep(absl::Seconds(60));
                    EXPECT_EQ(ticks, before);
                    scheduler.Resume(process);
                    scheduler.Sleep(absl::Seconds(3));
                    EXPECT_GT(ticks, before);
                  })
                  .ok());
}

TEST(SimSchedulerTest, ALockHeldWhereAnotherThreadRunsIsReported) {
  SimScheduler scheduler({});
  absl::Status ended = scheduler.Run([&] {
    Mutex mutex;
    MutexLock lock(mutex);
    scheduler.Sleep(absl::Seconds(1));
  });
  EXPECT_NE(ended.message().find("waits while it holds a lock"), std::string::npos) << ended;
}

TEST(SimSchedulerTest, AnEndlessLoopIsALivelockAndEndlessWaitingAHang) {
  SimScheduler spinning({.steps_max = 1000});
  absl::Status ended = spinning.Run([&] {
    for (;;) spinning.Yield();
  });
  EXPECT_NE(ended.message().find("livelock"), std::string::npos) << ended;
  SimScheduler waiting({.time_max = absl::Minutes(5)});
  ended = waiting.Run([&] {
    for (;;) waiting.Sleep(absl::Seconds(1));
  });
  EXPECT_NE(ended.message().find("hang"), std::string::npos) << ended;
}

TEST(SimSchedulerTest, AnExceptionEndsTheRunWithItsText) {
  SimScheduler scheduler({});
  absl::Status ended = scheduler.Run([] { throw std::runtime_error("boom"); });
  EXPECT_NE(ended.message().find("boom"), std::string::npos) << ended;
}

// An exception in flight in one thread must not be seen by another.
TEST(SimSchedulerTest, EachThreadHasItsOwnExceptions) {
  SimScheduler scheduler({.seed = 3});
  int caught = 0;
  ASSERT_TRUE(scheduler
                  .Run([&] {
                    auto body = [&](int number) {
                      try {
                        throw number;
                      } catch (int value) {
                        for (int i = 0; i < 5; ++i) scheduler.Yield();
                        EXPECT_EQ(value, number);
                        ++caught;
                      }
                    };
                    Thread a("a", [&] { body(1); });
                    Thread b("b", [&] { body(2); });
                  })
                  .ok());
  EXPECT_EQ(caught, 2);
}

}  // namespace
}  // namespace hsm::testing
