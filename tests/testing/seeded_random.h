#pragma once
#include <cstdint>
#include <string>

#include "common/mutex.h"
#include "common/random.h"

namespace hsm::testing {

// xoshiro256** from one 64-bit seed: the same seed gives the same bytes on every machine. Not for secrets.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(uint64_t seed);
  void Fill(std::span<uint8_t> out) override;
  uint64_t Next();
  bool OneIn(uint64_t n) { return Next() % n == 0; }

 private:
  Mutex mutex_;
  uint64_t state_[4] HSM_GUARDED_BY(mutex_);
};

// The generator itself, for owners that need no lock.
uint64_t NextDraw(uint64_t (&state)[4]);
void SeedDraws(uint64_t seed, uint64_t (&state)[4]);

// The seed of a randomised test: `--seed N` as read by ReadSeedFlags, else QHSM_SEED, else `fallback`.
// Printed by the test when it fails.
struct SeedRange {
  uint64_t first = 1;
  uint64_t count = 1;
};
// QHSM_SEED (one seed), or QHSM_SEEDS (how many) from QHSM_SEED_FIRST; what is not given is `fallback`'s.
SeedRange SeedsToRun(SeedRange fallback);
// Takes `--seed N` and `--seeds N` out of argv and puts them into the environment for SeedsToRun.
void ReadSeedFlags(int& argc, char** argv);

}  // namespace hsm::testing
