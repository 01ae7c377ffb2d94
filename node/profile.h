#pragma once
// The capacity and latency of a named appliance, laid over a token, so that a cluster on a laptop queues and
// slows down as the appliance would. A profile is a queue: `units` servers, each operation taking units /
// rate seconds on one of them. Rates are operations per second of one partition, from the vendor's published
// tables (deploy/config/profiles). Operations without a published rate are not slowed. Thread-safe.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/record.h"

namespace hsm {

enum class ProfileOperation { kCreate, kSign, kVerify, kEncrypt, kDecrypt, kWrap, kUnwrap };

struct ProfileOptions {
  std::string name = "none";
  std::string source;             // where the figures come from
  uint32_t units = 1;             // operations the device works on at a time
  uint32_t queue_ms_max = 2'000;  // longer queues answer BUSY
  // rate by operation, then by key class: "RSA-2048", "P-256", "oct-256" ..., operations per second
  std::map<ProfileOperation, std::map<std::string, double>> rates;
};

class DeviceProfile {
 public:
  DeviceProfile(ProfileOptions options, Clock& clock) : options_(std::move(options)), clock_(clock) {
    free_at_.resize(options_.units);
  }

  // Reads a profile file; CONFIG_INVALID names the key that is wrong.
  static absl::StatusOr<ProfileOptions> Load(const std::string& path);

  // Waits in the device's queue and for the time the device would take. BUSY (with advice) when the queue is
  // longer than queue_ms_max: nothing was taken then.
  absl::Status Serve(ProfileOperation operation, const KeySpec& spec);

  // Operations per second the device does of this kind; nothing if not limited. For forecasts.
  std::optional<double> Rate(ProfileOperation operation, const KeySpec& spec) const;
  const std::string& name() const { return options_.name; }

 private:
  const ProfileOptions options_;
  Clock& clock_;
  Mutex mutex_;
  CondVar never_;                                               // only for waiting on the clock
  std::vector<absl::Duration> free_at_ HSM_GUARDED_BY(mutex_);  // of each unit, on Clock::Uptime()
};

std::string KeyClassName(const KeySpec& spec);  // "RSA-2048", "P-256", "oct-256"

}  // namespace hsm
