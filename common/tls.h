#pragma once
// Mutual TLS and the settings every channel and server of ours shares. Everybody authenticates: a server
// without a client's certificate refuses the connection.
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"

namespace grpc {
class AuthContext;
class Channel;
class ChannelCredentials;
class ServerBuilder;
class ServerContextBase;
class ServerCredentials;
}  // namespace grpc

namespace hsm {

struct TlsFiles {  // PEM
  std::string ca, certificate, key;
};

// CONFIG_INVALID when a file cannot be read or is no certificate or key, or the two do not belong together.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const TlsFiles& files);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const TlsFiles& files);

// A channel to host:port whose peer must hold a certificate for `peer_name` (empty = the host). Lazy; own
// connection, keepalive, limits.h message sizes, no retries by gRPC (we have our own rules). `data_path`
// leaves out what streams of crypto batches do not need.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                           const std::string& peer_name, bool data_path);
// The server's side of the same.
void SetServerArguments(grpc::ServerBuilder& builder);

// Who the other side is: its certificate's URI names. Empty when not authenticated.
std::vector<std::string> PeerUris(const grpc::AuthContext& context);
std::vector<std::string> PeerUris(const grpc::ServerContextBase& context);
// The NAME of the only urn:qhsm:{kind}:NAME the peer has ("node", "coordinator"); nothing if none or several.
std::optional<std::string> PeerName(const std::vector<std::string>& uris, std::string_view kind);
// The peer's certificate as `context` has it; empty without one.
std::string_view PeerPem(const grpc::AuthContext& context);
// Its SHA-256 in DER form; empty without one.
Bytes PeerFingerprint(const grpc::AuthContext& context);

}  // namespace hsm
