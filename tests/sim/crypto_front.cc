#include "tests/sim/crypto_front.h"

#include "common/error.h"
#include "common/status_macros.h"
#include "coordinator/key_state.h"

namespace hsm::testing {

absl::StatusOr<v1::CryptoResult> RouteCrypto(Core& core, const Caller& caller, const v1::CryptoOp& op,
                                             Random& random) {
  HSM_RETURN_IF_ERROR(core.MayRead());
  HSM_RETURN_IF_ERROR(core.authz.Check(caller.principal, DataAction::kSign, op.key_name()));
  absl::Status last = Error(v1::REASON_NO_PARTITION, "no READY partition");
  uint32_t tried = 0;
  for (size_t attempt = 0; attempt < core.cluster.size(); ++attempt) {
    KeyEntryPtr entry = core.table.Find(op.key_name());
    if (entry == nullptr) return Error(v1::REASON_KEY_NOT_FOUND, op.key_name());
    HSM_RETURN_IF_ERROR(
        CheckUse(entry->head, NeededOperation(op.operation()), absl::ToUnixSeconds(core.clock.Now())));
    HsmViewPtr view = core.state.View();
    int index = core.cluster.Pick(&entry->head.uid, tried, random.Below(UINT64_MAX));
    if (index < 0) return last;
    tried |= 1u << index;
    v1::CryptoBatch batch;
    v1::CryptoOp& sent = *batch.add_ops();
    sent = op;
    sent.set_version(op.version().empty() ? entry->latest().id.Raw() : op.version());
    sent.mutable_route()->set_uid(entry->head.uid.Raw());
    sent.mutable_route()->set_incarnation(entry->head.incarnation);
    sent.mutable_route()->set_revision(entry->head.revision);
    sent.mutable_route()->set_principal(caller.principal.Raw());
    batch.set_epoch(view->epoch);
    batch.set_data_set(view->data_set);
    core.cluster.Begin(static_cast<size_t>(index), 1);
    absl::StatusOr<v1::CryptoBatchResult> results =
        core.cluster.client(static_cast<size_t>(index)).Crypto(batch, absl::Seconds(2));
    v1::Reason reason = results.ok() ? results->results(0).reason() : ReasonOf(results.status());
    bool elsewhere = reason == v1::REASON_DEADLINE_EXCEEDED || reason == v1::REASON_BUSY ||
                     reason == v1::REASON_KEY_NOT_FOUND || reason == v1::REASON_TOMBSTONED ||
                     IsDeviceFailure(reason);
    core.cluster.End(static_cast<size_t>(index), 1, !elsewhere);
    if (!elsewhere) return results->results(0);
    // The catalogue says that the key is there: a partition that has not got it is behind.
    if (reason == v1::REASON_KEY_NOT_FOUND || reason == v1::REASON_TOMBSTONED) continue;
    last = results.ok() ? Error(reason, results->results(0).message()) : results.status();
  }
  return last;
}

}  // namespace hsm::testing
