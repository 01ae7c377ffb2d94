// The end of a key: deleted, so that it can be recovered; purged, so that nothing brings it back.
#include <algorithm>

#include "absl/time/time.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "coordinator/keys.h"

namespace hsm {
namespace {

v1::DeletedKey ShowDeleted(const CoordinatorConfig& config, const KeyHead& head, const EntryVersion& version,
                           bool with_public) {
  v1::DeletedKey out;
  *out.mutable_key() = ShowKey(config, head, version, with_public);
  out.set_deleted(head.deleted.value_or(0));
  out.set_scheduled_purge(head.scheduled_purge.value_or(0));
  out.set_recovery_id("https://" + config.hsm_name + "." + config.hsm_domain + "/deletedkeys/" + head.name);
  return out;
}

}  // namespace

absl::StatusOr<KeyEntryPtr> Keys::Deleted(const std::string& name) const {
  KeyEntryPtr entry = core_.table.Find(name);
  if (entry == nullptr || entry->head.state != KeyState::kDeleted) {
    return Error(v1::REASON_KEY_NOT_FOUND, "there is no deleted key " + name);
  }
  return entry;
}

absl::StatusOr<v1::DeletedKey> Keys::Delete(const Caller& caller, const v1::DeleteKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysDelete, "DeleteKey", request.name()));
  return DoOnce<v1::DeletedKey>(caller, "DeleteKey", request, [&](const OpIds::Begun& begun, bool& again) {
    return TryDelete(caller, request.name(), begun, again);
  });
}

absl::StatusOr<std::string> Keys::TryDelete(const Caller& caller, const std::string& name,
                                            const OpIds::Begun& begun, bool& again) {
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Live(name));
  const int64_t purge = core_.RetentionNow() + int64_t{core_.state.View()->stored.retention_days()} * 86'400;
  rpc::TransitionRequest transition;
  transition.mutable_soft_delete()->set_scheduled_purge(purge);
  HeadChange change{AuditOf(caller, "DeleteKey", name), entry, entry->head, true};
  change.expected.state = KeyState::kDeleted;
  change.expected.scheduled_purge = purge;
  change.answer = [&](const KeyHead& head) {
    return ShowDeleted(core_.config, head, entry->versions.back(), true).SerializeAsString();
  };
  return ChangeHead(change, std::move(transition), begun, again);
}

absl::StatusOr<v1::DeletedKey> Keys::GetDeleted(const Caller& caller,
                                                const v1::GetDeletedKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kDeletedKeysRead, "GetDeletedKey", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayRead());
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Deleted(request.name()));
  return ShowDeleted(core_.config, entry->head, entry->versions.back(), true);
}

absl::StatusOr<v1::ListDeletedKeysResponse> Keys::ListDeleted(const Caller& caller,
                                                              const v1::ListDeletedKeysRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kDeletedKeysRead, "ListDeletedKeys"));
  HSM_RETURN_IF_ERROR(core_.MayRead());
  const size_t size = PageSize(request.page_size());
  std::vector<KeyEntryPtr> found = core_.table.Deleted(request.page_token(), size + 1);
  v1::ListDeletedKeysResponse response;
  if (found.size() > size) {
    found.pop_back();
    response.set_next_page_token(found.back()->head.name);
  }
  for (const KeyEntryPtr& entry : found) {
    *response.add_keys() = ShowDeleted(core_.config, entry->head, entry->versions.back(), false);
  }
  return response;
}

absl::StatusOr<v1::Key> Keys::Recover(const Caller& caller, const v1::RecoverDeletedKeyRequest& request) {
  HSM_RETURN_IF_ERROR(
      core_.Allow(caller, DataAction::kDeletedKeysRecover, "RecoverDeletedKey", request.name()));
  return DoOnce<v1::Key>(
      caller, "RecoverDeletedKey", request,
      [&](const OpIds::Begun& begun, bool& again) -> absl::StatusOr<std::string> {
        HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Deleted(request.name()));
        HSM_RETURN_IF_ERROR(NeedQuorum());
        rpc::TransitionRequest transition;
        transition.set_recover(true);
        HeadChange change{AuditOf(caller, "RecoverDeletedKey", request.name()), entry, entry->head, false};
        change.expected.state = KeyState::kActive;
        change.expected.deleted.reset();
        change.expected.scheduled_purge.reset();
        change.answer = [&](const KeyHead& head) {
          return ShowKey(core_.config, head, entry->versions.back(), true).SerializeAsString();
        };
        return ChangeHead(change, std::move(transition), begun, again);
      });
}

absl::StatusOr<v1::PurgeDeletedKeyResponse> Keys::Purge(const Caller& caller,
                                                        const v1::PurgeDeletedKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kDeletedKeysPurge, "PurgeDeletedKey", request.name()));
  return DoOnce<v1::PurgeDeletedKeyResponse>(
      caller, "PurgeDeletedKey", request,
      [&](const OpIds::Begun& begun, bool& again) -> absl::StatusOr<std::string> {
        HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Deleted(request.name()));
        if (entry->head.purge_protection) {
          const absl::Time date = absl::FromUnixSeconds(entry->head.scheduled_purge.value_or(0));
          return Error(v1::REASON_CONFLICT,
                       "key " + request.name() + " is protected from being purged: it goes by itself after " +
                           absl::FormatTime(absl::RFC3339_sec, date, absl::UTCTimeZone()) +
                           ", and can be recovered until then");
        }
        return TryPurge(AuditOf(caller, "PurgeDeletedKey", request.name()), *entry, &begun, again);
      });
}

