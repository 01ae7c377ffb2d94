// Roles: names and flags follow `az keyvault role`.
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/documents.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/file.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "common/text.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr int kPagesMax = 1'000;
constexpr uint32_t kPageSize = 500;
constexpr size_t kDefinitionBytesMax = 64 * 1024;

struct RoleArguments {
  std::string name, role, assignee, scope = "/", definition, op_id;
  bool custom_only = false, at_scope = false;
};

absl::Status Usage(std::string_view problem) { return Error(v1::REASON_INVALID_ARGUMENT, problem); }

bool IsGuid(std::string_view text) { return GuidBytes(text.substr(text.find_last_of('/') + 1)).has_value(); }

// --- definitions -------------------------------------------------------------------------------------------

absl::StatusOr<std::vector<v1::RoleDefinition>> AllDefinitions(Client& client, bool custom_only) {
  std::vector<v1::RoleDefinition> all;
  v1::ListRoleDefinitionsRequest request;
  request.set_custom_only(custom_only);
  request.set_page_size(kPageSize);
  for (int page = 0; page < kPagesMax; ++page) {
    HSM_ASSIGN_OR_RETURN(v1::ListRoleDefinitionsResponse response, client.ListRoleDefinitions(request));
    all.insert(all.end(), response.definitions().begin(), response.definitions().end());
    request.set_page_token(response.next_page_token());
    if (request.page_token().empty()) break;
  }
  return all;
}

// The GUID of a role that a person names.
absl::StatusOr<std::string> RoleGuid(Client& client, const std::string& text) {
  if (IsGuid(text)) return text.substr(text.find_last_of('/') + 1);
  HSM_ASSIGN_OR_RETURN(std::vector<v1::RoleDefinition> all, AllDefinitions(client, false));
  for (const v1::RoleDefinition& role : all) {
    if (EqualsIgnoringCase(role.role_name(), text)) return role.name();
  }
  return Error(v1::REASON_NOT_FOUND,
               fmt::format("no role is called \"{}\"; `qhsm role definition list` shows all", text));
}

absl::Status PrintDefinition(const v1::RoleDefinition& role) {
  Print(RoleDefinitionJson(role), RoleDefinitionTable(role));
  return absl::OkStatus();
}

absl::Status ListDefinitions(const RoleArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(std::vector<v1::RoleDefinition> all, AllDefinitions(*client, a.custom_only));
  Json list = Json::Array();
  std::vector<std::vector<std::string>> rows = {{"ROLE", "NAME", "TYPE", "DESCRIPTION"}};
  for (const v1::RoleDefinition& role : all) {
    list.Add(RoleDefinitionJson(role));
    rows.push_back({role.role_name(), role.name(), role.role_type(), role.description()});
  }
  Print(Json::Object({{"role_definitions", list}}), Columns(rows));
  return absl::OkStatus();
}

absl::Status ShowDefinition(const RoleArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  v1::GetRoleDefinitionRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_name(), RoleGuid(*client, a.name));
  HSM_ASSIGN_OR_RETURN(v1::RoleDefinition role, client->GetRoleDefinition(request));
  return PrintDefinition(role);
}

// A member by Azure's name or ours: roleName, role_name.
const Json* Member(const Json& json, const char* camel, const char* snake) {
  const Json* found = json.Find(camel);
  return found != nullptr ? found : json.Find(snake);
}

std::string TextMember(const Json& json, const char* camel, const char* snake) {
  const Json* found = Member(json, camel, snake);
  return found == nullptr ? "" : found->AsString().value_or("");
}

absl::Status AddActions(const Json& json, const char* camel, const char* snake,
                        google::protobuf::RepeatedPtrField<std::string>* into) {
  const Json* found = Member(json, camel, snake);
  if (found == nullptr) return absl::OkStatus();
  for (const Json& item : found->items()) {
    std::optional<std::string> text = item.AsString();
    if (!found->IsArray() || !text) return Usage(fmt::format("{} is a list of texts", camel));
    *into->Add() = *text;
  }
  return absl::OkStatus();
}

// The document of --role-definition: as az takes it (roleName, description, dataActions, notDataActions), or
// as `show` prints it (with a list of permissions).
absl::StatusOr<v1::PutRoleDefinitionRequest> DecodeDefinition(const std::string& option) {
  std::string text = option;
  if (option.starts_with('@')) {
    HSM_ASSIGN_OR_RETURN(text, ReadTextFile(option.substr(1), kDefinitionBytesMax));
  }
  absl::StatusOr<Json> json = Json::Parse(text);
  if (!json.ok() || !json->IsObject()) {
    return Usage("--role-definition takes a JSON object, or @FILE with one");
  }
  v1::PutRoleDefinitionRequest request;
  request.set_name(TextMember(*json, "name", "name"));
  request.set_role_name(TextMember(*json, "roleName", "role_name"));
  request.set_description(TextMember(*json, "description", "description"));
  HSM_RETURN_IF_ERROR(
      AddActions(*json, "assignableScopes", "assignable_scopes", request.mutable_assignable_scopes()));
  std::vector<const Json*> permissions = {&*json};
  if (const Json* list = json->Find("permissions")) {
    for (const Json& permission : list->items()) permissions.push_back(&permission);
  }
  for (const Json* permission : permissions) {
    v1::RolePermission& into = *request.mutable_permission();
    HSM_RETURN_IF_ERROR(AddActions(*permission, "dataActions", "data_actions", into.mutable_data_actions()));
    HSM_RETURN_IF_ERROR(
        AddActions(*permission, "notDataActions", "not_data_actions", into.mutable_not_data_actions()));
    for (const char* name : {"actions", "notActions", "not_actions"}) {
      const Json* found = permission->Find(name);
      if (found != nullptr && !found->items().empty()) {
        return Usage(fmt::format("{} stays empty: roles of an HSM consist of data actions", name));
      }
    }
  }
  return request;
}

