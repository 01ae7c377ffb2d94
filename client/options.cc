#include "client/options.h"

#include <cstdlib>

#include "absl/strings/str_split.h"
#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

absl::Status ReadVariable(const char* name, std::string& out) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') {
    return Error(v1::REASON_CONFIG_INVALID,
                 std::string(name) + " is not set; `qhsm dev env` prints it for a dev cluster");
  }
  out = value;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ClientOptions> ClientOptions::FromEnvironment() {
  ClientOptions options;
  std::string endpoints;
  HSM_RETURN_IF_ERROR(ReadVariable("QHSM_ENDPOINT", endpoints));
  HSM_RETURN_IF_ERROR(ReadVariable("QHSM_CA", options.ca));
  HSM_RETURN_IF_ERROR(ReadVariable("QHSM_CERTIFICATE", options.certificate));
  HSM_RETURN_IF_ERROR(ReadVariable("QHSM_KEY", options.key));
  if (const char* hsm = std::getenv("QHSM_HSM")) options.hsm = hsm;
  if (const char* clock = std::getenv("QHSM_CLOCK_FILE")) options.clock_file = clock;
  options.endpoints = absl::StrSplit(endpoints, ',', absl::SkipWhitespace());
  if (options.endpoints.empty()) return Error(v1::REASON_CONFIG_INVALID, "QHSM_ENDPOINT has no address");
  return options;
}

}  // namespace hsm