absl::Status Keys::PurgeExpired(const std::string& name) {
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Deleted(name));
  bool again = false;  // whoever changed it meanwhile decided otherwise; the next look finds out
  return TryPurge(AuditOfSystem("PurgeExpiredKey", name), *entry, nullptr, again).status();
}

absl::StatusOr<std::string> Keys::TryPurge(const AuditFields& audit, const KeyEntry& entry,
                                           const OpIds::Begun* begun, bool& again) {
  const std::string name = entry.head.name;
  rpc::TransitionRequest transition;
  transition.set_tombstone(true);
  HSM_ASSIGN_OR_RETURN(rpc::SealedRecord sealed, Transition(entry, transition));
  HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(sealed));
  if (head.state != KeyState::kTombstone || head.uid != entry.head.uid || head.name != name ||
      head.incarnation != entry.head.incarnation || head.revision != entry.head.revision + 1) {
    return Error(v1::REASON_RECORD_CORRUPT, "a partition sealed another change than was asked for");
  }
  HsmViewPtr view = core_.state.View();
  const std::string head_key = store_key::Head(view->data_set, name);
  v1::PurgeDeletedKeyResponse answer;
  answer.set_name(name);
  answer.set_versions(static_cast<uint32_t>(entry.versions.size()));
  answer.set_version(head.latest.ToHex());
  rpc::StoredTombstone tombstone;
  *tombstone.mutable_head() = sealed;
  tombstone.set_uid(head.uid.Raw());
  tombstone.set_incarnation(head.incarnation);
  tombstone.set_name(name);
  tombstone.set_data_set(view->data_set);
  tombstone.set_time(absl::ToUnixSeconds(core_.clock.Now()));
  tombstone.set_versions(answer.versions());

  Change change;
  change.audit = audit;
  change.guards = {StoreGuard::ModRevisionIs(store_key::Hsm(), view->store_revision),
                   StoreGuard::ModRevisionIs(head_key, entry.store_revision)};
  change.ops = {StoreOp::Put(store_key::Tombstone(head.uid), tombstone.SerializeAsString()),
                StoreOp::Delete(head_key), StoreOp::Delete(store_key::Uid(view->data_set, head.uid))};
  if (begun != nullptr) {
    OpIds::AddRecord(*begun, OpRecordOf(audit, head, true, answer.SerializeAsString()), change);
  }
  change.applied = [this, name, head, mac = sealed.mac()](StoreRevision) {
    core_.table.Destroy(name, head.uid, {head.incarnation, head.revision, mac, name});
  };
  ChangeResult result = core_.committer.Commit(std::move(change));
  again = result.outcome == StoreOutcome::kConflict;
  HSM_RETURN_IF_ERROR(result.status);
  HSM_RETURN_IF_ERROR(SpreadHead(head, sealed, true));
  // The key is gone for every caller; its blobs go now. A failure here is made good by EraseTombstoned.
  if (absl::Status erased = EraseVersions(tombstone); !erased.ok()) {
    LogWarning("version records of a destroyed key are still to be erased", {{"key", name}, {"why", erased}});
  }
  return answer.SerializeAsString();
}

absl::Status Keys::EraseVersions(const rpc::StoredTombstone& tombstone) {
  std::optional<KeyUid> uid = KeyUid::From(tombstone.uid());
  if (!uid.has_value()) return Error(v1::REASON_RECORD_CORRUPT, "a tombstone names no key");
  const std::string prefix = store_key::VersionPrefix(tombstone.data_set(), *uid);
  while (true) {
    HSM_ASSIGN_OR_RETURN(StorePage page, core_.catalogue.store().Scan(prefix, "", 64));
    Change change;
    for (const StoreRecord& record : page.records) change.ops.push_back(StoreOp::Delete(record.key));
    if (!page.more) {
      rpc::StoredTombstone erased = tombstone;
      erased.set_erased(true);
      change.ops.push_back(StoreOp::Put(store_key::Tombstone(*uid), erased.SerializeAsString()));
    }
    HSM_RETURN_IF_ERROR(core_.committer.Commit(std::move(change)).status);
    if (!page.more) return absl::OkStatus();
  }
}

absl::Status Keys::EraseTombstoned() {
  std::string after;
  while (true) {
    HSM_ASSIGN_OR_RETURN(auto page, core_.catalogue.Scan<rpc::StoredTombstone>(store_key::TombstonePrefix(),
                                                                               after, limits::kStorePageMax));
    for (const auto& row : page.rows) {
      if (!row.value.erased()) HSM_RETURN_IF_ERROR(EraseVersions(row.value));
    }
    if (!page.more || page.rows.empty()) return absl::OkStatus();
    after = page.rows.back().key;
  }
}

}  // namespace hsm
