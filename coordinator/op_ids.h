#pragma once
// One effect per op id: the record of what an op id did, and the rules about its time. Thread-safe.
#include <optional>
#include <set>
#include <string>

#include <google/protobuf/message_lite.h>

#include "absl/status/statusor.h"
#include "common/error.h"
#include "common/mutex.h"
#include "coordinator/caller.h"
#include "coordinator/core.h"

namespace hsm {

class OpIds {
 public:
  explicit OpIds(Core& core) : core_(core) {}

  // A request under way. While it lives, the same op id of the same caller is answered BUSY.
  class Running {
   public:
    Running(OpIds& owner, std::string id) : owner_(&owner), id_(std::move(id)) {}
    Running(Running&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), id_(std::move(other.id_)) {}
    Running& operator=(Running&&) = delete;
    ~Running();

   private:
    OpIds* owner_;
    std::string id_;
  };
  struct Begun {
    OpId op_id;
    std::string request_hash;             // SHA-256 of operation and request without its op id
    std::string key;                      // of the op record
    std::optional<rpc::StoredOp> before;  // it was done already: finish it and give the same answer
    Running running;
  };
  // `bytes` is the request without its op id. Empty `op_id`: one is made, and a retry is another request.
  // OP_ID_EXPIRED, OP_ID_CONFLICT (another request under the same id), BUSY, INVALID_ARGUMENT.
  absl::StatusOr<Begun> Begin(const Caller& caller, std::string_view op_id, std::string_view operation,
                              std::string_view bytes);
  // The guard and the op that make the record part of the change.
  static void AddRecord(const Begun& begun, const rpc::StoredOp& record, Change& change);

 private:
  Core& core_;
  Mutex mutex_;
  std::set<std::string> running_ HSM_GUARDED_BY(mutex_);
};

// The same bytes for the same message, maps included: what request hashes are made of.
std::string StableBytes(const google::protobuf::MessageLite& message);
// Of a request without its op id: what Begin wants.
template <typename Request>
std::string BareBytes(Request request) {
  request.clear_op_id();
  return StableBytes(request);
}
// The answer that an op record remembers. RECORD_CORRUPT if it does not parse.
template <typename Answer>
absl::StatusOr<Answer> ParseAnswer(const std::string& bytes) {
  Answer answer;
  if (answer.ParseFromString(bytes)) return answer;
  return Error(v1::REASON_RECORD_CORRUPT, "the op record's answer does not parse");
}

}  // namespace hsm
