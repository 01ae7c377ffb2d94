#include "coordinator/core.h"

#include "common/error.h"

namespace hsm {

rpc::Fence Core::Fence() const {
  HsmViewPtr view = state.View();
  rpc::Fence fence;
  fence.set_hsm_id(view->id.Raw());
  fence.set_epoch(view->epoch);
  fence.set_data_set(view->data_set);
  return fence;
}

absl::Status Core::MayRead() const {
  HsmViewPtr view = state.View();
  switch (view->mode) {
    case rpc::HSM_MODE_ACTIVE:
      return absl::OkStatus();
    case rpc::HSM_MODE_RESTORING:
      return Error(v1::REASON_NOT_ACTIVE, "the HSM is being restored");
    default:
      return Error(v1::REASON_NOT_ACTIVE, "the HSM has no domain keys yet");
  }
}

absl::Status Core::MayChange() const {
  HSM_RETURN_IF_ERROR(MayRead());
  HsmViewPtr view = state.View();
  if (!view->stopped.empty()) {
    return Error(view->stopped_reason, "changes are stopped: " + view->stopped);
  }
  return absl::OkStatus();
}

absl::Status Core::Allow(const Caller& caller, DataAction action, std::string_view operation,
                         std::string_view key_name) const {
  absl::Status allowed = roles.View()->authz.Check(caller.principal, action, key_name);
  if (allowed.ok()) return allowed;
  AuditFields audit = AuditOf(caller, operation, key_name);
  audit.outcome = ReasonName(ReasonOf(allowed));
  committer.Denied(std::move(audit));
  return allowed;
}

ChangeResult CommitHsm(Core& core, const HsmView& before, const rpc::StoredHsm& after,
                       const AuditFields& audit) {
  const std::string key = store_key::Hsm();
  Change change;
  change.guards = {before.store_revision == 0 ? StoreGuard::Absent(key)
                                              : StoreGuard::ModRevisionIs(key, before.store_revision)};
  change.ops = {StoreOp::Put(key, after.SerializeAsString())};
  change.audit = audit;
  change.applied = [&core, after](StoreRevision revision) { core.state.SetStored(after, revision); };
  return core.committer.Commit(std::move(change));
}

}  // namespace hsm