absl::Status PutDefinition(const RoleArguments& a, bool update) {
  HSM_ASSIGN_OR_RETURN(v1::PutRoleDefinitionRequest request, DecodeDefinition(a.definition));
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  if (!a.name.empty()) request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  if (update) {
    if (request.name().empty()) request.set_name(request.role_name());
    HSM_ASSIGN_OR_RETURN(*request.mutable_name(), RoleGuid(*client, request.name()));
    v1::GetRoleDefinitionRequest there;
    there.set_name(request.name());
    HSM_RETURN_IF_ERROR(client->GetRoleDefinition(there).status());
  }
  HSM_ASSIGN_OR_RETURN(v1::RoleDefinition role, client->PutRoleDefinition(request));
  return PrintDefinition(role);
}
absl::Status CreateDefinition(const RoleArguments& a) { return PutDefinition(a, false); }
absl::Status UpdateDefinition(const RoleArguments& a) { return PutDefinition(a, true); }

absl::Status DeleteDefinition(const RoleArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  v1::DeleteRoleDefinitionRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  HSM_ASSIGN_OR_RETURN(*request.mutable_name(), RoleGuid(*client, a.name));
  HSM_ASSIGN_OR_RETURN(v1::RoleDefinition role, client->DeleteRoleDefinition(request));
  return PrintDefinition(role);
}

// --- assignments -------------------------------------------------------------------------------------------

absl::Status PrintAssignment(const v1::RoleAssignment& assignment) {
  Print(RoleAssignmentJson(assignment), RoleAssignmentTable(assignment));
  return absl::OkStatus();
}

// Those that --scope, --assignee and --role leave.
absl::StatusOr<std::vector<v1::RoleAssignment>> FindAssignments(Client& client, const RoleArguments& a) {
  std::string role;
  if (!a.role.empty()) {
    HSM_ASSIGN_OR_RETURN(role, RoleGuid(client, a.role));
  }
  std::vector<v1::RoleAssignment> found;
  v1::ListRoleAssignmentsRequest request;
  request.set_scope(a.scope);
  request.set_principal_id(a.assignee);
  request.set_at_scope(a.at_scope);
  request.set_page_size(kPageSize);
  for (int page = 0; page < kPagesMax; ++page) {
    HSM_ASSIGN_OR_RETURN(v1::ListRoleAssignmentsResponse response, client.ListRoleAssignments(request));
    for (const v1::RoleAssignment& assignment : response.assignments()) {
      const std::string& id = assignment.role_definition_id();
      if (role.empty() || EqualsIgnoringCase(id.substr(id.find_last_of('/') + 1), role)) {
        found.push_back(assignment);
      }
    }
    request.set_page_token(response.next_page_token());
    if (request.page_token().empty()) break;
  }
  return found;
}

absl::Status ListAssignments(const RoleArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(std::vector<v1::RoleAssignment> found, FindAssignments(*client, a));
  Json list = Json::Array();
  std::vector<std::vector<std::string>> rows = {{"PRINCIPAL", "ROLE", "SCOPE", "NAME"}};
  for (const v1::RoleAssignment& assignment : found) {
    list.Add(RoleAssignmentJson(assignment));
    rows.push_back({assignment.principal_id(),
                    assignment.role_name().empty() ? "(gone)" : assignment.role_name(), assignment.scope(),
                    assignment.name()});
  }
  Print(Json::Object({{"role_assignments", list}}), Columns(rows));
  return absl::OkStatus();
}

absl::Status ShowAssignment(const RoleArguments& a) {
  v1::GetRoleAssignmentRequest request;
  request.set_scope(a.scope);
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::RoleAssignment assignment, client->GetRoleAssignment(request));
  return PrintAssignment(assignment);
}

absl::Status CreateAssignment(const RoleArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  v1::PutRoleAssignmentRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  request.set_scope(a.scope);
  request.set_name(a.name);
  request.set_principal_id(a.assignee);
  HSM_ASSIGN_OR_RETURN(*request.mutable_role_definition_id(), RoleGuid(*client, a.role));
  HSM_ASSIGN_OR_RETURN(v1::RoleAssignment assignment, client->PutRoleAssignment(request));
  return PrintAssignment(assignment);
}

