#pragma once
// Roles as rows of the catalogue, and as callers see them. Pure.
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/role_rules.h"
#include "hsm/internal/v1/catalogue.pb.h"
#include "hsm/v1/role.pb.h"
#include "store/store.h"

namespace hsm {

// --- rows ---
StoreOp PutRoleOp(const RoleDefinition& role);
StoreOp PutRoleOp(const RoleAssignment& assignment);
// RECORD_CORRUPT, also for a data action that this version does not know: leaving it out could grant more.
absl::StatusOr<RoleDefinition> DecodeRole(const internal::v1::StoredRoleDefinition& stored);
absl::StatusOr<RoleAssignment> DecodeRole(const internal::v1::StoredRoleAssignment& stored);

// --- requests and answers ---
v1::RoleDefinition ShowRole(const RoleDefinition& role);
v1::RoleAssignment ShowRole(const RoleSet& roles, const RoleAssignment& assignment);
// Without its GUID. INVALID_ARGUMENT names what is wrong.
absl::StatusOr<RoleDefinition> DecodeRole(const v1::PutRoleDefinitionRequest& request);
absl::StatusOr<RoleAssignment> DecodeRole(const v1::PutRoleAssignmentRequest& request);
// A GUID, or the id of a definition that ends with one. INVALID_ARGUMENT.
absl::StatusOr<RoleId> ParseRoleId(std::string_view text);
absl::StatusOr<AssignmentId> ParseAssignmentId(std::string_view text);
std::string_view ScopeOrRoot(std::string_view scope);  // empty means "/"

}  // namespace hsm
