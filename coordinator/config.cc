#include "coordinator/config.h"

#include <set>

#include "common/bytes.h"
#include "common/config.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/record.h"
#include "common/status_macros.h"
#include "coordinator/role_rules.h"

namespace hsm {
namespace {

absl::Status Invalid(std::string_view problem) { return Error(v1::REASON_CONFIG_INVALID, problem); }

PrincipalId ReadPrincipal(Config& table) {
  std::string text;
  table.Require("principal", text);
  auto principal = ParsePrincipal(text);
  if (!principal && !text.empty()) table.Fail("principal", "must be a GUID");
  return principal.value_or(PrincipalId());
}

void ReadHsm(Config table, CoordinatorConfig& out) {
  table.Require("name", out.hsm_name);
  table.Read("domain", out.hsm_domain);
  table.Read("retention_days", out.retention_days);
  table.Read("purge_protection", out.purge_protection);
  std::string healing = "approved";
  table.Read("healing", healing);
  if (healing == "automatic") {
    out.healing = HealingPolicy::kAutomatic;
  } else if (healing != "approved") {
    table.Fail("healing", "must be \"approved\" or \"automatic\"");
  }
}

void ReadPartition(Config table, CoordinatorConfig& out) {
  PartitionConfig partition;
  table.Require("name", partition.name);
  table.Require("address", partition.address);
  table.Read("certificate_sha256", partition.certificate_sha256);
  out.partitions.push_back(std::move(partition));
}

void ReadAssignment(Config table, CoordinatorConfig& out) {
  AssignmentConfig assignment;
  assignment.principal = ReadPrincipal(table);
  table.Require("role", assignment.role);
  table.Require("scope", assignment.scope);
  out.assignments.push_back(std::move(assignment));
}

}  // namespace

absl::StatusOr<CoordinatorConfig> LoadCoordinatorConfig(const std::string& path) {
  HSM_ASSIGN_OR_RETURN(Config file, Config::Load(path));
  CoordinatorConfig out;
  file.Read("name", out.name);
  file.Read("listen", out.listen);
  file.RequirePath("data_dir", out.data_dir);
  ReadHsm(file.Table("hsm"), out);
  for (Config& table : file.Tables("partition")) ReadPartition(table, out);
  Config tls = file.Table("tls");
  tls.RequirePath("ca", out.tls_ca);
  tls.RequirePath("certificate", out.tls_certificate);
  tls.RequirePath("key", out.tls_key);
  for (Config& table : file.Tables("administrator")) out.administrators.push_back(ReadPrincipal(table));
  for (Config& table : file.Tables("assignment")) ReadAssignment(table, out);
  Config roles = file.Table("roles");
  roles.Read("definitions_max", out.role_limits.definitions);
  roles.Read("assignments_max", out.role_limits.assignments);
  roles.Read("assignments_per_key_max", out.role_limits.assignments_per_key);
  roles.Read("reinstate_administrators", out.reinstate_administrators);
  Config crypto = file.Table("crypto");
  crypto.Read("allow_rsa1_5", out.allow_rsa1_5);
  Config backup = file.Table("backup");
  backup.Read("max_busy_partitions", out.max_busy_partitions);
  backup.Read("min_throughput", out.min_throughput);
  Config restore = file.Table("restore");
  restore.Read("gate_minutes", out.restore_gate_minutes);
  restore.Read("rollback_hold_hours", out.rollback_hold_hours);
  restore.Read("keep_administrators", out.keep_administrators);
  file.Table("dev").ReadPath("clock_file", out.clock_file);
  HSM_RETURN_IF_ERROR(file.Finish());
  absl::Status valid = Validate(out);
  if (!valid.ok()) return Invalid(path + ": " + DetailOf(valid).message());
  return out;
}

absl::Status Validate(const CoordinatorConfig& config) {
  if (config.name.empty()) return Invalid("name is missing");
  if (!CheckKeyName(config.hsm_name).ok()) return Invalid("hsm.name has 1 to 127 of 0-9 A-Z a-z and -");
  if (config.retention_days < limits::kRetentionDaysMin || config.retention_days > limits::kRetentionDaysMax)
    return Invalid("hsm.retention_days is 7 to 90");
  if (config.partitions.empty() || config.partitions.size() > limits::kPartitionsMax) {
    return Invalid("there are 1 to " + std::to_string(limits::kPartitionsMax) + " partitions");
  }
  std::set<std::string> names, addresses;
  for (const PartitionConfig& partition : config.partitions) {
    if (partition.name.empty()) return Invalid("a partition has no name");
    if (!names.insert(partition.name).second) return Invalid("two partitions are called " + partition.name);
    if (!addresses.insert(partition.address).second)
      return Invalid("two partitions are at " + partition.address);
    auto pin = FromHex(partition.certificate_sha256);
    if (!pin || (!pin->empty() && pin->size() != 32)) {
      return Invalid("certificate_sha256 of " + partition.name + " is not 64 hex digits");
    }
  }
  if (config.administrators.empty())
    return Invalid("there is no [[administrator]]: nobody could do anything");
  const RoleLimits& roles = config.role_limits;
  if (roles.definitions > limits::kRoleDefinitionsMax || roles.assignments > limits::kRoleAssignmentsMax ||
      roles.assignments_per_key > limits::kRoleAssignmentsMax || roles.assignments < 1) {
    return Invalid("roles: definitions_max is at most " + std::to_string(limits::kRoleDefinitionsMax) +
                   ", assignments_max and assignments_per_key_max at most " +
                   std::to_string(limits::kRoleAssignmentsMax) + ", and assignments_max at least 1");
  }
  HSM_RETURN_IF_ERROR(ConfiguredRoles(config).status());
  if (config.max_busy_partitions < 1) return Invalid("backup.max_busy_partitions is at least 1");
  if (config.min_throughput && (*config.min_throughput < 0 || *config.min_throughput > 1)) {
    return Invalid("backup.min_throughput is a ratio, 0 to 1");
  }
  return absl::OkStatus();
}

}  // namespace hsm
