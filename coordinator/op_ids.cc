#include "coordinator/op_ids.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "common/aead.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"

namespace hsm {

std::string StableBytes(const google::protobuf::MessageLite& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

OpIds::Running::~Running() {
  if (owner_ == nullptr) return;
  MutexLock lock(owner_->mutex_);
  owner_->running_.erase(id_);
}

absl::StatusOr<OpIds::Begun> OpIds::Begin(const Caller& caller, std::string_view op_id,
                                          std::string_view operation, std::string_view bytes) {
  OpId id;
  if (op_id.empty()) {
    id = core_.random.NewOpId(core_.clock);
  } else {
    std::optional<OpId> given = OpId::From(op_id);
    if (!given.has_value()) return Error(v1::REASON_INVALID_ARGUMENT, "an op id has 16 bytes");
    id = *given;
    int64_t age_ms = absl::ToUnixMillis(core_.clock.Now()) - OpIdTimeMs(id);
    if (age_ms > limits::kOpIdAgeMsMax) {
      return Error(v1::REASON_OP_ID_EXPIRED, "the op id is older than 24 h");
    }
    if (age_ms < -limits::kOpIdFutureMsMax) {
      return Error(v1::REASON_INVALID_ARGUMENT, "the op id carries a time in the future");
    }
  }
  const std::string hash = ToString(Sha256(View(std::string(operation) + '\0' + std::string(bytes))));

  std::string key = store_key::Op(id, caller.principal);
  {
    MutexLock lock(mutex_);
    if (!running_.insert(key).second) return BusyError(200, "a request with this op id is under way");
  }
  Begun begun{id, std::move(hash), key, std::nullopt, Running(*this, key)};
  if (op_id.empty()) return begun;
  HSM_ASSIGN_OR_RETURN(auto row, core_.catalogue.Read<rpc::StoredOp>(key));
  if (!row.has_value()) return begun;
  if (row->value.request_hash() != begun.request_hash) {
    return Error(v1::REASON_OP_ID_CONFLICT, "the op id was used for another request");
  }
  begun.before = std::move(row->value);
  return begun;
}

void OpIds::AddRecord(const Begun& begun, const rpc::StoredOp& record, Change& change) {
  rpc::StoredOp stored = record;
  stored.set_request_hash(begun.request_hash);
  if (!HSM_MUTANT("op-id-unguarded")) change.guards.push_back(StoreGuard::Absent(begun.key));
  change.ops.push_back(StoreOp::Put(begun.key, stored.SerializeAsString()));
  if (change.audit.has_value()) change.audit->request_hash = begun.request_hash;
}

}  // namespace hsm
