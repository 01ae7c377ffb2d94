#include "coordinator/roles.h"

#include <algorithm>

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "coordinator/builtin_roles.h"
#include "coordinator/keys.h"
#include "coordinator/role_records.h"

namespace hsm {
namespace {

constexpr int kChangeAttempts = 5;  // against others changing roles

std::string Describe(const RoleSet& roles, const RoleAssignment& assignment) {
  const RoleDefinition* role = roles.Find(assignment.role);
  return assignment.scope + ": " + (role == nullptr ? GuidText(assignment.role) : role->name) + " to " +
         GuidText(assignment.principal);
}

const RoleAssignment* FindAt(const RoleSet& roles, const AssignmentId& id, std::string_view scope) {
  auto found = roles.assignments.find(id);
  return found == roles.assignments.end() || found->second.scope != scope ? nullptr : &found->second;
}

absl::Status NoAssignment(const AssignmentId& id, std::string_view scope) {
  return Error(v1::REASON_NOT_FOUND,
               "there is no role assignment " + GuidText(id) + " at " + std::string(scope));
}

}  // namespace

// --- look --------------------------------------------------------------------------------------------------

absl::StatusOr<v1::ListRoleDefinitionsResponse> Roles::ListDefinitions(
    const Caller& caller, const v1::ListRoleDefinitionsRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleDefinitionsRead, "ListRoleDefinitions"));
  RoleId after;
  if (!request.page_token().empty()) {
    HSM_ASSIGN_OR_RETURN(after, ParseRoleId(request.page_token()));
  }
  RoleViewPtr view = core_.roles.View();
  std::vector<const RoleDefinition*>
      rest;  // what comes after the token: built-in roles in their order, then the others
  bool met = after.IsZero();
  for (const RoleDefinition& role : BuiltInRoles()) {
    if (met && !request.custom_only()) rest.push_back(&role);
    met |= role.id == after;
  }
  for (const auto& [id, role] : view->set.custom) {
    if (met || id > after) rest.push_back(&role);
  }
  v1::ListRoleDefinitionsResponse response;
  for (const RoleDefinition* role : rest) {
    if (static_cast<uint32_t>(response.definitions_size()) == PageSize(request.page_size())) {
      response.set_next_page_token(response.definitions().rbegin()->name());
      break;
    }
    *response.add_definitions() = ShowRole(*role);
  }
  return response;
}

absl::StatusOr<v1::RoleDefinition> Roles::GetDefinition(const Caller& caller,
                                                        const v1::GetRoleDefinitionRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleDefinitionsRead, "GetRoleDefinition"));
  HSM_ASSIGN_OR_RETURN(RoleId id, ParseRoleId(request.name()));
  RoleViewPtr view = core_.roles.View();
  const RoleDefinition* role = view->set.Find(id);
  if (role == nullptr) return Error(v1::REASON_NOT_FOUND, "there is no role " + GuidText(id));
  return ShowRole(*role);
}

absl::StatusOr<v1::ListRoleAssignmentsResponse> Roles::ListAssignments(
    const Caller& caller, const v1::ListRoleAssignmentsRequest& request) {
  HSM_ASSIGN_OR_RETURN(std::string_view key, KeyOfScope(ScopeOrRoot(request.scope())));
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleAssignmentsRead, "ListRoleAssignments", key));
  std::optional<PrincipalId> principal;
  if (!request.principal_id().empty()) {
    principal = ParsePrincipal(request.principal_id());
    if (!principal) return Error(v1::REASON_INVALID_ARGUMENT, "the principal is a GUID");
  }
  AssignmentId after;
  if (!request.page_token().empty()) {
    HSM_ASSIGN_OR_RETURN(after, ParseAssignmentId(request.page_token()));
  }
  RoleViewPtr view = core_.roles.View();
  v1::ListRoleAssignmentsResponse response;
  for (auto it = view->set.assignments.upper_bound(after); it != view->set.assignments.end(); ++it) {
    std::string_view at = *KeyOfScope(it->second.scope);
    if (at != key && !(request.at_scope() && at.empty())) continue;
    if (principal && it->second.principal != *principal) continue;
    if (static_cast<uint32_t>(response.assignments_size()) == PageSize(request.page_size())) {
      response.set_next_page_token(response.assignments().rbegin()->name());
      break;
    }
    *response.add_assignments() = ShowRole(view->set, it->second);
  }
  return response;
}

