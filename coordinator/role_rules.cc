#include "coordinator/role_rules.h"

#include <algorithm>

#include "common/aead.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/record.h"
#include "common/status_macros.h"
#include "common/text.h"
#include "coordinator/builtin_roles.h"

namespace hsm {
namespace {

constexpr std::string_view kKeyScope = "/keys/";

bool IsAdministrator(const RoleAssignment& assignment) {
  return GuidText(assignment.role) == kAdministratorRole && *KeyOfScope(assignment.scope) == "";
}

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7F; });
}

absl::Status CheckText(std::string_view what, std::string_view text, size_t bytes_max) {
  if (text.size() > bytes_max || !IsPrintable(text)) {
    return Error(v1::REASON_INVALID_ARGUMENT, "the role's " + std::string(what) + " has at most " +
                                                  std::to_string(bytes_max) +
                                                  " bytes, none of them control characters");
  }
  return absl::OkStatus();
}

absl::Status TooMany(std::string_view what, uint32_t limit, std::string_view setting) {
  return Error(v1::REASON_LIMIT_EXCEEDED, "there are " + std::to_string(limit) + " " + std::string(what) +
                                              " already, the most there can be (roles." +
                                              std::string(setting) + ")");
}

// A GUID that follows from what the assignment says, so that seeding twice makes one.
AssignmentId SeedId(const RoleAssignment& assignment) {
  std::string text = assignment.principal.Raw() + assignment.role.Raw() + assignment.scope;
  return *AssignmentId::From(StringView(Sha256(View(text))).substr(0, 16));
}

}  // namespace

ActionSet RoleDefinition::Effective() const {
  ActionSet set;
  for (DataAction action : actions) set.set(static_cast<size_t>(action));
  for (DataAction action : not_actions) set.reset(static_cast<size_t>(action));
  return set;
}

const RoleDefinition* RoleSet::Find(const RoleId& id) const {
  if (const RoleDefinition* role = FindBuiltInRole(id)) return role;
  auto found = custom.find(id);
  return found == custom.end() ? nullptr : &found->second;
}

const RoleDefinition* RoleSet::Find(std::string_view name_or_guid) const {
  if (std::optional<RoleId> id = ParseGuid<RoleId>(name_or_guid)) return Find(*id);
  if (const RoleDefinition* role = FindBuiltInRole(name_or_guid)) return role;
  for (const auto& [id, role] : custom) {
    if (EqualsIgnoringCase(role.name, name_or_guid)) return &role;
  }
  return nullptr;
}

absl::StatusOr<std::string_view> KeyOfScope(std::string_view scope) {
  if (scope == "/" || scope == "/keys") return std::string_view();
  if (scope.starts_with(kKeyScope)) {
    std::string_view name = scope.substr(kKeyScope.size());
    if (CheckKeyName(name).ok()) return name;
  }
  return Error(v1::REASON_INVALID_ARGUMENT, "a scope is /, /keys or /keys/NAME, not " + std::string(scope));
}

