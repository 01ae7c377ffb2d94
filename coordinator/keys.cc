#include "coordinator/keys.h"

#include <algorithm>
#include <charconv>

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"

namespace hsm {

uint32_t PageSize(uint32_t asked) {
  if (asked == 0) return limits::kPageSizeDefault;
  return std::min(asked, limits::kPageSizeMax);
}

namespace {

std::string RecoveryLevel(uint32_t days, bool purge_protection) {
  std::string level = days == 90 ? "Recoverable" : "CustomizedRecoverable";
  return purge_protection ? level : level + "+Purgeable";
}

}  // namespace

v1::Key ShowKey(const CoordinatorConfig& config, const KeyHead& head, const EntryVersion& version,
                bool with_public) {
  v1::Key key;
  key.set_name(head.name);
  key.set_version(version.id.ToHex());
  key.set_kid("https://" + config.hsm_name + "." + config.hsm_domain + "/keys/" + head.name + "/" +
              key.version());
  key.mutable_public_key()->set_type(head.spec.type);
  key.mutable_public_key()->set_curve(head.spec.curve);
  key.mutable_public_key()->set_size_bits(head.spec.size_bits);
  if (with_public) key.mutable_public_key()->set_spki(ToString(version.spki));
  for (int operation = v1::KeyOperation_MIN; operation <= v1::KeyOperation_MAX; ++operation) {
    if (operation != 0 && (head.operations & (1u << operation)) != 0) {
      key.add_operations(static_cast<v1::KeyOperation>(operation));
    }
  }
  v1::KeyAttributes& attributes = *key.mutable_attributes();
  attributes.set_enabled(head.enabled);
  if (head.not_before) attributes.set_not_before(*head.not_before);
  if (head.expires) attributes.set_expires(*head.expires);
  attributes.set_created(version.created);
  attributes.set_updated(std::max(head.updated, version.created));
  attributes.set_recoverable_days(config.retention_days);
  attributes.set_recovery_level(RecoveryLevel(config.retention_days, head.purge_protection));
  for (const auto& [name, value] : head.tags) (*key.mutable_tags())[name] = value;
  key.set_revision(head.revision);
  return key;
}

absl::StatusOr<KeyEntryPtr> Keys::Live(const std::string& name) const {
  KeyEntryPtr entry = core_.table.Find(name);
  if (entry == nullptr || entry->head.state != KeyState::kActive) {
    return Error(v1::REASON_KEY_NOT_FOUND, "there is no key " + name);
  }
  return entry;
}

absl::Status Keys::CheckFree(const std::string& name) const {
  KeyEntryPtr entry = core_.table.Find(name);
  if (entry == nullptr) return absl::OkStatus();
  if (entry->head.state == KeyState::kActive) {
    return Error(v1::REASON_KEY_EXISTS, "there is a key " + name + " already");
  }
  return Error(v1::REASON_KEY_EXISTS, "the name " + name +
                                          " is taken by a deleted key: recover it, purge it, or wait for its "
                                          "purge (qhsm key recover, qhsm key purge)");
}

absl::StatusOr<v1::Key> Keys::Get(const Caller& caller, const v1::GetKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysRead, "GetKey", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayRead());
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Live(request.name()));
  if (request.version().empty()) return ShowKey(core_.config, entry->head, entry->latest(), true);
  std::optional<KeyVersion> id = KeyVersion::FromHexText(request.version());
  const EntryVersion* version = id.has_value() ? entry->Find(*id) : nullptr;
  if (version == nullptr) {
    return Error(v1::REASON_KEY_NOT_FOUND, "key " + request.name() + " has no version " + request.version());
  }
  return ShowKey(core_.config, entry->head, *version, true);
}

absl::StatusOr<v1::ListKeysResponse> Keys::List(const Caller& caller, const v1::ListKeysRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysRead, "ListKeys"));
  HSM_RETURN_IF_ERROR(core_.MayRead());
  if (!request.page_token().empty() && !CheckKeyName(request.page_token()).ok()) {
    return Error(v1::REASON_INVALID_ARGUMENT, "the page token is not one of an earlier answer");
  }
  v1::ListKeysResponse response;
  const size_t size = PageSize(request.page_size());
  std::string after = request.page_token();
  while (true) {
    HSM_ASSIGN_OR_RETURN(auto page, core_.catalogue.Heads(core_.state.View()->data_set, after, size));
    for (const auto& row : page.rows) {
      HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(row.value));
      after = head.name;
      if (head.state != KeyState::kActive) continue;
      EntryVersion version{head.latest, head.version_count, head.created, {}};
      if (KeyEntryPtr entry = core_.table.Find(head.name); entry != nullptr) {
        if (const EntryVersion* known = entry->Find(head.latest)) version.created = known->created;
      }
      *response.add_keys() = ShowKey(core_.config, head, version, false);
      if (static_cast<size_t>(response.keys_size()) < size) continue;
      if (page.more || &row != &page.rows.back()) response.set_next_page_token(after);
      return response;
    }
    if (!page.more) return response;
  }
}

absl::StatusOr<v1::ListKeysResponse> Keys::ListVersions(const Caller& caller,
                                                        const v1::ListKeyVersionsRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysRead, "ListKeyVersions", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayRead());
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Live(request.name()));
  uint32_t after = 0;
  if (const std::string& token = request.page_token(); !token.empty()) {
    auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), after);
    if (error != std::errc() || end != token.data() + token.size()) {
      return Error(v1::REASON_INVALID_ARGUMENT, "the page token is not one of an earlier answer");
    }
  }
  v1::ListKeysResponse response;
  uint32_t size = PageSize(request.page_size());
  for (const EntryVersion& version : entry->versions) {
    if (version.ordinal <= after) continue;
    if (response.keys_size() == static_cast<int>(size)) {
      response.set_next_page_token(std::to_string(after));
      break;
    }
    *response.add_keys() = ShowKey(core_.config, entry->head, version, false);
    after = version.ordinal;
  }
  return response;
}

absl::StatusOr<v1::ProveKeyResponse> Keys::Prove(const Caller& caller, const v1::ProveKeyRequest& request) {
  HSM_RETURN_IF_ERROR(core_.Allow(caller, DataAction::kKeysRead, "ProveKey", request.name()));
  HSM_RETURN_IF_ERROR(core_.MayRead());
  HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, Live(request.name()));
  const EntryVersion* version = &entry->latest();
  if (!request.version().empty()) {
    std::optional<KeyVersion> id = KeyVersion::FromHexText(request.version());
    version = id.has_value() ? entry->Find(*id) : nullptr;
    if (version == nullptr) {
      return Error(v1::REASON_KEY_NOT_FOUND,
                   "key " + request.name() + " has no version " + request.version());
    }
  }
  v1::ProveKeyResponse response;
  std::vector<size_t> targets;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    auto* row = response.add_partitions();
    row->set_name(core_.cluster.name(i));
    row->set_result(v1::PROOF_RESULT_UNREACHABLE);
    if (core_.cluster.StateOf(i) != v1::PARTITION_STATE_DOWN) targets.push_back(i);
  }
  for (const PartitionProof& proof : prover_.Prove(*entry, *version, targets)) {
    response.mutable_partitions(static_cast<int>(proof.index))->set_result(proof.result);
    response.mutable_partitions(static_cast<int>(proof.index))->set_message(proof.message);
  }
  return response;
}

}  // namespace hsm
