#include "coordinator/authz.h"

#include "common/error.h"
#include "common/mutant.h"
#include "coordinator/builtin_roles.h"

namespace hsm {
namespace {

// "Managed HSM Crypto User or Managed HSM Restore"
std::string RolesThatAllow(DataAction action) {
  std::string names;
  for (const RoleDefinition& role : BuiltInRoles()) {
    if (!role.Effective().test(static_cast<size_t>(action))) continue;
    names += (names.empty() ? "" : " or ") + role.name;
  }
  return names;
}

}  // namespace

Authz::Authz(const RoleSet& roles) {
  for (const auto& [id, assignment] : roles.assignments) {
    const RoleDefinition* role = roles.Find(assignment.role);
    absl::StatusOr<std::string_view> key = KeyOfScope(assignment.scope);
    if (role == nullptr || !key.ok()) continue;  // defunct: grants nothing, not even a look at the status
    ActionSet actions = role->Effective();
    // Whoever holds some role may see whether the HSM is well.
    actions.set(static_cast<size_t>(DataAction::kStatusRead));
    Rights& rights = rights_[assignment.principal];
    (key->empty() ? rights.everywhere : rights.by_key[std::string(*key)]) |= actions;
  }
}

bool Authz::Allowed(const PrincipalId& principal, DataAction action, std::string_view key_name) const {
  if (HSM_MUTANT("allow-any-principal")) return true;
  auto found = rights_.find(principal);
  if (found == rights_.end()) return false;
  if (action == DataAction::kStatusRead) return true;
  const Rights& rights = found->second;
  const size_t bit = static_cast<size_t>(action);
  if (rights.everywhere.test(bit)) return true;
  if (key_name.empty() || rights.by_key.empty()) return false;
  auto scoped = rights.by_key.find(key_name);
  return scoped != rights.by_key.end() && scoped->second.test(bit);
}

absl::Status Authz::Check(const PrincipalId& principal, DataAction action, std::string_view key_name) const {
  if (Allowed(principal, action, key_name)) return absl::OkStatus();
  const std::string scope = key_name.empty() ? std::string("/") : std::string("/keys/").append(key_name);
  const std::string roles = action == DataAction::kStatusRead ? "any role" : RolesThatAllow(action);
  return Error(v1::REASON_PERMISSION_DENIED, GuidText(principal) + " has no role with " +
                                                 std::string(ActionName(action)) + " at " + scope +
                                                 " (needed: " + roles + ")");
}

}  // namespace hsm