absl::Status DeleteAssignment(const RoleArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  v1::DeleteRoleAssignmentRequest request;
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  request.set_scope(a.scope);
  request.set_name(a.name);
  if (a.name.empty()) {
    if (a.role.empty() || a.assignee.empty()) return Usage("say which: --name, or --role and --assignee");
    HSM_ASSIGN_OR_RETURN(std::vector<v1::RoleAssignment> found, FindAssignments(*client, a));
    std::erase_if(found, [&](const v1::RoleAssignment& each) { return each.scope() != a.scope; });
    if (found.empty()) {
      return Error(v1::REASON_NOT_FOUND, fmt::format("{} has no role {} at {}", a.assignee, a.role, a.scope));
    }
    request.set_name(found[0].name());  // there is one: the same is not assigned twice
  }
  HSM_ASSIGN_OR_RETURN(v1::RoleAssignment assignment, client->DeleteRoleAssignment(request));
  return PrintAssignment(assignment);
}

using Action = absl::Status (*)(const RoleArguments&);
using Arguments = std::shared_ptr<RoleArguments>;

constexpr char kScopeAbout[] = "/, /keys (both: the whole HSM) or /keys/NAME";

void AddDefinitionCommands(Command& role, const Arguments& a) {
  Command noun = role.Sub("definition", "What roles there are, and what each grants");
  auto verb = [&](const char* name, const char* about, Action action) {
    Command made = noun.Sub(name, about);
    made.Does([a, action] { return action(*a); });
    return made;
  };
  Command list = verb("list", "List built-in and custom roles", &ListDefinitions);
  list.Flag("--custom-role-only", a->custom_only, "without the built-in ones");
  Command show = verb("show", "Show one role", &ShowDefinition);
  show.Text("-n,--name,NAME", a->name, "GUID or name of the role").Required();
  show.Example("qhsm role definition show \"Managed HSM Crypto User\"");
  Command create = verb("create", "Make a custom role", &CreateDefinition);
  Command update = verb("update", "Replace what a custom role grants", &UpdateDefinition);
  for (Command* each : {&create, &update}) {
    each->Text("--role-definition", a->definition,
               "JSON or @FILE: roleName, description, dataActions, notDataActions; no wildcards")
        .Required();
    each->Text("-n,--name", a->name, "GUID of the role; create chooses one if left out");
    each->Text("--op-id", a->op_id, "32 hex digits: the same id has one effect");
  }
  create.Example(
      "qhsm role definition create --role-definition '{\"roleName\": \"Signer\", \"dataActions\": "
      "[\"Microsoft.KeyVault/managedHsm/keys/sign/action\"]}'");
  Command del =
      verb("delete", "Delete a custom role; its assignments grant nothing any more", &DeleteDefinition);
  del.Text("-n,--name,NAME", a->name, "GUID or name of the role").Required();
  del.Text("--op-id", a->op_id, "32 hex digits: the same id has one effect");
}

void AddAssignmentCommands(Command& role, const Arguments& a) {
  Command noun = role.Sub("assignment", "Who holds which role, and where");
  auto verb = [&](const char* name, const char* about, Action action) {
    Command made = noun.Sub(name, about);
    made.Does([a, action] { return action(*a); });
    made.Text("--scope", a->scope, kScopeAbout);
    return made;
  };
  Command list =
      verb("list", "List assignments: at / those over the whole HSM, at a key its own", &ListAssignments);
  list.Text("--assignee,--assignee-object-id", a->assignee, "GUID of the principal");
  list.Text("--role", a->role, "GUID or name of the role");
  list.Flag("--at-scope", a->at_scope, "at a key: also those over the whole HSM, which hold there too");
  list.Example("qhsm role assignment list --scope /keys/invoices --at-scope");
  Command show = verb("show", "Show one assignment", &ShowAssignment);
  show.Text("-n,--name,NAME", a->name, "GUID of the assignment").Required();
  Command create = verb("create", "Assign a role", &CreateAssignment);
  create.Text("--role", a->role, "GUID or name of the role").Required();
  create
      .Text("--assignee,--assignee-object-id", a->assignee,
            "GUID of the principal, as its certificate names it")
      .Required();
  create.Text("-n,--name", a->name, "GUID of the assignment; chosen if left out");
  create.Text("--op-id", a->op_id, "32 hex digits: the same id has one effect");
  create.Example(
      "qhsm role assignment create --role \"Managed HSM Crypto User\" --scope /keys/invoices --assignee "
      "11111111-1111-1111-1111-111111111111");
  Command del = verb("delete", "Take a role away; in force when answered", &DeleteAssignment);
  del.Text("-n,--name", a->name, "GUID of the assignment");
  del.Text("--role", a->role, "with --assignee instead of --name");
  del.Text("--assignee,--assignee-object-id", a->assignee, "with --role instead of --name");
  del.Text("--op-id", a->op_id, "32 hex digits: the same id has one effect");
}

}  // namespace

void AddRoleCommands(Command& root) {
  Arguments a = std::make_shared<RoleArguments>();
  Command role = root.Sub("role", "Roles: what they grant, and who holds them where");
  AddDefinitionCommands(role, a);
  AddAssignmentCommands(role, a);
}

}  // namespace hsm::cli