absl::StatusOr<v1::RoleAssignment> Roles::GetAssignment(const Caller& caller,
                                                        const v1::GetRoleAssignmentRequest& request) {
  const std::string scope(ScopeOrRoot(request.scope()));
  HSM_ASSIGN_OR_RETURN(std::string_view key, KeyOfScope(scope));
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleAssignmentsRead, "GetRoleAssignment", key));
  HSM_ASSIGN_OR_RETURN(AssignmentId id, ParseAssignmentId(request.name()));
  RoleViewPtr view = core_.roles.View();
  const RoleAssignment* assignment = FindAt(view->set, id, scope);
  if (assignment == nullptr) return NoAssignment(id, scope);
  return ShowRole(view->set, *assignment);
}

// --- change ------------------------------------------------------------------------------------------------

absl::StatusOr<v1::RoleDefinition> Roles::PutDefinition(const Caller& caller,
                                                        const v1::PutRoleDefinitionRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleDefinitionsWrite, "PutRoleDefinition"));
  HSM_ASSIGN_OR_RETURN(RoleDefinition wanted, DecodeRole(request));
  wanted.id = core_.random.NewId<RoleId>();
  if (!request.name().empty()) {
    HSM_ASSIGN_OR_RETURN(wanted.id, ParseRoleId(request.name()));
  }
  return Change<v1::RoleDefinition>(
      caller, "PutRoleDefinition", request, [&](const RoleSet& roles) -> absl::StatusOr<Edit> {
        HSM_RETURN_IF_ERROR(CheckPut(roles, wanted, core_.config.role_limits));
        Edit edit{roles, {PutRoleOp(wanted)}, ShowRole(wanted).SerializeAsString(), wanted.name, false};
        if (auto before = roles.custom.find(wanted.id); before != roles.custom.end()) {
          edit.narrows = (before->second.Effective() & ~wanted.Effective()).any();
          if (before->second == wanted) edit.ops.clear();
        }
        edit.after.custom[wanted.id] = wanted;
        return edit;
      });
}

absl::StatusOr<v1::RoleDefinition> Roles::DeleteDefinition(const Caller& caller,
                                                           const v1::DeleteRoleDefinitionRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleDefinitionsDelete, "DeleteRoleDefinition"));
  HSM_ASSIGN_OR_RETURN(RoleId id, ParseRoleId(request.name()));
  return Change<v1::RoleDefinition>(caller, "DeleteRoleDefinition", request,
                                    [&](const RoleSet& roles) -> absl::StatusOr<Edit> {
                                      HSM_RETURN_IF_ERROR(CheckDelete(roles, id));
                                      const RoleDefinition& role = *roles.Find(id);
                                      Edit edit{roles,
                                                {StoreOp::Delete(store_key::RoleDefinition(id))},
                                                ShowRole(role).SerializeAsString(),
                                                role.name,
                                                true};
                                      edit.after.custom.erase(id);
                                      return edit;
                                    });
}

absl::StatusOr<v1::RoleAssignment> Roles::PutAssignment(const Caller& caller,
                                                        const v1::PutRoleAssignmentRequest& request) {
  HSM_ASSIGN_OR_RETURN(std::string_view key, KeyOfScope(ScopeOrRoot(request.scope())));
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleAssignmentsWrite, "PutRoleAssignment", key));
  HSM_ASSIGN_OR_RETURN(RoleAssignment wanted, DecodeRole(request));
  wanted.id = core_.random.NewId<AssignmentId>();
  if (!request.name().empty()) {
    HSM_ASSIGN_OR_RETURN(wanted.id, ParseAssignmentId(request.name()));
  }
  return Change<v1::RoleAssignment>(caller, "PutRoleAssignment", request,
                                    [&](const RoleSet& roles) -> absl::StatusOr<Edit> {
                                      HSM_RETURN_IF_ERROR(CheckPut(roles, wanted, core_.config.role_limits));
                                      Edit edit{roles,
                                                {PutRoleOp(wanted)},
                                                ShowRole(roles, wanted).SerializeAsString(),
                                                Describe(roles, wanted),
                                                false};
                                      if (roles.assignments.contains(wanted.id)) edit.ops.clear();
                                      edit.after.assignments[wanted.id] = wanted;
                                      return edit;
                                    });
}

