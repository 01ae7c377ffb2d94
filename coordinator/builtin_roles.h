#pragma once
// The nine roles that every HSM has: Azure Managed HSM's, with its GUIDs, names and data actions
// (docs/access_control.md lists them, docs/decisions/0039 says where its sources disagree). Pure data.
#include <span>
#include <string_view>

#include "coordinator/role_rules.h"

namespace hsm {

inline constexpr std::string_view kAdministratorRole = "a290e904-7015-4bba-90c8-60543313cdb4";

std::span<const RoleDefinition> BuiltInRoles();
const RoleDefinition* FindBuiltInRole(const RoleId& id);               // null if it is none of them
const RoleDefinition* FindBuiltInRole(std::string_view name_or_guid);  // in any case

}  // namespace hsm
