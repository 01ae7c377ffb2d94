#include "tests/sim/workload.h"

#include <fmt/format.h>

#include "common/error.h"

namespace hsm::testing {
namespace {

// BUSY too: an earlier delivery of the same op id may be under way.
bool Open(v1::Reason reason) {
  return reason == v1::REASON_BUSY || reason == v1::REASON_OUTCOME_UNKNOWN ||
         reason == v1::REASON_UNREACHABLE || reason == v1::REASON_DEADLINE_EXCEEDED;
}

// Answers that say something about the key; others say only that nothing was done.
std::optional<KeyModel::Answer> AnswerOf(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::REASON_UNSPECIFIED:
      return KeyModel::Answer::kOk;
    case v1::REASON_KEY_NOT_FOUND:
      return KeyModel::Answer::kNotFound;
    case v1::REASON_KEY_EXISTS:
      return KeyModel::Answer::kExists;
    case v1::REASON_KEY_DISABLED:
      return KeyModel::Answer::kDisabled;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::string SimCaller::NewOpId() { return cluster_.random().NewOpId(cluster_.clock()).Raw(); }

SimCaller::Told SimCaller::Insist(const std::function<absl::StatusOr<v1::Key>()>& attempt) {
  Told told;
  told.first_called = ledger_.Tick();
  for (int i = 0; i < attempts; ++i) {
    told.last_called = i == 0 ? told.first_called : ledger_.Tick();
    absl::StatusOr<v1::Key> answer = attempt();
    told.status = answer.status();
    if (answer.ok()) told.key = *std::move(answer);
    if (!Open(ReasonOf(told.status))) break;
    told.was_open = true;
    cluster_.scheduler().Sleep(
        absl::Milliseconds(200 + static_cast<int64_t>(cluster_.scheduler().Draw(1'500))));
  }
  // A caller that lost the answer of a call that was answered asks again, and must be told the same (I9).
  if (told.status.ok() && cluster_.scheduler().Percent(20)) {
    absl::StatusOr<v1::Key> again = attempt();
    if (again.ok() && again->SerializeAsString() != told.key.SerializeAsString()) {
      cluster_.scheduler().Fail("I9: a repeated op id got another answer:\n" + told.key.ShortDebugString() +
                                "\n" + again->ShortDebugString());
    }
    if (!again.ok() && AnswerOf(again.status()).has_value()) {
      cluster_.scheduler().Fail("I9: a repeated op id was refused: " + again.status().ToString());
    }
  }
  return told;
}

SimCaller::Outcome SimCaller::Write(const std::string& name, KeyModel::Op op, std::string_view operation,
                                    const Told& told) {
  cluster_.scheduler().Note(
      fmt::format("{} {}: {}", operation, name,
                  std::string(told.status.message().empty() ? "ok" : told.status.message())));
  if (ReasonOf(told.status) == v1::REASON_PERMISSION_DENIED || ReasonOf(told.status) == v1::REASON_INTERNAL) {
    cluster_.scheduler().Fail("an answer nobody should get: " + told.status.ToString());
  }
  op.called = told.first_called;
  op.returned = ledger_.Tick();
  op.version = told.key.version();
  if (told.status.ok()) {
    ledger_.CountAudit(std::string(operation), name, true);
    ledger_.Add(name, op);
    return Outcome::kDone;
  }
  bool open = told.was_open || Open(ReasonOf(told.status));
  if (open) {
    KeyModel::Op unknown = op;
    unknown.returned = kNeverReturned;
    unknown.answer = KeyModel::Answer::kUnknown;
    unknown.version.clear();
    ledger_.Add(name, unknown);
    ledger_.CountAudit(std::string(operation), name, false);
  }
  if (std::optional<KeyModel::Answer> answer = AnswerOf(told.status)) {
    op.called = told.last_called;
    op.answer = *answer;
    ledger_.Add(name, op);
  }
  return open ? Outcome::kOpen : Outcome::kRefused;
}

// An acknowledged version lies on a majority of the disks, so that it outlives the store too (I1).
void SimCaller::CheckHolders(const v1::Key& key) {
  Coordinator* leader = cluster_.leader();
  std::optional<KeyVersion> version = KeyVersion::FromHexText(key.version());
  auto find = [&]() -> KeyEntryPtr {
    KeyEntryPtr entry = leader == nullptr ? nullptr : leader->core().table.Find(key.name());
    return entry != nullptr && entry->Find(*version) != nullptr ? entry : nullptr;
  };
  KeyEntryPtr entry = find();
  if (entry == nullptr) return;  // destroyed meanwhile, or nobody leads
  size_t holders = cluster_.Holders(entry->head.uid, *version);
  if (holders * 2 > cluster_.size() || leader != cluster_.leader() || find() == nullptr) return;
  cluster_.scheduler().Fail(fmt::format("I1: {} of {} disks hold {} version {} when it is acknowledged",
                                        holders, cluster_.size(), key.name(), key.version()));
}

SimCaller::Outcome SimCaller::Create(const std::string& name) {
  v1::CreateKeyRequest request;
  request.set_name(name);
  request.set_type(v1::KEY_TYPE_EC_HSM);
  request.set_curve(v1::CURVE_P256);
  return CreateAs(std::move(request));
}

SimCaller::Outcome SimCaller::CreateSymmetric(const std::string& name) {
  v1::CreateKeyRequest request;
  request.set_name(name);
  request.set_type(v1::KEY_TYPE_OCT_HSM);
  return CreateAs(std::move(request));
}

SimCaller::Outcome SimCaller::CreateAs(v1::CreateKeyRequest request) {
  request.set_op_id(NewOpId());
  (*request.mutable_tags())["op"] = Hex(View(request.op_id()));  // tells whose key it is
  Told told = Insist([&] { return cluster_.CreateKey(request); });
  if (told.status.ok()) {
    ledger_.Acknowledged(told.key);
    CheckHolders(told.key);
  }
  return Write(request.name(), {.kind = KeyModel::Kind::kCreate}, "CreateKey", told);
}

void SimCaller::Get(const std::string& name) {
  v1::GetKeyRequest request;
  request.set_name(name);
  int64_t called = ledger_.Tick();
  absl::StatusOr<v1::Key> key = cluster_.GetKey(request);
  std::optional<KeyModel::Answer> answer = AnswerOf(key.status());
  if (!answer.has_value()) return;
  KeyModel::Op op{called, ledger_.Tick(), KeyModel::Kind::kGet, *answer};
  if (key.ok()) {
    op.version = key->version();
    op.enabled = key->attributes().enabled();
  }
  ledger_.Add(name, op);
}

SimCaller::Outcome SimCaller::SetEnabled(const std::string& name, bool enabled) {
  v1::SetKeyAttributesRequest request;
  request.set_op_id(NewOpId());
  request.set_name(name);
  request.set_enabled(enabled);
  Told told = Insist([&] { return cluster_.SetKeyAttributes(request); });
  return Write(name, {.kind = KeyModel::Kind::kSetEnabled, .enabled = enabled}, "SetKeyAttributes", told);
}

SimCaller::Outcome SimCaller::Rotate(const std::string& name) {
  v1::RotateKeyRequest request;
  request.set_op_id(NewOpId());
  request.set_name(name);
  Told told = Insist([&] { return cluster_.RotateKey(request); });
  if (told.status.ok()) {
    ledger_.Acknowledged(told.key);
    CheckHolders(told.key);
  }
  return Write(name, {.kind = KeyModel::Kind::kRotate}, "RotateKey", told);
}

SimCaller::Outcome SimCaller::Delete(const std::string& name) {
  v1::DeleteKeyRequest request;
  request.set_op_id(NewOpId());
  request.set_name(name);
  Told told = Insist([&]() -> absl::StatusOr<v1::Key> {
    absl::StatusOr<v1::DeletedKey> response = cluster_.DeleteKey(request);
    if (!response.ok()) return response.status();
    return response->key();
  });
  return Write(name, {.kind = KeyModel::Kind::kDelete}, "DeleteKey", told);
}

SimCaller::Outcome SimCaller::Recover(const std::string& name) {
  v1::RecoverDeletedKeyRequest request;
  request.set_op_id(NewOpId());
  request.set_name(name);
  Told told = Insist([&] { return cluster_.RecoverDeletedKey(request); });
  return Write(name, {.kind = KeyModel::Kind::kRecover}, "RecoverDeletedKey", told);
}

SimCaller::Outcome SimCaller::Purge(const std::string& name) {
  v1::PurgeDeletedKeyRequest request;
  request.set_op_id(NewOpId());
  request.set_name(name);
  Told told = Insist([&]() -> absl::StatusOr<v1::Key> {
    absl::StatusOr<v1::PurgeDeletedKeyResponse> response = cluster_.PurgeDeletedKey(request);
    if (!response.ok()) return response.status();
    v1::Key purged;
    purged.set_name(name);
    purged.set_version(response->version());
    return purged;
  });
  std::string version = told.key.version();
  Outcome outcome = Write(name, {.kind = KeyModel::Kind::kPurge}, "PurgeDeletedKey", told);
  if (outcome != Outcome::kDone) return outcome;
  // The answer names what was destroyed; its uid is in the tombstone.
  std::optional<Ledger::Dead> dead = cluster_.FindDestroyed(name, version);
  if (!dead.has_value()) {
    cluster_.scheduler().Fail("I3: no tombstone for the destroyed " + name);
    return outcome;
  }
  ledger_.Destroyed(*std::move(dead));
  CheckNothingDeadIsServed(cluster_, ledger_);
  return outcome;
}

SimCaller::Outcome SimCaller::Destroy(const std::string& name) {
  Outcome outcome = Delete(name);
  return outcome == Outcome::kDone ? Purge(name) : outcome;
}

void SimCaller::Sign(const std::string& name) {
  std::string digest = ToString(cluster_.random().Draw(32));
  int64_t called = ledger_.Tick();
  absl::StatusOr<v1::CryptoResult> result = cluster_.Crypto(SignOp(name, digest));
  absl::Status status = result.status();
  if (result.ok() && result->reason() != v1::REASON_UNSPECIFIED)
    status = Error(result->reason(), result->message());
  std::optional<KeyModel::Answer> answer = AnswerOf(status);
  if (!answer.has_value()) return;
  KeyModel::Op op{called, ledger_.Tick(), KeyModel::Kind::kSign, *answer};
  if (status.ok()) {
    op.version = Hex(View(result->version()));
    auto known = ledger_.versions().find(op.version);
    if (known != ledger_.versions().end() && !SignatureFits(known->second.spki, digest, result->value())) {
      cluster_.scheduler().Fail("I1: a signature of " + name + " does not fit its public key");
    }
  }
  ledger_.Add(name, op);
}

void StartWorkload(SimCluster& cluster, Ledger& ledger, const WorkloadOptions& options,
                   std::shared_ptr<int> left) {
  *left = options.callers;
  for (int i = 0; i < options.callers; ++i) {
    cluster.scheduler().Spawn(kWorld, fmt::format("caller{}", i), [&cluster, &ledger, options, left] {
      SimScheduler& scheduler = cluster.scheduler();
      SimCaller caller(cluster, ledger);
      uint64_t total = options.create + options.get + options.set_enabled + options.rotate + options.remove +
                       options.recover + options.purge + options.sign;
      for (int call = 0; call < options.calls_each; ++call) {
        scheduler.Sleep(absl::Microseconds(static_cast<int64_t>(
            scheduler.Draw(static_cast<uint64_t>(absl::ToInt64Microseconds(options.pause_max))))));
        const std::string& name = options.names[scheduler.Draw(options.names.size())];
        uint64_t draw = scheduler.Draw(total);
        if (draw < options.create) {
          caller.Create(name);
        } else if ((draw -= options.create) < options.get) {
          caller.Get(name);
        } else if ((draw -= options.get) < options.set_enabled) {
          caller.SetEnabled(name, scheduler.Percent(50));
        } else if ((draw -= options.set_enabled) < options.rotate) {
          caller.Rotate(name);
        } else if ((draw -= options.rotate) < options.remove) {
          caller.Delete(name);
        } else if ((draw -= options.remove) < options.recover) {
          caller.Recover(name);
        } else if ((draw -= options.recover) < options.purge) {
          caller.Purge(name);
        } else {
          caller.Sign(name);
        }
      }
      --*left;
    });
  }
}

}  // namespace hsm::testing
