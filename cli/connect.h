#pragma once
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"

namespace hsm::cli {

// The cluster the environment points at (QHSM_ENDPOINT, QHSM_CA, QHSM_CERTIFICATE, QHSM_KEY, QHSM_HSM).
absl::StatusOr<std::unique_ptr<Client>> Connect();
// --timeout, read when Connect runs; absent = the client's defaults.
void SetTimeout(const std::optional<double>* seconds);
std::optional<absl::Duration> ChosenTimeout();

void Pause(absl::Duration time);

// "2027-01-31T00:00:00Z", "2027-01-31" or seconds since 1970. INVALID_ARGUMENT names `option`.
absl::StatusOr<int64_t> ParseTimeOption(const std::string& option, const std::string& text);
// Base64url, padding optional. INVALID_ARGUMENT names `option`.
absl::StatusOr<std::string> ParseBytesOption(const std::string& option, const std::string& text);
// --op-id: 16 bytes from 32 hex digits; "" for "".
absl::StatusOr<std::string> ParseOpIdOption(const std::string& text);

}  // namespace hsm::cli