absl::Status CheckPut(const RoleSet& roles, const RoleDefinition& wanted, const RoleLimits& limits) {
  if (FindBuiltInRole(wanted.id) != nullptr) {
    return Error(v1::REASON_INVALID_ARGUMENT, "a built-in role cannot be changed");
  }
  if (wanted.name.empty()) return Error(v1::REASON_INVALID_ARGUMENT, "a role needs a name");
  HSM_RETURN_IF_ERROR(CheckText("name", wanted.name, limits::kRoleNameBytesMax));
  HSM_RETURN_IF_ERROR(CheckText("description", wanted.description, limits::kRoleDescriptionBytesMax));
  if (wanted.Effective().none()) return Error(v1::REASON_INVALID_ARGUMENT, "the role grants nothing");
  const RoleDefinition* same_name = roles.Find(wanted.name);
  if (same_name != nullptr && same_name->id != wanted.id) {
    return Error(v1::REASON_CONFLICT, "there is a role called " + same_name->name + " already");
  }
  if (roles.custom.contains(wanted.id)) return absl::OkStatus();  // a change of it
  if (roles.custom.size() >= limits.definitions) {
    return TooMany("custom roles", limits.definitions, "definitions_max");
  }
  for (const auto& [id, assignment] : roles.assignments) {
    if (assignment.role == wanted.id) {
      return Error(v1::REASON_CONFLICT,
                   "assignments of an earlier role with this GUID are still there: delete "
                   "them first, or let the server choose a GUID");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPut(const RoleSet& roles, const RoleAssignment& wanted, const RoleLimits& limits) {
  HSM_ASSIGN_OR_RETURN(std::string_view key, KeyOfScope(wanted.scope));
  if (wanted.principal.IsZero())
    return Error(v1::REASON_INVALID_ARGUMENT, "the principal is a GUID, not zero");
  if (roles.Find(wanted.role) == nullptr) {
    return Error(v1::REASON_NOT_FOUND, "there is no role " + GuidText(wanted.role));
  }
  if (auto same = roles.assignments.find(wanted.id); same != roles.assignments.end()) {
    if (same->second == wanted) return absl::OkStatus();
    return Error(v1::REASON_CONFLICT,
                 "role assignment " + GuidText(wanted.id) +
                     " says something else: an assignment is not changed, but deleted and made anew");
  }
  size_t at_scope = 0;
  for (const auto& [id, assignment] : roles.assignments) {
    if (*KeyOfScope(assignment.scope) != key) continue;
    ++at_scope;
    if (assignment.principal == wanted.principal && assignment.role == wanted.role &&
        assignment.scope == wanted.scope) {
      return Error(v1::REASON_CONFLICT, "role assignment " + GuidText(id) + " says the same already");
    }
  }
  if (key.empty() && at_scope >= limits.assignments) {
    return TooMany("assignments over the whole HSM", limits.assignments, "assignments_max");
  }
  if (!key.empty() && at_scope >= limits.assignments_per_key) {
    return TooMany("assignments at this key", limits.assignments_per_key, "assignments_per_key_max");
  }
  return absl::OkStatus();
}

absl::Status CheckDelete(const RoleSet& roles, const RoleId& id) {
  if (const RoleDefinition* role = FindBuiltInRole(id)) {
    return Error(v1::REASON_INVALID_ARGUMENT, role->name + " is built in and stays");
  }
  if (!roles.custom.contains(id)) return Error(v1::REASON_NOT_FOUND, "there is no role " + GuidText(id));
  return absl::OkStatus();
}

absl::Status CheckDelete(const RoleSet& roles, const AssignmentId& id) {
  auto found = roles.assignments.find(id);
  if (found == roles.assignments.end()) {
    return Error(v1::REASON_NOT_FOUND, "there is no role assignment " + GuidText(id));
  }
  if (!IsAdministrator(found->second) || HSM_MUTANT("forget-last-administrator")) return absl::OkStatus();
  for (const auto& [other, assignment] : roles.assignments) {
    if (other != id && IsAdministrator(assignment)) return absl::OkStatus();
  }
  return Error(
      v1::REASON_CONFLICT,
      "this is the last administrator: assign the Managed HSM Administrator role to somebody else first");
}

absl::StatusOr<RoleSet> ConfiguredRoles(const CoordinatorConfig& config) {
  RoleSet roles;
  auto add = [&](const PrincipalId& principal, const RoleId& role, const std::string& scope) -> absl::Status {
    RoleAssignment assignment{{}, principal, role, scope};
    assignment.id = SeedId(assignment);
    absl::Status may = CheckPut(roles, assignment, config.role_limits);
    if (!may.ok()) return Error(v1::REASON_CONFIG_INVALID, DetailOf(may).message());
    roles.assignments[assignment.id] = std::move(assignment);
    return absl::OkStatus();
  };
  const RoleId administrator = FindBuiltInRole(kAdministratorRole)->id;
  for (const PrincipalId& principal : config.administrators) {
    HSM_RETURN_IF_ERROR(add(principal, administrator, "/"));
  }
  for (const AssignmentConfig& assignment : config.assignments) {
    const RoleDefinition* role = FindBuiltInRole(assignment.role);
    if (role == nullptr) {
      return Error(v1::REASON_CONFIG_INVALID, "no built-in role is called " + assignment.role);
    }
    HSM_RETURN_IF_ERROR(add(assignment.principal, role->id, assignment.scope));
  }
  if (roles.assignments.size() > limits::kConfiguredAssignmentsMax) {
    return Error(v1::REASON_CONFIG_INVALID,
                 "a configuration has at most " + std::to_string(limits::kConfiguredAssignmentsMax) +
                     " role assignments: make the others with `qhsm role assignment create`");
  }
  return roles;
}

}  // namespace hsm
