#pragma once
#include <cstdint>

namespace hsm::testing {

// An id of 16 bytes that ends in `n`.
template <typename Id>
Id Numbered(uint8_t n) {
  Id id;
  id.value[15] = n;
  return id;
}

}  // namespace hsm::testing
