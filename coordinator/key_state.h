#pragma once
// Which operation a key allows now, and which change takes something away. Pure; as Azure Managed HSM
// decides.
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/record.h"
#include "hsm/v1/key.pb.h"

namespace hsm {

// KEY_NOT_FOUND unless active; KEY_DISABLED; KEY_OUTSIDE_VALIDITY (decrypt, unwrap and verify are allowed
// outside nbf and exp, so that old data can be read); OPERATION_NOT_ALLOWED. `now_seconds` since 1970 UTC.
absl::Status CheckUse(const KeyHead& head, v1::KeyOperation operation, int64_t now_seconds);

// A change of attributes as asked for; absent = stays.
struct AttributeChange {
  std::optional<bool> enabled;
  std::optional<int64_t> not_before;  // 0 removes
  std::optional<int64_t> expires;     // 0 removes
  std::optional<OperationSet> operations;
  std::optional<std::map<std::string, std::string>> tags;
};
// INVALID_ARGUMENT for operations that do not fit the key's type, tags over the limits, nbf not before exp.
absl::Status CheckChange(const KeyHead& head, const AttributeChange& change);
// Whether anything allowed before is not allowed after: such a change is acknowledged only behind the
// barrier.
bool Revokes(const KeyHead& head, const AttributeChange& change);
KeyHead Changed(const KeyHead& head, const AttributeChange& change);  // without revision and time

}  // namespace hsm
