#include "common/ids.h"

namespace hsm {

int64_t OpIdTimeMs(const OpId& id) {
  int64_t ms = 0;
  for (int i = 0; i < 6; ++i) ms = ms << 8 | id.value[i];
  return ms;
}

std::optional<std::string> GuidBytes(std::string_view text) {
  if (text.size() != 36) return std::nullopt;
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash != (text[i] == '-')) return std::nullopt;
    if (!dash) digits.push_back(text[i]);
  }
  std::optional<Bytes> bytes = FromHex(digits);
  if (!bytes) return std::nullopt;
  return ToString(*bytes);
}

std::string GuidText(std::string_view bytes) {
  std::string hex = Hex(View(bytes));
  return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-" + hex.substr(12, 4) + "-" + hex.substr(16, 4) + "-" +
         hex.substr(20);
}

std::optional<PrincipalId> ParsePrincipal(std::string_view text) {
  constexpr std::string_view kPrefix = "urn:uuid:";
  if (text.starts_with(kPrefix)) text.remove_prefix(kPrefix.size());
  return ParseGuid<PrincipalId>(text);
}

}  // namespace hsm