absl::StatusOr<v1::RoleAssignment> Roles::DeleteAssignment(const Caller& caller,
                                                           const v1::DeleteRoleAssignmentRequest& request) {
  const std::string scope(ScopeOrRoot(request.scope()));
  HSM_ASSIGN_OR_RETURN(std::string_view key, KeyOfScope(scope));
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kRoleAssignmentsDelete, "DeleteRoleAssignment", key));
  HSM_ASSIGN_OR_RETURN(AssignmentId id, ParseAssignmentId(request.name()));
  return Change<v1::RoleAssignment>(caller, "DeleteRoleAssignment", request,
                                    [&](const RoleSet& roles) -> absl::StatusOr<Edit> {
                                      const RoleAssignment* assignment = FindAt(roles, id, scope);
                                      if (assignment == nullptr) return NoAssignment(id, scope);
                                      HSM_RETURN_IF_ERROR(CheckDelete(roles, id));
                                      Edit edit{roles,
                                                {StoreOp::Delete(store_key::RoleAssignment(id))},
                                                ShowRole(roles, *assignment).SerializeAsString(),
                                                Describe(roles, *assignment),
                                                true};
                                      edit.after.assignments.erase(id);
                                      return edit;
                                    });
}

template <typename Answer, typename Request>
absl::StatusOr<Answer> Roles::Change(const Caller& caller, std::string_view operation, const Request& request,
                                     const Decide& decide) {
  HSM_ASSIGN_OR_RETURN(std::string bytes,
                       Apply(caller, {operation, request.op_id(), BareBytes(request)}, decide));
  return ParseAnswer<Answer>(bytes);
}

absl::StatusOr<std::string> Roles::Apply(const Caller& caller, const Asked& asked, const Decide& decide) {
  HSM_RETURN_IF_ERROR(core_.MayChange());
  HSM_ASSIGN_OR_RETURN(OpIds::Begun begun, op_ids_.Begin(caller, asked.op_id, asked.operation, asked.bytes));
  if (begun.before.has_value()) {
    HSM_RETURN_IF_ERROR(Settle(begun.before->revoking()));
    return begun.before->response();
  }
  for (int attempt = 0; attempt < kChangeAttempts; ++attempt) {
    RoleViewPtr view = core_.roles.View();
    HSM_ASSIGN_OR_RETURN(Edit edit, decide(view->set));
    if (edit.ops.empty()) return edit.answer;
    rpc::StoredOp record;
    record.set_operation(std::string(asked.operation));
    record.set_response(edit.answer);
    record.set_time_ms(absl::ToUnixMillis(core_.clock.Now()));
    record.set_revoking(edit.narrows);
    hsm::Change change;
    change.audit = AuditOf(caller, asked.operation, edit.object);
    change.guards.push_back(StoreGuard::ModRevisionIs(store_key::Hsm(), core_.state.View()->store_revision));
    change.ops = std::move(edit.ops);
    OpIds::AddRecord(begun, record, change);
    ChangeResult result = Commit(*view, std::move(edit.after), std::move(change));
    if (result.outcome == StoreOutcome::kConflict) continue;
    HSM_RETURN_IF_ERROR(result.status);
    HSM_RETURN_IF_ERROR(Settle(edit.narrows));
    return edit.answer;
  }
  return Error(v1::REASON_REVISION_CONFLICT, "the roles are being changed by others");
}

// The change with the row that all changes of roles are guarded by; what it allows is in force when this
// returns.
ChangeResult Roles::Commit(const RoleView& before, RoleSet after, hsm::Change change) {
  auto next = std::make_shared<RoleView>();
  next->authz = Authz(after);
  next->set = std::move(after);
  next->revision = before.revision + 1;
  rpc::StoredRoles row;
  row.set_revision(next->revision);
  const std::string key = store_key::Roles();
  change.guards.push_back(before.store_revision == 0 ? StoreGuard::Absent(key)
                                                     : StoreGuard::ModRevisionIs(key, before.store_revision));
  change.ops.push_back(StoreOp::Put(key, row.SerializeAsString()));
  change.applied = [this, next](StoreRevision revision) {
    next->store_revision = revision;
    if (!HSM_MUTANT("role-change-not-applied")) core_.roles.Set(next);
  };
  return core_.committer.Commit(std::move(change));
}

