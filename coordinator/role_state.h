#pragma once
#include <memory>

#include "common/mutex.h"
#include "coordinator/authz.h"
#include "coordinator/role_rules.h"
#include "store/store.h"

namespace hsm {

// The roles as last committed, and what they allow. Immutable.
struct RoleView {
  RoleSet set;
  Authz authz;
  uint64_t revision = 0;             // grows with each change of roles; 0: none are known, all is denied
  StoreRevision store_revision = 0;  // mod_revision of the row that every change of roles rewrites: its guard
};
using RoleViewPtr = std::shared_ptr<const RoleView>;

// Thread-safe holder of the newest view. View is on the hot path: one short lock, no allocation.
class RoleState {
 public:
  RoleState() : view_(std::make_shared<RoleView>()) {}
  RoleViewPtr View() const {
    MutexLock lock(mutex_);
    return view_;
  }
  // After the commit, in commit order.
  void Set(RoleViewPtr view) {
    MutexLock lock(mutex_);
    view_ = std::move(view);
  }

 private:
  mutable Mutex mutex_;
  RoleViewPtr view_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
