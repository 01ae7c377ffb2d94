#pragma once
// Who may do what, where. Default deny. Assignments come from the configuration; administrators hold the
// Managed HSM Administrator role at "/". Immutable once made, so checks take no lock.
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"
#include "coordinator/config.h"
#include "coordinator/permissions.h"

namespace hsm {

class Authz {
 public:
  // CONFIG_INVALID for an unknown role or a scope that is none.
  static absl::StatusOr<Authz> Make(const std::vector<PrincipalId>& administrators,
                                    const std::vector<AssignmentConfig>& assignments);

  // `key_name` empty: a right over the whole HSM is needed. Under a microsecond.
  bool Allowed(const PrincipalId& principal, DataAction action, std::string_view key_name = {}) const;
  // PERMISSION_DENIED, in the same words whether the key exists or not.
  absl::Status Check(const PrincipalId& principal, DataAction action, std::string_view key_name = {}) const;

 private:
  struct Rights {
    ActionSet everywhere;  // assigned at "/" or "/keys": both mean the whole HSM
    std::map<std::string, ActionSet, std::less<>> by_key;
  };
  std::unordered_map<PrincipalId, Rights> rights_;
};

}  // namespace hsm