// This coordinator decides by the new roles from the commit on. A leader of the past that has not noticed yet
// decides by the old ones: once every partition has heard of this epoch, or has no lease, nobody obeys it.
absl::Status Roles::Settle(bool narrows) {
  if (!narrows) return absl::OkStatus();
  rpc::ControlRequest control;
  control.set_hear_epoch(true);
  return core_.revoker.Barrier(control).status();
}

// --- start -------------------------------------------------------------------------------------------------

absl::Status Roles::Load() {
  HSM_ASSIGN_OR_RETURN(auto head, core_.catalogue.Read<rpc::StoredRoles>(store_key::Roles()));
  if (!head.has_value()) return Seed();
  auto view = std::make_shared<RoleView>();
  view->revision = head->value.revision();
  view->store_revision = head->mod_revision;
  auto read = [this]<typename Row>(const std::string& prefix, const Row&, auto& into) -> absl::Status {
    for (std::string after;;) {
      HSM_ASSIGN_OR_RETURN(auto page, core_.catalogue.Scan<Row>(prefix, after, limits::kStorePageMax));
      for (const auto& row : page.rows) {
        HSM_ASSIGN_OR_RETURN(auto decoded, DecodeRole(row.value));
        into[decoded.id] = decoded;
        after = row.key;
      }
      if (!page.more) return absl::OkStatus();
    }
  };
  HSM_RETURN_IF_ERROR(read(store_key::RoleDefinitionPrefix(), rpc::StoredRoleDefinition(), view->set.custom));
  HSM_RETURN_IF_ERROR(
      read(store_key::RoleAssignmentPrefix(), rpc::StoredRoleAssignment(), view->set.assignments));
  view->authz = Authz(view->set);
  core_.roles.Set(std::move(view));
  return ReinstateAdministrators();
}

// A store that never had roles: a new HSM, or one of a version that took them from the configuration.
absl::Status Roles::Seed() {
  HSM_ASSIGN_OR_RETURN(RoleSet roles, ConfiguredRoles(core_.config));
  hsm::Change change;
  change.audit = AuditOfSystem("SeedRoles", std::to_string(roles.assignments.size()) + " assignments");
  for (const auto& [id, assignment] : roles.assignments) change.ops.push_back(PutRoleOp(assignment));
  LogInfo("the roles of the configuration are taken over; from now on they are changed by calls",
          {{"assignments", roles.assignments.size()}});
  return Commit(RoleView(), std::move(roles), std::move(change)).status;
}

// The way back in for whoever holds the machine: administrators of the configuration who lost the role.
absl::Status Roles::ReinstateAdministrators() {
  if (!core_.config.reinstate_administrators) return absl::OkStatus();
  CoordinatorConfig only;
  only.administrators = core_.config.administrators;
  HSM_ASSIGN_OR_RETURN(RoleSet wanted, ConfiguredRoles(only));
  for (const auto& [id, assignment] : wanted.assignments) {
    RoleViewPtr view = core_.roles.View();
    const RoleAssignment& adding = assignment;
    bool has =
        std::any_of(view->set.assignments.begin(), view->set.assignments.end(), [&](const auto& there) {
          return there.second.principal == adding.principal && there.second.role == adding.role &&
                 there.second.scope == adding.scope;
        });
    if (has) continue;
    RoleSet after = view->set;
    after.assignments[id] = assignment;
    hsm::Change change;
    change.audit = AuditOfSystem("ReinstateAdministrator", Describe(after, assignment));
    change.ops.push_back(PutRoleOp(assignment));
    LogWarning("an administrator of the configuration has the role again",
               {{"principal", GuidText(assignment.principal)}});
    HSM_RETURN_IF_ERROR(Commit(*view, std::move(after), std::move(change)).status);
  }
  return absl::OkStatus();
}

}  // namespace hsm
