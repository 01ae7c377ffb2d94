#pragma once
// Who may do what, where: one set of roles worked out into a table that is looked up for each operation.
// Default deny. Immutable once made, so checks take no lock; a change of roles makes a new one
// (coordinator/role_state.h).
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/status.h"
#include "common/ids.h"
#include "coordinator/role_rules.h"

namespace hsm {

class Authz {
 public:
  Authz() = default;  // denies everything
  explicit Authz(const RoleSet& roles);

  // `key_name` empty: a right over the whole HSM is needed. Two look-ups by hash, no allocation.
  bool Allowed(const PrincipalId& principal, DataAction action, std::string_view key_name = {}) const;
  // PERMISSION_DENIED, in the same words whether the key exists or not; they name the roles that would do.
  absl::Status Check(const PrincipalId& principal, DataAction action, std::string_view key_name = {}) const;

 private:
  struct TextHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Rights {
    ActionSet everywhere;  // assigned at "/" or "/keys": both mean the whole HSM
    std::unordered_map<std::string, ActionSet, TextHash, std::equal_to<>> by_key;
  };
  std::unordered_map<PrincipalId, Rights> rights_;
};

}  // namespace hsm
