#include "node/generator.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/status_macros.h"
#include "node/key_encoding.h"

namespace hsm {
namespace {

constexpr int64_t kRetentionMin = int64_t{limits::kRetentionDaysMin} * 86'400;

absl::Status CheckOperations(const KeySpec& spec, OperationSet operations) {
  if (operations != 0 && (operations & ~OperationsThatFit(spec)) == 0) return absl::OkStatus();
  return Error(v1::REASON_INVALID_ARGUMENT, "these key operations do not fit the key's type");
}

}  // namespace

absl::StatusOr<KeyHead> Generator::NewHead(const rpc::NewKey& key, DataSet data_set) const {
  HSM_RETURN_IF_ERROR(CheckKeyName(key.name()));
  KeyHead head;
  HSM_ASSIGN_OR_RETURN(head.spec, CheckSpec(key.type(), key.curve(), key.size_bits()));
  HSM_RETURN_IF_ERROR(CheckOperations(head.spec, key.operations()));
  head.tags.insert(key.tags().begin(), key.tags().end());
  HSM_RETURN_IF_ERROR(CheckTags(head.tags));
  head.hsm = core_.sealer->hsm();
  head.data_set = data_set;
  head.uid = core_.random.NewId<KeyUid>();
  head.incarnation = std::max(key.incarnation(), 1u);
  head.name = key.name();
  head.enabled = key.enabled();
  if (key.has_not_before()) head.not_before = key.not_before();
  if (key.has_expires()) head.expires = key.expires();
  head.operations = key.operations();
  head.purge_protection = key.purge_protection();
  head.created = head.updated = key.now();
  return head;
}

absl::StatusOr<KeyHead> Generator::HeldHead(DataSet data_set, const std::string& uid_bytes,
                                            Revision revision) {
  HSM_ASSIGN_OR_RETURN(KeyUid uid, ParseId<KeyUid>(uid_bytes, "uid"));
  absl::StatusOr<HeadRow> row = core_.blobs.ReadHead(data_set, uid, AttemptId{});
  if (!row.ok()) {
    if (ReasonOf(row.status()) == v1::REASON_NOT_FOUND) {
      return Error(v1::REASON_FENCED, "this partition does not hold the key");
    }
    return row.status();
  }
  HSM_ASSIGN_OR_RETURN(KeyHead head, core_.sealer->OpenHead(row->sealed));
  if (head.uid != uid) return Error(v1::REASON_RECORD_CORRUPT, "a head lies under another key's id");
  if (head.state == KeyState::kTombstone || head.incarnation <= core_.TombstonedIncarnation(uid)) {
    return Error(v1::REASON_TOMBSTONED, "the key was purged");
  }
  if (head.revision != revision) {
    return Error(v1::REASON_REVISION_CONFLICT, "the partition holds revision " +
                                                   std::to_string(head.revision) + " of the key, not " +
                                                   std::to_string(revision));
  }
  return head;
}

absl::Status Generator::PairwiseTest(const KeySpec& spec, const GeneratedKey& made) const {
  if (spec.type == v1::KEY_TYPE_OCT_HSM) return absl::OkStatus();
  HSM_ASSIGN_OR_RETURN(PublicPart public_part, PublicPart::Parse(spec, made.spki));
  v1::Algorithm algorithm = SignAlgorithmFor(spec.curve);
  Bytes digest = core_.random.Draw(HashBytes(HashOf(algorithm)));
  HSM_ASSIGN_OR_RETURN(Bytes signature, core_.token.Sign(made.key, spec, algorithm, digest));
  if (public_part.Verify(algorithm, digest, signature)) return absl::OkStatus();
  return Error(v1::REASON_TOKEN_FAILED, "the token made a key pair whose halves do not fit");
}

absl::StatusOr<VersionRecord> Generator::MakeVersion(const KeyHead& head, int64_t now) {
  HSM_RETURN_IF_ERROR(core_.ServeProfile(ProfileOperation::kCreate, head.spec));
  HSM_ASSIGN_OR_RETURN(GeneratedKey made,
                       core_.token.Generate(head.spec, {KeyUse::kPolicy, OperationsThatFit(head.spec)}));
  CachedKey owner(core_.token, made.key, head.spec);  // destroys it, whatever happens
  HSM_RETURN_IF_ERROR(PairwiseTest(head.spec, made));
  VersionRecord version;
  HSM_ASSIGN_OR_RETURN(version.wrapped, core_.token.Wrap(Kek::kReplication, made.key));
  version.hsm = head.hsm;
  version.uid = head.uid;
  version.incarnation = head.incarnation;
  version.version = core_.random.NewId<KeyVersion>();
  version.ordinal = head.version_count + 1;
  version.spec = head.spec;
  version.spki = std::move(made.spki);
  version.kek_generation = core_.sealer->generation();
  version.created = now;
  return version;
}

absl::StatusOr<rpc::GenerateResponse> Generator::Generate(const rpc::GenerateRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), false));
  KeyHead head;
  int64_t now = 0;
  if (request.has_key()) {
    HSM_ASSIGN_OR_RETURN(head, NewHead(request.key(), index->data_set()));
    now = request.key().now();
  } else if (request.has_version()) {
    HSM_ASSIGN_OR_RETURN(head,
                         HeldHead(index->data_set(), request.version().uid(), request.version().revision()));
    if (head.state != KeyState::kActive)
      return Error(v1::REASON_CONFLICT, "a deleted key gets no new version");
    if (head.version_count >= limits::kKeyVersionsMax) {
      return Error(v1::REASON_LIMIT_EXCEEDED, "the key has as many versions as a key can have");
    }
    now = request.version().now();
  } else {
    return Error(v1::REASON_INVALID_ARGUMENT, "generate what?");
  }
  HSM_ASSIGN_OR_RETURN(VersionRecord version, MakeVersion(head, now));
  head.latest = version.version;
  head.version_count = version.ordinal;
  head.revision += 1;
  head.updated = now;
  rpc::GenerateResponse response;
  HSM_ASSIGN_OR_RETURN(*response.mutable_records()->mutable_head(), core_.sealer->Seal(head));
  HSM_ASSIGN_OR_RETURN(*response.mutable_records()->add_versions(), core_.sealer->Seal(version));
  return response;
}

