#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hsm {

using Bytes = std::vector<uint8_t>;
using ByteView = std::span<const uint8_t>;

inline ByteView View(std::string_view s) { return {reinterpret_cast<const uint8_t*>(s.data()), s.size()}; }
inline std::string_view StringView(ByteView b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }
inline std::string ToString(ByteView b) { return std::string(StringView(b)); }
inline Bytes ToBytes(std::string_view s) { return Bytes(s.begin(), s.end()); }

std::string Hex(ByteView bytes);                            // lower case
std::optional<Bytes> FromHex(std::string_view text);        // even length, either case; otherwise nothing
std::string Base64Url(ByteView bytes);                      // RFC 4648 section 5, no padding
std::optional<Bytes> FromBase64Url(std::string_view text);  // padding optional; strict otherwise

// Length and content compared in time that depends on the lengths only.
bool EqualConstantTime(ByteView a, ByteView b);

}  // namespace hsm
