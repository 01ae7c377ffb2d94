#include "cli/documents.h"
#include "cli/output.h"

namespace hsm::cli {
namespace {

Json Texts(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  Json out = Json::Array();
  for (const std::string& text : texts) out.Add(Json(text));
  return out;
}

}  // namespace

Json RoleDefinitionJson(const v1::RoleDefinition& role) {
  Json permissions = Json::Array();
  for (const v1::RolePermission& permission : role.permissions()) {
    permissions.Add(Json::Object({{"actions", Json::Array()},
                                  {"not_actions", Json::Array()},
                                  {"data_actions", Texts(permission.data_actions())},
                                  {"not_data_actions", Texts(permission.not_data_actions())}}));
  }
  return Json::Object({{"id", role.id()},
                       {"name", role.name()},
                       {"type", "Microsoft.Authorization/roleDefinitions"},
                       {"role_name", role.role_name()},
                       {"description", role.description()},
                       {"role_type", role.role_type()},
                       {"assignable_scopes", Texts(role.assignable_scopes())},
                       {"permissions", permissions}});
}

std::string RoleDefinitionTable(const v1::RoleDefinition& role) {
  std::vector<std::pair<std::string, std::string>> fields = {{"role", role.role_name()},
                                                             {"name", role.name()},
                                                             {"type", role.role_type()},
                                                             {"description", role.description()}};
  for (const v1::RolePermission& permission : role.permissions()) {
    for (const std::string& action : permission.data_actions()) fields.push_back({"data action", action});
    for (const std::string& action : permission.not_data_actions()) fields.push_back({"but not", action});
  }
  return Fields(fields);
}

Json RoleAssignmentJson(const v1::RoleAssignment& assignment) {
  return Json::Object({{"id", assignment.id()},
                       {"name", assignment.name()},
                       {"type", "Microsoft.Authorization/roleAssignments"},
                       {"scope", assignment.scope()},
                       {"role_definition_id", assignment.role_definition_id()},
                       {"role_name", assignment.role_name().empty() ? Json() : Json(assignment.role_name())},
                       {"principal_id", assignment.principal_id()}});
}

std::string RoleAssignmentTable(const v1::RoleAssignment& assignment) {
  return Fields({{"name", assignment.name()},
                 {"principal", assignment.principal_id()},
                 {"role", assignment.role_name().empty() ? "gone: grants nothing" : assignment.role_name()},
                 {"scope", assignment.scope()}});
}

}  // namespace hsm::cli
