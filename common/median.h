#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

namespace hsm {

// Of two in the middle the lower one. `values` is not empty.
template <typename Value>
Value LowerMedian(std::vector<Value> values) {
  auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace hsm
