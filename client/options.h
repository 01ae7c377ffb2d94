#pragma once
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace hsm {

// Where the cluster is and who we are.
struct ClientOptions {
  std::vector<std::string> endpoints;  // host:port of coordinators; tried in turn
  std::string ca, certificate, key;    // PEM paths
  std::string hsm;                     // name of the HSM; informational while a coordinator serves one
  std::string clock_file;  // common/virtual_clock.h, of a development cluster; empty = the system's clock
  absl::Duration timeout = absl::Seconds(30);        // of a management call, retries included
  absl::Duration crypto_timeout = absl::Seconds(5);  // of a crypto operation, retries included

  // QHSM_ENDPOINT (host:port[,host:port]), QHSM_CA, QHSM_CERTIFICATE, QHSM_KEY, QHSM_HSM, QHSM_CLOCK_FILE.
  // CONFIG_INVALID names the first that is missing.
  static absl::StatusOr<ClientOptions> FromEnvironment();
};

}  // namespace hsm
