#pragma once
// Batches over long-lived bidirectional streams, one batch in flight per stream: the client's transport of
// the data path. Streams open when needed, up to a bound, and are kept. Thread-safe; a call blocks, and its
// own thread writes and reads. Reads of synchronous gRPC streams have no timeout of their own, so one
// watchdog thread per pool cancels the streams that overran theirs (a stopped process is noticed that way).
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "hsm/v1/crypto.pb.h"

namespace grpc {
class AuthContext;
class Channel;
}  // namespace grpc

namespace hsm {

class CryptoStreams {
 public:
  struct Options {
    std::string name = "peer";  // in errors and thread names
    uint32_t streams_max = 32;
    // Looked at once per stream, after its first answer arrived: not OK closes it, and the answer is dropped.
    std::function<absl::Status(const grpc::AuthContext&)> check_peer;
  };
  CryptoStreams(std::shared_ptr<grpc::Channel> channel, Options options, Clock& clock = RealClock());
  ~CryptoStreams();  // cancels what is in flight

  // UNREACHABLE (the connection broke; tried once more on a new stream if it was an old one),
  // DEADLINE_EXCEEDED, BUSY (all streams in use until `timeout`). As many answers as operations, or
  // UNREACHABLE.
  absl::Status RoundTrip(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result, absl::Duration timeout);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm
