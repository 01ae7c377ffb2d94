#include "common/error.h"

#include <string>

#include "absl/strings/cord.h"
#include "common/check.h"

namespace hsm {
namespace {

using absl::StatusCode;

constexpr std::string_view kPayload = "hsm.v1.ErrorDetail";

// CK_RV values, PKCS#11 v2.40 base, section 6.
enum : uint64_t {
  kGeneralError = 0x05,
  kFunctionFailed = 0x06,
  kArgumentsBad = 0x07,
  kDataInvalid = 0x20,
  kDeviceError = 0x30,
  kDeviceMemory = 0x31,
  kEncryptedDataInvalid = 0x40,
  kFunctionCanceled = 0x50,
  kKeyHandleInvalid = 0x60,
  kKeyTypeInconsistent = 0x63,
  kKeyFunctionNotPermitted = 0x68,
  kMechanismInvalid = 0x70,
  kPinIncorrect = 0xA0,
  kSessionHandleInvalid = 0xB3,
  kTokenNotPresent = 0xE0,
  kUserNotLoggedIn = 0x101,
  kAttributeValueInvalid = 0x13,
  kActionProhibited = 0x1B,
};

struct Row {
  v1::Reason reason;
  ReasonFaces faces;
  std::string_view hint;
};

constexpr Row kReasons[] = {
    {v1::REASON_INVALID_ARGUMENT,
     {StatusCode::kInvalidArgument, kArgumentsBad, 400, "BadParameter"},
     "Correct the request; nothing was done."},
    {v1::REASON_UNAUTHENTICATED,
     {StatusCode::kUnauthenticated, kUserNotLoggedIn, 401, "Unauthorized"},
     "Use a client certificate with a principal (URI SAN urn:uuid:...) from the cluster's CA."},
    {v1::REASON_PERMISSION_DENIED,
     {StatusCode::kPermissionDenied, kKeyFunctionNotPermitted, 403, "Forbidden"},
     "Ask an administrator for a role that allows this, at the key's scope or above."},
    {v1::REASON_LIMIT_EXCEEDED,
     {StatusCode::kInvalidArgument, kDeviceMemory, 400, "BadParameter"},
     "Stay below the limit named in the message, or raise it in the coordinator's configuration."},
    {v1::REASON_UNSUPPORTED,
     {StatusCode::kUnimplemented, kMechanismInvalid, 400, "NotSupported"},
     "Choose another key type or algorithm; `qhsm-node probe` says what a token can do."},
    {v1::REASON_KEY_NOT_FOUND,
     {StatusCode::kNotFound, kKeyHandleInvalid, 404, "KeyNotFound"},
     "Check the name with `qhsm key list`."},
    {v1::REASON_KEY_EXISTS,
     {StatusCode::kAlreadyExists, kAttributeValueInvalid, 409, "Conflict"},
     "Choose another name, or add a version with `qhsm key rotate`."},
    {v1::REASON_KEY_DISABLED,
     {StatusCode::kFailedPrecondition, kKeyFunctionNotPermitted, 403, "Forbidden"},
     "Enable the key with `qhsm key set-attributes --enabled true`."},
    {v1::REASON_KEY_OUTSIDE_VALIDITY,
     {StatusCode::kFailedPrecondition, kKeyFunctionNotPermitted, 403, "Forbidden"},
     "Change nbf or exp with `qhsm key set-attributes`, or use another key."},
    {v1::REASON_OPERATION_NOT_ALLOWED,
     {StatusCode::kFailedPrecondition, kKeyFunctionNotPermitted, 403, "Forbidden"},
     "The key's operations do not include this; see `qhsm key show`."},
    {v1::REASON_ALGORITHM_MISMATCH,
     {StatusCode::kInvalidArgument, kKeyTypeInconsistent, 400, "BadParameter"},
     "Use an algorithm that fits the key's type, curve and size."},
    {v1::REASON_REVISION_CONFLICT,
     {StatusCode::kAborted, kFunctionFailed, 409, "Conflict"},
     "Somebody changed the key meanwhile: read it again, then repeat."},
    {v1::REASON_DATA_INVALID,
     {StatusCode::kInvalidArgument, kDataInvalid, 400, "BadParameter"},
     "Correct the length of the digest, data, IV or tag."},
    {v1::REASON_DECRYPTION_FAILED,
     {StatusCode::kInvalidArgument, kEncryptedDataInvalid, 400, "BadParameter"},
     "The ciphertext, tag, IV, additional data, key or algorithm is not the one used to encrypt."},
    {v1::REASON_OP_ID_CONFLICT,
     {StatusCode::kAlreadyExists, kFunctionFailed, 409, "Conflict"},
     "Use a new op id for a new request."},
    {v1::REASON_OP_ID_EXPIRED,
     {StatusCode::kFailedPrecondition, kFunctionFailed, 409, "Conflict"},
     "Look at the current state, then repeat with a new op id."},
    {v1::REASON_OUTCOME_UNKNOWN,
     {StatusCode::kUnknown, kFunctionFailed, 500, "InternalError"},
     "Repeat the request with the same op id: it finishes what was begun and has one effect."},
    {v1::REASON_NO_QUORUM,
     {StatusCode::kUnavailable, kDeviceError, 503, "ServiceUnavailable"},
     "Bring partitions back (`qhsm status`); nothing was done, and key use goes on."},
    {v1::REASON_NO_PARTITION,
     {StatusCode::kUnavailable, kTokenNotPresent, 503, "ServiceUnavailable"},
     "No READY partition holds this key: see `qhsm status`."},
    {v1::REASON_BUSY,
     {StatusCode::kResourceExhausted, kDeviceMemory, 429, "TooManyRequests"},
     "Wait as long as retry_after says, then repeat."},
    {v1::REASON_DEADLINE_EXCEEDED,
     {StatusCode::kDeadlineExceeded, kFunctionFailed, 504, "GatewayTimeout"},
     "Repeat, with a longer deadline if the cluster is loaded."},
    {v1::REASON_FENCED,
     {StatusCode::kFailedPrecondition, kDeviceError, 503, "ServiceUnavailable"},
     "A newer leader or state exists; repeat the request."},
    {v1::REASON_NOT_ACTIVE,
     {StatusCode::kFailedPrecondition, kTokenNotPresent, 409, "Conflict"},
     "Wait until `qhsm status` shows the HSM active."},
    {v1::REASON_NOT_FOUND,
     {StatusCode::kNotFound, kArgumentsBad, 404, "NotFound"},
     "Check the name or id given."},
    {v1::REASON_CONFLICT,
     {StatusCode::kFailedPrecondition, kFunctionFailed, 409, "Conflict"},
     "Wait for the other job or change the object's state first."},
    {v1::REASON_UNREACHABLE,
     {StatusCode::kUnavailable, kDeviceError, 503, "ServiceUnavailable"},
     "Check that the process runs, the address is right and both certificates are of one CA; see `qhsm "
     "status`."},
    {v1::REASON_RECORD_CORRUPT,
     {StatusCode::kDataLoss, kDeviceError, 500, "InternalError"},
     "The record is quarantined and fetched again; see the audit log and docs/operations.md."},
    {v1::REASON_PROOF_FAILED,
     {StatusCode::kDataLoss, kDeviceError, 500, "InternalError"},
     "The partition is out of rotation; run `qhsm key prove` and docs/operations.md, section proofs."},
    {v1::REASON_TOMBSTONED,
     {StatusCode::kFailedPrecondition, kKeyHandleInvalid, 404, "KeyNotFound"},
     "The key was destroyed; it comes back only by a restore."},
    {v1::REASON_OTHER_DOMAIN,
     {StatusCode::kFailedPrecondition, kFunctionFailed, 403, "Forbidden"},
     "Restore it into an HSM with the same security domain."},
    {v1::REASON_TOKEN_FAILED,
     {StatusCode::kUnavailable, kDeviceError, 500, "InternalError"},
     "Another partition is tried by itself; look at the node's log for the CK_RV."},
    {v1::REASON_TOKEN_SESSION,
     {StatusCode::kUnavailable, kSessionHandleInvalid, 500, "InternalError"},
     "The node repairs its session by itself; repeat the request."},
    {v1::REASON_TOKEN_CAPACITY,
     {StatusCode::kResourceExhausted, kDeviceMemory, 503, "ServiceUnavailable"},
     "Lower the node's sessions or key cache in its configuration."},
    {v1::REASON_PIN_INCORRECT,
     {StatusCode::kFailedPrecondition, kPinIncorrect, 500, "InternalError"},
     "Correct the PIN file, then start the node again; it is tried once per start."},
    {v1::REASON_SELF_TEST_FAILED,
     {StatusCode::kFailedPrecondition, kDeviceError, 500, "InternalError"},
     "The partition stays out; its join-probe report names the test that failed."},
    {v1::REASON_STORE_FAILED,
     {StatusCode::kUnavailable, kDeviceError, 503, "ServiceUnavailable"},
     "Check the coordinator's store (disk, permissions); nothing was changed."},
    {v1::REASON_STORE_FULL,
     {StatusCode::kResourceExhausted, kDeviceMemory, 503, "ServiceUnavailable"},
     "Free disk space on the coordinator's host; deleting still works."},
    {v1::REASON_STORE_ROLLED_BACK,
     {StatusCode::kFailedPrecondition, kDeviceError, 503, "ServiceUnavailable"},
     "The store is older than what the partitions saw: see docs/operations.md, section rolled-back store."},
    {v1::REASON_BACKUP_INVALID,
     {StatusCode::kInvalidArgument, kDataInvalid, 400, "BadParameter"},
     "Use another folder; `qhsm backup list --target DIR` shows which are complete."},
    {v1::REASON_TARGET_FAILED,
     {StatusCode::kUnavailable, kFunctionFailed, 500, "InternalError"},
     "Check that the coordinator can read and write the target and that it has space."},
    {v1::REASON_RESTORE_GATE,
     {StatusCode::kFailedPrecondition, kActionProhibited, 409, "Conflict"},
     "Make a full backup first (`qhsm backup start`), then restore within 30 minutes."},
    {v1::REASON_AUDIT_FAILED,
     {StatusCode::kUnavailable, kDeviceError, 503, "ServiceUnavailable"},
     "The audit log cannot be written; free its disk. Nothing was done."},
    {v1::REASON_CONFIG_INVALID,
     {StatusCode::kInvalidArgument, kArgumentsBad, 400, "BadParameter"},
     "Correct the configuration file; deploy/config has every key with unit and default."},
    {v1::REASON_LOCKED,
     {StatusCode::kFailedPrecondition, kFunctionFailed, 409, "Conflict"},
     "Stop the other process that uses this directory."},
    {v1::REASON_CANCELLED,
     {StatusCode::kCancelled, kFunctionCanceled, 499, "Cancelled"},
     "Repeat if still wanted."},
    {v1::REASON_INTERNAL,
     {StatusCode::kInternal, kGeneralError, 500, "InternalError"},
     "This is a bug: please report it with the correlation id and the logs."},
};

const Row& RowOf(v1::Reason reason) {
  for (const Row& row : kReasons) {
    if (row.reason == reason) return row;
  }
  return kReasons[std::size(kReasons) - 1];
}

std::string_view Clip(std::string_view text) { return text.substr(0, 1024); }

}  // namespace

absl::Status Error(const v1::ErrorDetail& detail) {
  absl::Status status(FacesOf(detail.reason()).code,
                      std::string(ReasonName(detail.reason())) + ": " + detail.message());
  status.SetPayload(std::string(kPayload), absl::Cord(detail.SerializeAsString()));
  return status;
}

absl::Status Error(v1::Reason reason, std::string_view detail) {
  HSM_CHECK(reason != v1::REASON_UNSPECIFIED);
  v1::ErrorDetail out;
  out.set_reason(reason);
  out.set_message(std::string(Clip(detail)));
  return Error(out);
}

absl::Status TokenError(v1::Reason reason, uint64_t rv, std::string_view function) {
  v1::ErrorDetail out;
  out.set_reason(reason);
  out.set_token_rv(rv);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (uint64_t rest = rv; rest != 0 || hex.empty(); rest >>= 4) hex.insert(hex.begin(), kDigits[rest & 15]);
  out.set_message(std::string(function) + " returned 0x" + hex);
  return Error(out);
}

absl::Status BusyError(uint32_t retry_after_ms, std::string_view detail) {
  v1::ErrorDetail out;
  out.set_reason(v1::REASON_BUSY);
  out.set_message(std::string(Clip(detail)));
  out.set_retry_after_ms(retry_after_ms);
  return Error(out);
}

v1::ErrorDetail DetailOf(const absl::Status& status) {
  v1::ErrorDetail detail;
  if (status.ok()) return detail;
  auto payload = status.GetPayload(std::string(kPayload));
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) {
    detail.set_reason(v1::REASON_INTERNAL);
    detail.set_message(std::string(status.message()));
  }
  return detail;
}

