#include "tests/sim/seeds.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/check.h"
#include "common/clock.h"

namespace hsm::testing {
namespace {

constexpr uint64_t kBlock = 25;  // seeds in one child process

// What a child tells its parent, also when it dies.
struct Shared {
  uint64_t running;  // the seed
  uint64_t done;
  uint64_t steps;
  double simulated_seconds;
  bool failed;
  char failure[8'000];
  char notes[24'000];
};

void Copy(const std::string& from, char* to, size_t size) {
  size_t keep = std::min(from.size(), size - 1);
  std::memcpy(to, from.data() + (from.size() - keep), keep);  // the end tells more
  to[keep] = 0;
}

void RunBlock(const SeedRange& block, const Scenario& scenario, Shared& shared) {
  for (uint64_t seed = block.first; seed < block.first + block.count && !shared.failed; ++seed) {
    shared.running = seed;
    SeedReport report = RunSeed(seed, scenario);
    shared.steps += report.steps;
    shared.simulated_seconds += absl::ToDoubleSeconds(report.simulated);
    ++shared.done;
    if (report.failure.empty()) continue;
    shared.failed = true;
    Copy(report.failure, shared.failure, sizeof shared.failure);
    Copy(report.notes, shared.notes, sizeof shared.notes);
  }
}

// False if the block failed.
bool RunBlockInChild(const SeedRange& block, const Scenario& scenario, Shared& shared) {
  pid_t child = fork();
  HSM_CHECK(child >= 0);
  if (child == 0) {
    RunBlock(block, scenario, shared);
    _exit(0);
  }
  int status = 0;
  HSM_CHECK(waitpid(child, &status, 0) == child);
  if (!shared.failed && status != 0) {
    shared.failed = true;
    Copy(WIFSIGNALED(status) ? fmt::format("the process was ended by signal {}", WTERMSIG(status))
                             : fmt::format("the process ended with status {}", status),
         shared.failure, sizeof shared.failure);
  }
  return !shared.failed;
}

void RunAll(const SeedRange& seeds, const Scenario& scenario, Shared& shared) {
  if (seeds.count == 1) return RunBlock(seeds, scenario, shared);  // in this process, for a debugger
  for (uint64_t done = 0; done < seeds.count; done += kBlock) {
    if (!RunBlockInChild({seeds.first + done, std::min(kBlock, seeds.count - done)}, scenario, shared))
      return;
  }
}

struct SharedMemory {
  SharedMemory()
      : shared(static_cast<Shared*>(
            mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    HSM_CHECK(shared != MAP_FAILED);
  }
  ~SharedMemory() { munmap(shared, sizeof(Shared)); }
  Shared* const shared;
};

}  // namespace

SeedReport RunSeed(uint64_t seed, const Scenario& scenario) {
  // Some seeds switch at nearly every chance, some rarely: different bugs want different orders.
  SimScheduler scheduler({.seed = seed, .preempt_percent = seed % 4 == 0 ? 60u : seed % 4 == 1 ? 5u : 20u});
  absl::Status ended = scheduler.Run([&] { scenario(scheduler); });
  if (std::getenv("QHSM_SIM_NOTES") != nullptr) fmt::print("{}", scheduler.RecentNotes());
  SeedReport report{seed, scheduler.trace_hash(), scheduler.steps(), scheduler.Now()};
  if (!ended.ok()) {
    report.failure = std::string(ended.message());
    report.notes = scheduler.RecentNotes();
  }
  return report;
}

void RunSeeds(const SeedRange& seeds, const Scenario& scenario) {
  SharedMemory memory;
  absl::Duration began = RealClock().Uptime();
  RunAll(seeds, scenario, *memory.shared);
  double seconds = absl::ToDoubleSeconds(RealClock().Uptime() - began);
  const Shared& shared = *memory.shared;
  fmt::print("seeds {}..{}: {} done in {:.1f} s ({:.1f}/s), {:.0f} s simulated, {} switches\n", seeds.first,
             seeds.first + seeds.count - 1, shared.done, seconds, static_cast<double>(shared.done) / seconds,
             shared.simulated_seconds, shared.steps);
  if (!shared.failed) return;
  const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
  ADD_FAILURE() << "seed " << shared.running << ": " << shared.failure << "\nlast events:\n"
                << shared.notes << "again: QHSM_SEED=" << shared.running
                << " <this program> --gtest_filter=" << test->test_suite_name() << "." << test->name();
}

uint64_t FirstFailingSeed(const SeedRange& seeds, const Scenario& scenario, std::string* failure) {
  SharedMemory memory;
  for (uint64_t done = 0; done < seeds.count && !memory.shared->failed; done += kBlock) {
    RunBlockInChild({seeds.first + done, std::min(kBlock, seeds.count - done)}, scenario, *memory.shared);
  }
  if (!memory.shared->failed) return 0;
  *failure = memory.shared->failure;
  return memory.shared->running;
}

}  // namespace hsm::testing
