#pragma once
#include <cstdint>
#include <span>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/ids.h"

namespace hsm {

// The seam of chance. Thread-safe. Production fills from OpenSSL; keys themselves are made by the token.
class Random {
 public:
  virtual ~Random() = default;
  virtual void Fill(std::span<uint8_t> out) = 0;

  Bytes Draw(size_t size);
  uint64_t Below(uint64_t bound);  // uniform in [0, bound); bound > 0
  template <typename Id>
  Id NewId() {
    Id id;
    Fill(id.value);
    return id;
  }
  OpId NewOpId(const Clock& clock);  // carries clock.Now()
};

Random& SystemRandom();

}  // namespace hsm
