#pragma once
// One failure and its faces. Every error in the system is an absl::Status that carries a Reason; the table in
// error.cc says what gRPC, PKCS#11 and REST show for it. docs/errors.md is for people.
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hsm/v1/error.pb.h"

namespace hsm {

// Builds a non-OK status carrying `reason`. `detail` reaches logs and callers: no secrets, no PINs.
absl::Status Error(v1::Reason reason, std::string_view detail);
absl::Status Error(const v1::ErrorDetail& detail);

// A token failure; `rv` is the CK_RV and `function` the C_* call.
absl::Status TokenError(v1::Reason reason, uint64_t rv, std::string_view function);

// BUSY with advice.
absl::Status BusyError(uint32_t retry_after_ms, std::string_view detail);

// The reason a status carries; REASON_UNSPECIFIED for OK, INTERNAL for a status made elsewhere.
v1::Reason ReasonOf(const absl::Status& status);
v1::ErrorDetail DetailOf(const absl::Status& status);

// "KEY_NOT_FOUND": the name without its prefix, as JSON output and logs show it.
std::string_view ReasonName(v1::Reason reason);
// What a person can do next; one sentence.
std::string_view ReasonHint(v1::Reason reason);

struct ReasonFaces {
  absl::StatusCode code;  // and the gRPC code, which has the same numbers
  uint64_t pkcs11;        // CK_RV
  int http;
  std::string_view rest_code;
};
const ReasonFaces& FacesOf(v1::Reason reason);

// Another partition may succeed where this one failed with `reason`; the caller's mistakes never qualify.
bool IsDeviceFailure(v1::Reason reason);

}  // namespace hsm
