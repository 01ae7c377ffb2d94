#pragma once
#include <strings.h>

#include <string_view>

namespace hsm {

// ASCII letters in either case are the same.
inline bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace hsm
