#include "common/ids.h"

namespace hsm {

int64_t OpIdTimeMs(const OpId& id) {
  int64_t ms = 0;
  for (int i = 0; i < 6; ++i) ms = ms << 8 | id.value[i];
  return ms;
}

std::optional<PrincipalId> ParsePrincipal(std::string_view text) {
  constexpr std::string_view kPrefix = "urn:uuid:";
  if (text.starts_with(kPrefix)) text.remove_prefix(kPrefix.size());
  if (text.size() != 36) return std::nullopt;
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash != (text[i] == '-')) return std::nullopt;
    if (!dash) digits.push_back(text[i]);
  }
  return PrincipalId::FromHexText(digits);
}

std::string GuidText(const PrincipalId& id) {
  std::string hex = id.ToHex();
  return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-" + hex.substr(12, 4) + "-" + hex.substr(16, 4) + "-" +
         hex.substr(20);
}

}  // namespace hsm
