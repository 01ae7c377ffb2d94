#include "common/random.h"

#include <openssl/rand.h>

#include <cstring>

#include "common/check.h"

namespace hsm {
namespace {

class OpenSslRandom final : public Random {
 public:
  void Fill(std::span<uint8_t> out) override {
    HSM_CHECK(RAND_bytes(out.data(), static_cast<int>(out.size())) == 1);
  }
};

}  // namespace

Bytes Random::Draw(size_t size) {
  Bytes out(size);
  Fill(out);
  return out;
}

uint64_t Random::Below(uint64_t bound) {
  HSM_CHECK(bound > 0);
  uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
  uint64_t value = 0;
  do {
    Fill({reinterpret_cast<uint8_t*>(&value), sizeof value});
  } while (value >= limit);
  return value % bound;
}

OpId Random::NewOpId(const Clock& clock) {
  OpId id = NewId<OpId>();
  uint64_t ms = static_cast<uint64_t>(absl::ToUnixMillis(clock.Now()));
  for (int i = 5; i >= 0; --i, ms >>= 8) id.value[i] = static_cast<uint8_t>(ms & 255);
  return id;
}

Random& SystemRandom() {
  static OpenSslRandom random;
  return random;
}

}  // namespace hsm
