#pragma once
// What callers do with roles: look, define, assign, take away. Each call checks the caller's right; what the
// roles themselves must obey is in coordinator/role_rules.h. Roles are rows of the catalogue; every change
// also rewrites one row that all changes are guarded by, so that limits and the last administrator are
// counted right. Thread-safe; calls block.
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/caller.h"
#include "coordinator/core.h"
#include "coordinator/op_ids.h"
#include "hsm/v1/role.pb.h"

namespace hsm {

class Roles {
 public:
  explicit Roles(Core& core) : core_(core), op_ids_(core) {}

  // At start, before anything is served. A catalogue that never had roles gets the configured ones.
  // RECORD_CORRUPT if a row does not parse, or names a data action that this version does not know.
  absl::Status Load();

  absl::StatusOr<v1::ListRoleDefinitionsResponse> ListDefinitions(
      const Caller& caller, const v1::ListRoleDefinitionsRequest& request);
  absl::StatusOr<v1::RoleDefinition> GetDefinition(const Caller& caller,
                                                   const v1::GetRoleDefinitionRequest& request);
  absl::StatusOr<v1::RoleDefinition> PutDefinition(const Caller& caller,
                                                   const v1::PutRoleDefinitionRequest& request);
  absl::StatusOr<v1::RoleDefinition> DeleteDefinition(const Caller& caller,
                                                      const v1::DeleteRoleDefinitionRequest& request);
  absl::StatusOr<v1::ListRoleAssignmentsResponse> ListAssignments(
      const Caller& caller, const v1::ListRoleAssignmentsRequest& request);
  absl::StatusOr<v1::RoleAssignment> GetAssignment(const Caller& caller,
                                                   const v1::GetRoleAssignmentRequest& request);
  absl::StatusOr<v1::RoleAssignment> PutAssignment(const Caller& caller,
                                                   const v1::PutRoleAssignmentRequest& request);
  absl::StatusOr<v1::RoleAssignment> DeleteAssignment(const Caller& caller,
                                                      const v1::DeleteRoleAssignmentRequest& request);

 private:
  // What a change makes of a set of roles.
  struct Edit {
    RoleSet after;
    std::vector<StoreOp> ops;  // empty: all is as wanted already
    std::string answer;        // serialized
    std::string object;        // in the audit
    bool narrows = false;      // somebody may lose a right
  };
  using Decide = std::function<absl::StatusOr<Edit>(const RoleSet&)>;
  struct Asked {
    std::string_view operation;
    std::string op_id;
    std::string bytes;  // of the request without its op id
  };
  template <typename Answer, typename Request>
  absl::StatusOr<Answer> Change(const Caller& caller, std::string_view operation, const Request& request,
                                const Decide& decide);
  absl::StatusOr<std::string> Apply(const Caller& caller, const Asked& asked, const Decide& decide);
  ChangeResult Commit(const RoleView& before, RoleSet after, hsm::Change change);
  absl::Status Settle(bool narrows);
  absl::Status Seed();
  absl::Status ReinstateAdministrators();

  Core& core_;
  OpIds op_ids_;
};

}  // namespace hsm
