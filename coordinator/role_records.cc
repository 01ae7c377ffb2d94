#include "coordinator/role_records.h"

#include <algorithm>

#include "common/error.h"
#include "common/status_macros.h"
#include "store/catalogue.h"

namespace hsm {
namespace {

constexpr std::string_view kDefinitionIds =
    "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/";
constexpr std::string_view kAssignmentIds = "/providers/Microsoft.Authorization/roleAssignments/";

absl::Status Invalid(std::string_view problem) { return Error(v1::REASON_INVALID_ARGUMENT, problem); }
absl::Status Corrupt(std::string_view problem) { return Error(v1::REASON_RECORD_CORRUPT, problem); }

std::string DefinitionId(const RoleId& id) { return std::string(kDefinitionIds).append(GuidText(id)); }

template <typename Names>
absl::StatusOr<std::vector<DataAction>> DecodeActions(const Names& names) {
  std::vector<DataAction> actions;
  for (const std::string& name : names) {
    std::optional<DataAction> action = FindAction(name);
    if (!action) {
      return Invalid(name.find('*') == std::string::npos
                         ? "there is no data action " + name.substr(0, 100)
                         : "data actions are named one by one, without wildcards: " + name.substr(0, 100));
    }
    if (std::find(actions.begin(), actions.end(), *action) == actions.end()) actions.push_back(*action);
  }
  return actions;
}

template <typename Id>
absl::StatusOr<Id> ParseTail(std::string_view text, std::string_view what) {
  std::optional<Id> id = ParseGuid<Id>(text.substr(text.find_last_of('/') + 1));
  if (!id) return Invalid("a " + std::string(what) + " is named by a GUID");
  return *id;
}

}  // namespace

StoreOp PutRoleOp(const RoleDefinition& role) {
  rpc::StoredRoleDefinition stored;
  stored.set_id(role.id.Raw());
  stored.set_name(role.name);
  stored.set_description(role.description);
  for (DataAction action : role.actions) stored.add_data_actions(FullActionName(action));
  for (DataAction action : role.not_actions) stored.add_not_data_actions(FullActionName(action));
  return StoreOp::Put(store_key::RoleDefinition(role.id), stored.SerializeAsString());
}

StoreOp PutRoleOp(const RoleAssignment& assignment) {
  rpc::StoredRoleAssignment stored;
  stored.set_id(assignment.id.Raw());
  stored.set_principal(assignment.principal.Raw());
  stored.set_role(assignment.role.Raw());
  stored.set_scope(assignment.scope);
  return StoreOp::Put(store_key::RoleAssignment(assignment.id), stored.SerializeAsString());
}

absl::StatusOr<RoleDefinition> DecodeRole(const rpc::StoredRoleDefinition& stored) {
  RoleDefinition role;
  std::optional<RoleId> id = RoleId::From(stored.id());
  if (!id) return Corrupt("a stored role has no GUID");
  auto actions = DecodeActions(stored.data_actions());
  auto not_actions = DecodeActions(stored.not_data_actions());
  for (const absl::Status& status : {actions.status(), not_actions.status()}) {
    if (!status.ok()) return Corrupt("stored role " + stored.name() + ": " + DetailOf(status).message());
  }
  return RoleDefinition{*id,   stored.name(),       stored.description(),
                        false, *std::move(actions), *std::move(not_actions)};
}

absl::StatusOr<RoleAssignment> DecodeRole(const rpc::StoredRoleAssignment& stored) {
  std::optional<AssignmentId> id = AssignmentId::From(stored.id());
  std::optional<PrincipalId> principal = PrincipalId::From(stored.principal());
  std::optional<RoleId> role = RoleId::From(stored.role());
  if (!id || !principal || !role || !KeyOfScope(stored.scope()).ok()) {
    return Corrupt("a stored role assignment does not say who, what and where");
  }
  return RoleAssignment{*id, *principal, *role, stored.scope()};
}

v1::RoleDefinition ShowRole(const RoleDefinition& role) {
  v1::RoleDefinition out;
  out.set_id(DefinitionId(role.id));
  out.set_name(GuidText(role.id));
  out.set_role_name(role.name);
  out.set_description(role.description);
  out.set_role_type(role.built_in ? "AKVBuiltInRole" : "CustomRole");
  out.add_assignable_scopes("/");
  v1::RolePermission& permission = *out.add_permissions();
  for (DataAction action : role.actions) permission.add_data_actions(FullActionName(action));
  for (DataAction action : role.not_actions) permission.add_not_data_actions(FullActionName(action));
  return out;
}

v1::RoleAssignment ShowRole(const RoleSet& roles, const RoleAssignment& assignment) {
  v1::RoleAssignment out;
  out.set_id((assignment.scope == "/" ? "" : assignment.scope) + std::string(kAssignmentIds) +
             GuidText(assignment.id));
  out.set_name(GuidText(assignment.id));
  out.set_scope(assignment.scope);
  out.set_role_definition_id(DefinitionId(assignment.role));
  out.set_principal_id(GuidText(assignment.principal));
  if (const RoleDefinition* role = roles.Find(assignment.role)) out.set_role_name(role->name);
  return out;
}

absl::StatusOr<RoleDefinition> DecodeRole(const v1::PutRoleDefinitionRequest& request) {
  for (const std::string& scope : request.assignable_scopes()) {
    if (scope != "/")
      return Invalid("a role is assignable at / and below: assignable_scopes is \"/\" or left out");
  }
  RoleDefinition role;
  role.name = request.role_name();
  role.description = request.description();
  HSM_ASSIGN_OR_RETURN(role.actions, DecodeActions(request.permission().data_actions()));
  HSM_ASSIGN_OR_RETURN(role.not_actions, DecodeActions(request.permission().not_data_actions()));
  return role;
}

absl::StatusOr<RoleAssignment> DecodeRole(const v1::PutRoleAssignmentRequest& request) {
  RoleAssignment assignment;
  HSM_ASSIGN_OR_RETURN(assignment.role, ParseRoleId(request.role_definition_id()));
  std::optional<PrincipalId> principal = ParsePrincipal(request.principal_id());
  if (!principal) return Invalid("the principal is a GUID");
  assignment.principal = *principal;
  assignment.scope = ScopeOrRoot(request.scope());
  return assignment;
}

absl::StatusOr<RoleId> ParseRoleId(std::string_view text) {
  return ParseTail<RoleId>(text, "role definition");
}
absl::StatusOr<AssignmentId> ParseAssignmentId(std::string_view text) {
  return ParseTail<AssignmentId>(text, "role assignment");
}
std::string_view ScopeOrRoot(std::string_view scope) { return scope.empty() ? "/" : scope; }

}  // namespace hsm
