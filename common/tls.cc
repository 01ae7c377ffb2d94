#include "common/tls.h"

#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <atomic>

#include "absl/synchronization/mutex.h"
#include "common/error.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/x509.h"

namespace hsm {
namespace {

constexpr size_t kPemBytesMax = 64 * 1024;
constexpr int kKeepaliveMs = 10'000;
constexpr int kKeepaliveTimeoutMs = 5'000;
constexpr int kReconnectMsMax = 2'000;
// Fixed, and large: with windows that gRPC sizes by probing, each batch of a few KiB costs a WINDOW_UPDATE of
// its own.
constexpr int kWindowBytes = 1 << 20;
// gRPC calls it the minimum between attempts; what it does is end a handshake that takes longer. Not short:
// on a busy machine mutual TLS takes some 100 ms, and a connection would never come up.
constexpr int kConnectMsMax = 5'000;

std::atomic<bool> serves{false};

// gRPC's own lines become ours. A client learns all of it from the status of its call; at a server, a
// handshake that failed shows nowhere else.
void LogFromGrpc(gpr_log_func_args* line) {
  LogLevel level =
      line->severity == GPR_LOG_SEVERITY_ERROR && serves.load() ? LogLevel::kWarning : LogLevel::kDebug;
  Log(level, "gRPC", {{"text", line->message}});
}

// Once per process. Abseil as Debian builds it looks for lock cycles at each lock of gRPC's, which costs a
// batch more than its parsing does.
void PrepareGrpc() {
  static const bool prepared = [] {
    gpr_set_log_function(LogFromGrpc);
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    return true;
  }();
  (void)prepared;
}

struct Identity {
  std::string ca, certificate, key;
};

absl::StatusOr<Identity> ReadIdentity(const TlsFiles& files) {
  PrepareGrpc();
  auto failed = [](const absl::Status& status) {
    return Error(v1::REASON_CONFIG_INVALID, DetailOf(status).message());
  };
  auto ca = ReadTextFile(files.ca, kPemBytesMax);
  if (!ca.ok()) return failed(ca.status());
  auto certificate = Certificate::FromFile(files.certificate);
  if (!certificate.ok()) return failed(certificate.status());
  auto key = PrivateKey::FromFile(files.key);
  if (!key.ok()) return failed(key.status());
  if (key->Spki() != certificate->Spki()) {
    return Error(v1::REASON_CONFIG_INVALID, files.key + " is not the key of " + files.certificate);
  }
  if (auto parsed = Certificate::FromPem(*ca); !parsed.ok()) {
    return Error(v1::REASON_CONFIG_INVALID, files.ca + " is not a PEM certificate");
  }
  HSM_ASSIGN_OR_RETURN(std::string chain, ReadTextFile(files.certificate, kPemBytesMax));
  return Identity{*ca, chain, ToString(key->Pem().Expose())};
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const TlsFiles& files) {
  HSM_ASSIGN_OR_RETURN(Identity identity, ReadIdentity(files));
  serves.store(true);
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = identity.ca;
  options.pem_key_cert_pairs.push_back({identity.key, identity.certificate});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const TlsFiles& files) {
  HSM_ASSIGN_OR_RETURN(Identity identity, ReadIdentity(files));
  return grpc::SslCredentials({identity.ca, identity.key, identity.certificate});
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                           const std::string& peer_name, bool data_path) {
  grpc::ChannelArguments arguments;
  if (!peer_name.empty()) arguments.SetSslTargetNameOverride(peer_name);
  arguments.SetMaxReceiveMessageSize(static_cast<int>(limits::kMessageBytesMax));
  arguments.SetMaxSendMessageSize(static_cast<int>(limits::kMessageBytesMax));
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kWindowBytes);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMsMax);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  // Deadlines of data-path calls are kept by their owners (watchdogs), so the filters that the minimal stack
  // leaves out are not missed there.
  if (data_path) arguments.SetInt(GRPC_ARG_MINIMAL_STACK, 1);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

void SetServerArguments(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(limits::kMessageBytesMax));
  builder.SetMaxSendMessageSize(static_cast<int>(limits::kMessageBytesMax));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port is a mistake
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kWindowBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kKeepaliveMs / 2);
}

std::vector<std::string> PeerUris(const grpc::AuthContext& context) {
  std::vector<std::string> uris;
  if (!context.IsPeerAuthenticated()) return uris;
  for (const grpc::string_ref& uri : context.FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
    uris.emplace_back(uri.data(), uri.size());
  }
  return uris;
}

std::vector<std::string> PeerUris(const grpc::ServerContextBase& context) {
  std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  return auth == nullptr ? std::vector<std::string>() : PeerUris(*auth);
}

std::optional<std::string> PeerName(const std::vector<std::string>& uris, std::string_view kind) {
  std::string prefix = "urn:qhsm:" + std::string(kind) + ":";
  std::optional<std::string> name;
  for (const std::string& uri : uris) {
    if (!uri.starts_with(prefix)) continue;
    if (name || uri.size() == prefix.size()) return std::nullopt;
    name = uri.substr(prefix.size());
  }
  return name;
}

std::string_view PeerPem(const grpc::AuthContext& context) {
  auto values = context.FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
  if (!context.IsPeerAuthenticated() || values.empty()) return {};
  return {values[0].data(), values[0].size()};
}

Bytes PeerFingerprint(const grpc::AuthContext& context) {
  std::string_view pem = PeerPem(context);
  return pem.empty() ? Bytes() : FingerprintOfPem(pem);
}

}  // namespace hsm