v1::Reason ReasonOf(const absl::Status& status) {
  return status.ok() ? v1::REASON_UNSPECIFIED : DetailOf(status).reason();
}

std::string_view ReasonName(v1::Reason reason) {
  std::string_view name = v1::Reason_Name(reason);
  if (name.empty()) return "INTERNAL";
  name.remove_prefix(std::string_view("REASON_").size());
  return name;
}

std::string_view ReasonHint(v1::Reason reason) { return RowOf(reason).hint; }
const ReasonFaces& FacesOf(v1::Reason reason) { return RowOf(reason).faces; }

bool IsDeviceFailure(v1::Reason reason) {
  switch (reason) {
    case v1::REASON_TOKEN_FAILED:
    case v1::REASON_TOKEN_SESSION:
    case v1::REASON_TOKEN_CAPACITY:
    case v1::REASON_UNREACHABLE:
    case v1::REASON_FENCED:
    case v1::REASON_NOT_ACTIVE:
    case v1::REASON_RECORD_CORRUPT:
    case v1::REASON_PROOF_FAILED:
    case v1::REASON_AUDIT_FAILED:
    case v1::REASON_NO_PARTITION:
    case v1::REASON_PIN_INCORRECT:
    case v1::REASON_SELF_TEST_FAILED:
      return true;
    default:
      return false;
  }
}

}  // namespace hsm
