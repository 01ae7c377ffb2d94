#pragma once
// Role definitions and assignments as data, and the rules about changing them. Pure: no locks, no I/O, no
// clock. Who may make a change is decided before (coordinator/authz.h).
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "coordinator/config.h"
#include "coordinator/permissions.h"

namespace hsm {

struct RoleDefinition {
  RoleId id;
  std::string name;  // "Managed HSM Crypto User"; unique in any case
  std::string description;
  bool built_in = false;
  std::vector<DataAction> actions;      // what it grants,
  std::vector<DataAction> not_actions;  // but not these
  ActionSet Effective() const;
  bool operator==(const RoleDefinition&) const = default;
};

struct RoleAssignment {
  AssignmentId id;
  PrincipalId principal;
  RoleId role;
  std::string scope;  // "/", "/keys" or "/keys/NAME"
  bool operator==(const RoleAssignment&) const = default;
};

// All roles of one HSM: the custom ones, and who holds which role where.
struct RoleSet {
  std::map<RoleId, RoleDefinition> custom;
  std::map<AssignmentId, RoleAssignment> assignments;

  const RoleDefinition* Find(
      const RoleId& id) const;  // built in or custom; null: an assignment of it is defunct
  const RoleDefinition* Find(std::string_view name_or_guid) const;
};

// The key's name; empty for "/" and "/keys", which both mean the whole HSM. INVALID_ARGUMENT for what is no
// scope.
absl::StatusOr<std::string_view> KeyOfScope(std::string_view scope);

// What a request may ask for. INVALID_ARGUMENT (names, descriptions, actions), LIMIT_EXCEEDED, CONFLICT (a
// name that is taken, a GUID that defunct assignments still name, an assignment that exists), NOT_FOUND (the
// role).
absl::Status CheckPut(const RoleSet& roles, const RoleDefinition& wanted, const RoleLimits& limits);
absl::Status CheckPut(const RoleSet& roles, const RoleAssignment& wanted, const RoleLimits& limits);
// INVALID_ARGUMENT for a built-in role, NOT_FOUND. Its assignments stay and grant nothing.
absl::Status CheckDelete(const RoleSet& roles, const RoleId& id);
// CONFLICT if nobody would hold the Managed HSM Administrator role over the whole HSM any more; NOT_FOUND.
absl::Status CheckDelete(const RoleSet& roles, const AssignmentId& id);

// The roles a new HSM begins with: administrators at "/", and the configured assignments. Their GUIDs follow
// from what they say. CONFIG_INVALID.
absl::StatusOr<RoleSet> ConfiguredRoles(const CoordinatorConfig& config);

}  // namespace hsm
