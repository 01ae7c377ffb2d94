#pragma once
// Batches to one partition over long-lived bidirectional streams, one batch in flight per stream, on the
// process's CompletionLoop. Streams open when needed, up to a bound, and are kept; batches beyond wait their
// turn. Thread-safe.
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/completion_loop.h"
#include "hsm/v1/crypto.pb.h"

namespace grpc {
class AuthContext;
class Channel;
}  // namespace grpc

namespace hsm {

class PartitionStreams {
 public:
  struct Options {
    std::string name = "peer";  // in errors
    uint32_t streams_max = 32;
    size_t waiting_max = 512;
    // Looked at once per stream, on the loop, before anything is sent: not OK closes it.
    std::function<absl::Status(const grpc::AuthContext&)> check_peer;
  };
  // On the loop. Errors: UNREACHABLE (the connection broke; tried once more on a new stream if it was an old
  // one), DEADLINE_EXCEEDED, BUSY (all streams in use until the timeout, or waiting_max wait), CANCELLED. As
  // many answers as operations, or UNREACHABLE.
  using Done = std::function<void(absl::StatusOr<v1::CryptoBatchResult>)>;

  PartitionStreams(std::shared_ptr<grpc::Channel> channel, Options options, CompletionLoop& loop,
                   Clock& clock = RealClock());
  ~PartitionStreams();  // cancels what is in flight; not on the loop

  // `batch` is only looked at during the call.
  void Start(const v1::CryptoBatch& batch, absl::Duration timeout, Done done);

 private:
  class Core;
  class Stream;
  CompletionLoop& loop_;
  std::shared_ptr<Core> core_;
};

}  // namespace hsm