// Nobody overrides purge protection, least of all the coordinator: its date must have come by this node's own
// time as well.
absl::Status Generator::CheckTombstone(const KeyHead& head) {
  if (!head.purge_protection || HSM_MUTANT("node-ignores-purge-protection")) return absl::OkStatus();
  const bool due = head.state == KeyState::kDeleted && head.scheduled_purge &&
                   *head.scheduled_purge <= core_.time.Seconds() + kNodeTimeSlack;
  if (due) return absl::OkStatus();
  return Error(v1::REASON_CONFLICT, "the key is protected from being purged before its date");
}

absl::StatusOr<rpc::TransitionResponse> Generator::Transition(const rpc::TransitionRequest& request) {
  HSM_RETURN_IF_ERROR(core_.CheckFence(request.fence()));
  HSM_ASSIGN_OR_RETURN(std::shared_ptr<KeyIndex> index, core_.IndexFor(request.fence().data_set(), false));
  HSM_ASSIGN_OR_RETURN(KeyHead head, HeldHead(index->data_set(), request.uid(), request.revision()));
  if (request.has_set_attributes()) {
    const rpc::SetAttributes& set = request.set_attributes();
    if (head.state != KeyState::kActive) return Error(v1::REASON_CONFLICT, "a deleted key cannot be changed");
    if (set.has_enabled()) head.enabled = set.enabled();
    auto time = [](int64_t value) { return value == 0 ? std::nullopt : std::optional<int64_t>(value); };
    if (set.has_not_before()) head.not_before = time(set.not_before());
    if (set.has_expires()) head.expires = time(set.expires());
    if (set.has_operations()) {
      HSM_RETURN_IF_ERROR(CheckOperations(head.spec, set.operations()));
      head.operations = set.operations();
    }
    if (set.set_tags()) {
      head.tags = std::map<std::string, std::string>(set.tags().begin(), set.tags().end());
      HSM_RETURN_IF_ERROR(CheckTags(head.tags));
    }
  } else if (request.tombstone()) {
    HSM_RETURN_IF_ERROR(CheckTombstone(head));
    head.state = KeyState::kTombstone;
    head.enabled = false;
    head.tags.clear();
  } else if (request.has_soft_delete()) {
    if (head.state != KeyState::kActive) return Error(v1::REASON_CONFLICT, "the key is deleted already");
    const int64_t purge = request.soft_delete().scheduled_purge();
    if (purge < core_.time.Seconds() + kRetentionMin - kNodeTimeSlack) {
      return Error(v1::REASON_INVALID_ARGUMENT, "a deleted key is kept for 7 days or more");
    }
    head.state = KeyState::kDeleted;
    head.deleted = request.now();
    head.scheduled_purge = purge;
  } else if (request.recover()) {
    if (head.state != KeyState::kDeleted) return Error(v1::REASON_CONFLICT, "the key is not deleted");
    head.state = KeyState::kActive;
    head.deleted.reset();
    head.scheduled_purge.reset();
  } else {
    return Error(v1::REASON_INVALID_ARGUMENT, "no change given");
  }
  head.revision += 1;
  head.updated = request.now();
  rpc::TransitionResponse response;
  HSM_ASSIGN_OR_RETURN(*response.mutable_head(), core_.sealer->Seal(head));
  return response;
}

}  // namespace hsm
