#pragma once
// The coordinator's settings; coordinator.toml of deploy/config. Unknown keys are errors.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/ids.h"

namespace hsm {

enum class HealingPolicy { kApproved, kAutomatic };

struct PartitionConfig {
  std::string name;
  std::string address;             // host:port
  std::string certificate_sha256;  // 64 hex digits, of the node's DER certificate; empty = any from the CA by
                                   // that name
};
struct AssignmentConfig {
  PrincipalId principal;
  std::string role;   // a built-in role's name or GUID
  std::string scope;  // "/", "/keys" or "/keys/NAME"
};

struct RoleLimits {                   // Azure's defaults
  uint32_t definitions = 50;          // custom roles
  uint32_t assignments = 50;          // at "/" and "/keys" together
  uint32_t assignments_per_key = 10;  // at one "/keys/NAME"
};

struct CoordinatorConfig {
  std::string name = "c1";
  std::string listen = "127.0.0.1:7400";
  std::string data_dir;

  std::string hsm_name;
  std::string hsm_domain = "managedhsm.local";
  uint32_t retention_days = 90;
  HealingPolicy healing = HealingPolicy::kApproved;
  bool purge_protection = false;

  std::vector<PartitionConfig> partitions;
  std::string tls_ca, tls_certificate, tls_key;  // PEM paths
  std::vector<PrincipalId> administrators;       // of a store that has no roles yet
  std::vector<AssignmentConfig> assignments;     // likewise
  RoleLimits role_limits;
  bool reinstate_administrators = false;

  bool allow_rsa1_5 = false;

  uint32_t max_busy_partitions = 1;
  std::optional<double> min_throughput;
  uint32_t restore_gate_minutes = 30;
  uint32_t rollback_hold_hours = 24;
  bool keep_administrators = true;

  std::string clock_file;  // common/virtual_clock.h; empty = the system's clock

  // Not in the file: timing and sizes that simulations shrink.
  absl::Duration tick = absl::Milliseconds(200);             // of the per-partition loops
  absl::Duration suspect_after = absl::Milliseconds(2'200);  // without a heartbeat
  absl::Duration down_after = absl::Seconds(5);
  absl::Duration leader_ttl = absl::Seconds(6);
  absl::Duration straggler_grace =
      absl::Milliseconds(250);  // waited for the last partitions once W have answered
  absl::Duration control_timeout = absl::Seconds(2);
  absl::Duration staged_age = absl::Seconds(60);  // before a STAGED record without a commit is swept
  uint32_t calls_per_partition = 8;               // management calls in flight to one partition
  double scrub_share_per_day = 0.01;              // of the key versions, per partition
};

absl::StatusOr<CoordinatorConfig> LoadCoordinatorConfig(const std::string& path);
absl::Status Validate(const CoordinatorConfig& config);

}  // namespace hsm
