#pragma once
// Identifiers as types, so that a uid is never passed where a version belongs.
#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "common/bytes.h"

namespace hsm {

template <typename Tag>
struct Id16 {
  std::array<uint8_t, 16> value{};

  static std::optional<Id16> From(std::string_view bytes) {  // exactly 16 raw bytes
    if (bytes.size() != 16) return std::nullopt;
    Id16 id;
    std::memcpy(id.value.data(), bytes.data(), 16);
    return id;
  }
  static std::optional<Id16> FromHexText(std::string_view text) {
    auto bytes = FromHex(text);
    if (!bytes) return std::nullopt;
    return From(StringView(*bytes));
  }
  std::string Raw() const { return std::string(reinterpret_cast<const char*>(value.data()), 16); }
  std::string ToHex() const { return Hex(value); }
  bool IsZero() const { return value == std::array<uint8_t, 16>{}; }
  auto operator<=>(const Id16&) const = default;
};

using HsmId = Id16<struct HsmIdTag>;
using KeyUid = Id16<struct KeyUidTag>;            // one key, all its versions, for ever
using KeyVersion = Id16<struct KeyVersionTag>;    // shown as 32 hex digits
using PrincipalId = Id16<struct PrincipalTag>;    // a GUID, from urn:uuid: in the client certificate
using RoleId = Id16<struct RoleTag>;              // a GUID: of a role definition
using AssignmentId = Id16<struct AssignmentTag>;  // a GUID: of a role assignment
using BackupId = Id16<struct BackupIdTag>;
using JobId = Id16<struct JobIdTag>;

// 128 bits the caller chooses; the first 6 bytes are milliseconds since 1970 (big-endian), so that an id too
// old to be remembered can be told from a new one.
using OpId = Id16<struct OpIdTag>;
int64_t OpIdTimeMs(const OpId& id);

using Epoch = uint64_t;     // term of a leader
using DataSet = uint64_t;   // generation of the catalogue that serves
using Revision = uint64_t;  // state revision of a key head

// "urn:uuid:xxxxxxxx-xxxx-..." or the bare GUID.
std::optional<PrincipalId> ParsePrincipal(std::string_view text);

// GUIDs in their usual form: 8-4-4-4-12 hex digits, written in lower case.
std::optional<std::string> GuidBytes(std::string_view text);  // 16 raw bytes
std::string GuidText(std::string_view bytes);                 // of 16 raw bytes
template <typename Tag>
std::string GuidText(const Id16<Tag>& id) {
  return GuidText(id.Raw());
}
template <typename Id>
std::optional<Id> ParseGuid(std::string_view text) {
  std::optional<std::string> bytes = GuidBytes(text);
  return bytes ? Id::From(*bytes) : std::nullopt;
}

}  // namespace hsm

template <typename Tag>
struct std::hash<hsm::Id16<Tag>> {
  size_t operator()(const hsm::Id16<Tag>& id) const {
    size_t out;
    std::memcpy(&out, id.value.data() + 8, sizeof out);
    return out;
  }
};
