#include "coordinator/authz.h"

#include "common/error.h"
#include "common/mutant.h"
#include "common/record.h"

namespace hsm {
namespace {

constexpr std::string_view kKeyScope = "/keys/";

}  // namespace

absl::StatusOr<Authz> Authz::Make(const std::vector<PrincipalId>& administrators,
                                  const std::vector<AssignmentConfig>& assignments) {
  Authz authz;
  for (const PrincipalId& principal : administrators) {
    authz.rights_[principal].everywhere |= FindRole(kAdministratorRole)->actions;
  }
  for (const AssignmentConfig& assignment : assignments) {
    const BuiltInRole* role = FindRole(assignment.role);
    if (role == nullptr)
      return Error(v1::REASON_CONFIG_INVALID, "no built-in role is called " + assignment.role);
    Rights& rights = authz.rights_[assignment.principal];
    // Azure: "/" and "/keys" both mean the whole HSM.
    if (assignment.scope == "/" || assignment.scope == "/keys") {
      rights.everywhere |= role->actions;
      continue;
    }
    std::string_view scope = assignment.scope;
    if (!scope.starts_with(kKeyScope) || !CheckKeyName(scope.substr(kKeyScope.size())).ok()) {
      return Error(v1::REASON_CONFIG_INVALID, "a scope is /, /keys or /keys/NAME, not " + assignment.scope);
    }
    rights.by_key[std::string(scope.substr(kKeyScope.size()))] |= role->actions;
  }
  return authz;
}

bool Authz::Allowed(const PrincipalId& principal, DataAction action, std::string_view key_name) const {
  if (HSM_MUTANT("allow-any-principal")) return true;
  auto found = rights_.find(principal);
  if (found == rights_.end()) return false;
  const Rights& rights = found->second;
  const size_t bit = static_cast<size_t>(action);
  if (rights.everywhere.test(bit)) return true;
  // Whoever holds a role on some key may see whether the HSM is well.
  if (action == DataAction::kStatusRead) return !rights.by_key.empty();
  if (key_name.empty() || rights.by_key.empty()) return false;
  auto scoped = rights.by_key.find(key_name);
  return scoped != rights.by_key.end() && scoped->second.test(bit);
}

absl::Status Authz::Check(const PrincipalId& principal, DataAction action, std::string_view key_name) const {
  if (Allowed(principal, action, key_name)) return absl::OkStatus();
  std::string scope = key_name.empty() ? std::string("/") : std::string(kKeyScope).append(key_name);
  return Error(v1::REASON_PERMISSION_DENIED,
               GuidText(principal) + " has no role with " + std::string(ActionName(action)) + " at " + scope);
}

}  // namespace hsm
