#pragma once
// The records that are the truth about keys: a head per key, immutable versions, and their canonical bytes.
// Grammar and example bytes: docs/replication.md, "Sealed records". What is sealed is made by a node from
// typed fields; what is opened has had its MAC checked inside a token first (node/sealer.h).
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/ids.h"
#include "hsm/internal/v1/sealed_record.pb.h"
#include "hsm/v1/key.pb.h"

namespace hsm {

// What a key is; never changes.
struct KeySpec {
  v1::KeyType type = v1::KEY_TYPE_UNSPECIFIED;
  v1::Curve curve = v1::CURVE_UNSPECIFIED;  // EC only
  uint32_t size_bits = 0;                   // RSA modulus, oct length, EC field size
  bool operator==(const KeySpec&) const = default;
};

using OperationSet = uint32_t;  // bit (1 << v1::KeyOperation)
constexpr OperationSet Bit(v1::KeyOperation operation) { return 1u << operation; }

enum class KeyState : uint8_t { kActive = 1, kDeleted = 2, kTombstone = 3 };

struct KeyHead {
  HsmId hsm;
  DataSet data_set = 0;
  KeyUid uid;
  uint32_t incarnation = 1;  // grows when a purged name's key comes back by a restore
  std::string name;
  KeySpec spec;
  KeyState state = KeyState::kActive;
  bool enabled = true;
  std::optional<int64_t> not_before;  // seconds since 1970 UTC, as all times here
  std::optional<int64_t> expires;
  OperationSet operations = 0;
  std::map<std::string, std::string> tags;
  std::optional<int64_t> deleted;
  std::optional<int64_t> scheduled_purge;
  bool purge_protection = false;  // only rises
  KeyVersion latest;
  uint32_t version_count = 0;
  Revision revision = 0;  // grows by one with each change
  int64_t created = 0;
  int64_t updated = 0;
  bool operator==(const KeyHead&) const = default;
};

struct VersionRecord {
  HsmId hsm;
  KeyUid uid;
  uint32_t incarnation = 1;
  KeyVersion version;
  uint32_t ordinal = 0;  // 1, 2, 3 ... within the key
  KeySpec spec;
  Bytes spki;  // DER; empty for oct
  uint32_t kek_generation = 1;
  Bytes wrapped;  // KWP (RFC 5649) under the replication KEK; empty in a backup's copy
  int64_t created = 0;
  bool operator==(const VersionRecord&) const = default;
};

Bytes Encode(const KeyHead& head);
Bytes Encode(const VersionRecord& version);
// RECORD_CORRUPT for anything but exactly the canonical bytes: re-encoding gives the same bytes.
absl::StatusOr<KeyHead> DecodeHead(ByteView body);
absl::StatusOr<VersionRecord> DecodeVersion(ByteView body);
inline absl::StatusOr<KeyHead> DecodeHead(const internal::v1::SealedRecord& sealed) {
  return DecodeHead(View(sealed.body()));
}
inline absl::StatusOr<VersionRecord> DecodeVersion(const internal::v1::SealedRecord& sealed) {
  return DecodeVersion(View(sealed.body()));
}

// `head` without what `later`, another head of the same key, does not allow: enabled, dates, operations.
// Whoever goes back to an older state uses it, so that nothing comes back that was revoked since. The rest is
// that of `head`.
KeyHead Narrowed(KeyHead head, const KeyHead& later);

// What a MAC covers besides the body. `purpose` separates uses: "record" for heads and versions, "backup" ...
Bytes MacInput(std::string_view purpose, const HsmId& hsm, uint32_t mac_generation, ByteView body);

// INVALID_ARGUMENT / UNSUPPORTED unless the fields can be a key: RSA 2048/3072/4096; EC with a known curve
// (size is filled in); oct 128/192/256. Applies the defaults P-256, 2048 and 256.
absl::StatusOr<KeySpec> CheckSpec(v1::KeyType type, v1::Curve curve, uint32_t size_bits);
OperationSet OperationsThatFit(const KeySpec& spec);
// The key_ops bit an algorithm's operation needs, and whether algorithm and key fit: ALGORITHM_MISMATCH if
// not.
absl::Status CheckAlgorithm(const KeySpec& spec, v1::Algorithm algorithm);
std::string CurveName(v1::Curve curve);      // "P-256"
std::string KeyTypeName(v1::KeyType type);   // "EC-HSM"
std::string AlgorithmName(v1::Algorithm a);  // "RSA-OAEP-256"
std::optional<v1::Curve> ParseCurve(std::string_view name);
std::optional<v1::KeyType> ParseKeyType(std::string_view name);  // also without "-HSM"
std::optional<v1::Algorithm> ParseAlgorithm(std::string_view name);
std::string OperationName(v1::KeyOperation operation);  // "wrapKey"
std::optional<v1::KeyOperation> ParseOperation(std::string_view name);
absl::Status CheckKeyName(std::string_view name);  // 1..127 of [0-9A-Za-z-]
absl::Status CheckTags(const std::map<std::string, std::string>& tags);

}  // namespace hsm
