#include "coordinator/key_state.h"

#include <limits>

#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

bool ReadsOldData(v1::KeyOperation operation) {
  return operation == v1::KEY_OPERATION_DECRYPT || operation == v1::KEY_OPERATION_UNWRAP_KEY ||
         operation == v1::KEY_OPERATION_VERIFY;
}

}  // namespace

absl::Status CheckUse(const KeyHead& head, v1::KeyOperation operation, int64_t now_seconds) {
  if (head.state != KeyState::kActive) return Error(v1::REASON_KEY_NOT_FOUND, "there is no key " + head.name);
  if (!head.enabled) return Error(v1::REASON_KEY_DISABLED, "key " + head.name + " is disabled");
  if ((head.operations & Bit(operation)) == 0) {
    return Error(v1::REASON_OPERATION_NOT_ALLOWED,
                 "key " + head.name + " does not allow " + OperationName(operation));
  }
  if (ReadsOldData(operation)) return absl::OkStatus();
  if (now_seconds < head.not_before.value_or(0)) {
    return Error(v1::REASON_KEY_OUTSIDE_VALIDITY, "key " + head.name + " is not valid yet");
  }
  if (now_seconds >= head.expires.value_or(kNever)) {
    return Error(v1::REASON_KEY_OUTSIDE_VALIDITY, "key " + head.name + " has expired");
  }
  return absl::OkStatus();
}

KeyHead Changed(const KeyHead& head, const AttributeChange& change) {
  KeyHead out = head;
  if (change.enabled) out.enabled = *change.enabled;
  auto time = [](const std::optional<int64_t>& wanted, std::optional<int64_t>& target) {
    if (wanted) target = *wanted == 0 ? std::nullopt : wanted;
  };
  time(change.not_before, out.not_before);
  time(change.expires, out.expires);
  if (change.operations) out.operations = *change.operations;
  if (change.tags) out.tags = *change.tags;
  return out;
}

absl::Status CheckChange(const KeyHead& head, const AttributeChange& change) {
  if (change.tags) HSM_RETURN_IF_ERROR(CheckTags(*change.tags));
  if (change.operations) {
    if (*change.operations == 0)
      return Error(v1::REASON_INVALID_ARGUMENT, "a key needs at least one operation");
    if ((*change.operations & ~OperationsThatFit(head.spec)) != 0) {
      return Error(v1::REASON_INVALID_ARGUMENT, "an operation does not fit the key's type");
    }
  }
  if (change.not_before.value_or(0) < 0 || change.expires.value_or(0) < 0) {
    return Error(v1::REASON_INVALID_ARGUMENT, "nbf and exp are seconds since 1970");
  }
  KeyHead after = Changed(head, change);
  if (after.not_before && after.expires && *after.not_before >= *after.expires) {
    return Error(v1::REASON_INVALID_ARGUMENT, "nbf must be before exp");
  }
  return absl::OkStatus();
}

bool Revokes(const KeyHead& head, const AttributeChange& change) {
  KeyHead after = Changed(head, change);
  if (head.enabled && !after.enabled) return true;
  if ((head.operations & ~after.operations) != 0) return true;
  if (after.not_before.value_or(0) > head.not_before.value_or(0)) return true;
  return after.expires.value_or(kNever) < head.expires.value_or(kNever);
}

}  // namespace hsm
