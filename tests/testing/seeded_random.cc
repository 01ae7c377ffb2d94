#include "tests/testing/seeded_random.h"

#include <bit>
#include <cstdlib>
#include <cstring>

namespace hsm::testing {

void SeedDraws(uint64_t seed, uint64_t (&state)[4]) {
  for (uint64_t& word : state) {  // splitmix64, as the authors of xoshiro advise
    seed += 0x9e3779b97f4a7c15;
    uint64_t z = seed;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    word = z ^ z >> 31;
  }
}

uint64_t NextDraw(uint64_t (&state)[4]) {
  uint64_t result = std::rotl(state[1] * 5, 7) * 9;
  uint64_t shifted = state[1] << 17;
  state[2] ^= state[0];
  state[3] ^= state[1];
  state[1] ^= state[2];
  state[0] ^= state[3];
  state[2] ^= shifted;
  state[3] = std::rotl(state[3], 45);
  return result;
}

SeededRandom::SeededRandom(uint64_t seed) { SeedDraws(seed, state_); }

uint64_t SeededRandom::Next() {
  MutexLock lock(mutex_);
  return NextDraw(state_);
}

void SeededRandom::Fill(std::span<uint8_t> out) {
  MutexLock lock(mutex_);
  for (size_t at = 0; at < out.size(); at += 8) {
    uint64_t word = NextDraw(state_);
    std::memcpy(out.data() + at, &word, std::min<size_t>(8, out.size() - at));
  }
}

SeedRange SeedsToRun(SeedRange fallback) {
  if (const char* seed = std::getenv("QHSM_SEED")) return {std::strtoull(seed, nullptr, 10), 1};
  if (const char* seeds = std::getenv("QHSM_SEEDS")) fallback.count = std::strtoull(seeds, nullptr, 10);
  if (const char* first = std::getenv("QHSM_SEED_FIRST")) fallback.first = std::strtoull(first, nullptr, 10);
  return fallback;
}

void ReadSeedFlags(int& argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    bool one = std::strcmp(argv[i], "--seed") == 0;
    if ((one || std::strcmp(argv[i], "--seeds") == 0) && i + 1 < argc) {
      setenv(one ? "QHSM_SEED" : "QHSM_SEEDS", argv[++i], 1);
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
}

}  // namespace hsm::testing
