// Real gRPC with mutual TLS on the loopback: identities, failures crossing the wire, streams that hang or
// break.
#include "common/crypto_streams.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>

#include "common/error.h"
#include "common/file.h"
#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/thread.h"
#include "common/tls.h"
#include "common/x509.h"
#include "hsm/v1/crypto.grpc.pb.h"

namespace hsm {
namespace {

// Echoes. Execute shows what the other side's certificate says.
class EchoService final : public v1::CryptoService::Service {
 public:
  grpc::Status Execute(grpc::ServerContext* context, const v1::CryptoRequest* request,
                       v1::CryptoResult* result) override {
    if (request->op().key_name() == "busy") return ToGrpc(BusyError(123, "much to do"), context);
    if (request->op().key_name() == "token")
      return ToGrpc(TokenError(v1::REASON_TOKEN_FAILED, 0x30, "C_Sign"), context);
    for (const std::string& uri : PeerUris(*context)) result->mutable_value()->append(uri + ";");
    return grpc::Status::OK;
  }
  grpc::Status Stream(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::CryptoBatchResult, v1::CryptoBatch>* stream) override {
    ++streams;
    v1::CryptoBatch batch;
    while (stream->Read(&batch)) {
      while (hang.load() && !context->IsCancelled()) sched_yield();
      if (break_next.exchange(false)) return ToGrpc(Error(v1::REASON_UNREACHABLE, "broken"), context);
      v1::CryptoBatchResult result;
      for (const v1::CryptoOp& op : batch.ops()) result.add_results()->set_value(op.data());
      if (!stream->Write(result)) break;
    }
    return grpc::Status::OK;
  }
  std::atomic<int> streams{0};
  std::atomic<bool> hang{false}, break_next{false};
};

class CryptoStreamsTest : public testing::Test {
 protected:
  CryptoStreamsTest() : ca_(IssueCertificate({.common_name = "ca", .authority = true}, nullptr).value()) {
    std::string pattern = testing::TempDir() + "streams.XXXXXX";
    directory_ = mkdtemp(pattern.data());
    node_ = Issue("p1", {"urn:qhsm:node:p1"}, ca_);
    client_ = Issue("c1", {"urn:qhsm:coordinator:c1", "urn:uuid:00000000-0000-0000-0000-000000000001"}, ca_);
    StartServer();
  }
  ~CryptoStreamsTest() override { StopServer(); }

  TlsFiles Issue(const std::string& name, std::vector<std::string> uris, const IssuedCertificate& ca) {
    IssuedCertificate issued = IssueCertificate({.common_name = name,
                                                 .uris = std::move(uris),
                                                 .dns_names = {name, "localhost"},
                                                 .ip_addresses = {"127.0.0.1"}},
                                                &ca)
                                   .value();
    static int number = 0;
    std::string base = directory_ + "/" + std::to_string(number++) + name;
    TlsFiles files{base + ".ca", base + ".pem", base + ".key"};
    EXPECT_TRUE(WriteFileAtomic(files.ca, View(ca.certificate.Pem())).ok());
    EXPECT_TRUE(WriteFileAtomic(files.certificate, View(issued.certificate.Pem())).ok());
    EXPECT_TRUE(WriteFileAtomic(files.key, issued.key.Pem().Expose()).ok());
    return files;
  }

  void StartServer() {
    grpc::ServerBuilder builder;
    SetServerArguments(builder);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port_), MakeServerCredentials(node_).value(),
                             &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    port_ = port;
  }
  void StopServer() {
    service_.hang = false;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }

  std::shared_ptr<grpc::Channel> Channel(const TlsFiles& files, const std::string& peer) {
    return MakeChannel("127.0.0.1:" + std::to_string(port_), MakeChannelCredentials(files).value(), peer,
                       true);
  }
  std::unique_ptr<CryptoStreams> Streams(uint32_t streams_max = 4) {
    return std::make_unique<CryptoStreams>(
        Channel(client_, "p1"),
        CryptoStreams::Options{
            .name = "p1", .streams_max = streams_max, .check_peer = [this](const auto& peer) {
              seen_ = PeerUris(peer);
              fingerprint_ = PeerFingerprint(peer);
              return peer_verdict_;
            }});
  }
  absl::Status Send(CryptoStreams& streams, const std::string& text,
                    absl::Duration timeout = absl::Seconds(20)) {
    v1::CryptoBatch batch;
    batch.add_ops()->set_data(text);
    v1::CryptoBatchResult result;
    absl::Status status = streams.RoundTrip(batch, result, timeout);
    EXPECT_TRUE(!status.ok() || result.results(0).value() == text);
    return status;
  }
  absl::Status Execute(const TlsFiles& files, const std::string& peer, const std::string& key,
                       std::string* value) {
    auto stub = v1::CryptoService::NewStub(MakeChannel("127.0.0.1:" + std::to_string(port_),
                                                       MakeChannelCredentials(files).value(), peer, false));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::CryptoRequest request;
    request.mutable_op()->set_key_name(key);
    v1::CryptoResult result;
    absl::Status status = FromGrpc(stub->Execute(&context, request, &result), context);
    if (value != nullptr) *value = result.value();
    return status;
  }

  IssuedCertificate ca_;
  std::string directory_;
  TlsFiles node_, client_;
  EchoService service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::vector<std::string> seen_;
  Bytes fingerprint_;
  absl::Status peer_verdict_;
};

TEST_F(CryptoStreamsTest, BothSidesKnowEachOther) {
  auto streams = Streams();
  ASSERT_TRUE(Send(*streams, "a").ok());
  EXPECT_EQ(PeerName(seen_, "node"), "p1");
  EXPECT_EQ(fingerprint_, Certificate::FromFile(node_.certificate).value().Fingerprint());
  std::string uris;
  ASSERT_TRUE(Execute(client_, "p1", "", &uris).ok());
  EXPECT_EQ(uris, "urn:qhsm:coordinator:c1;urn:uuid:00000000-0000-0000-0000-000000000001;");
}

TEST_F(CryptoStreamsTest, AnotherNameOrAnotherAuthorityIsRefused) {
  EXPECT_EQ(ReasonOf(Execute(client_, "p2", "", nullptr)), v1::REASON_UNREACHABLE);
  IssuedCertificate other = IssueCertificate({.common_name = "ca", .authority = true}, nullptr).value();
  TlsFiles stranger = Issue("c1", {"urn:qhsm:coordinator:c1"}, other);
  EXPECT_EQ(ReasonOf(Execute(stranger, "p1", "", nullptr)), v1::REASON_UNREACHABLE);
  stranger.ca = client_.ca;  // trusts us, but is not trusted
  EXPECT_EQ(ReasonOf(Execute(stranger, "p1", "", nullptr)), v1::REASON_UNREACHABLE);
}

TEST_F(CryptoStreamsTest, CredentialsThatDoNotBelongTogetherAreAConfigurationError) {
  TlsFiles mixed = client_;
  mixed.key = node_.key;
  EXPECT_EQ(ReasonOf(MakeChannelCredentials(mixed).status()), v1::REASON_CONFIG_INVALID);
  mixed.key = directory_ + "/absent";
  EXPECT_EQ(ReasonOf(MakeServerCredentials(mixed).status()), v1::REASON_CONFIG_INVALID);
}

TEST_F(CryptoStreamsTest, FailuresCrossTheWireWhole) {
  v1::ErrorDetail busy = DetailOf(Execute(client_, "p1", "busy", nullptr));
  EXPECT_EQ(busy.reason(), v1::REASON_BUSY);
  EXPECT_EQ(busy.retry_after_ms(), 123u);
  EXPECT_EQ(busy.message(), "much to do");
  v1::ErrorDetail token = DetailOf(Execute(client_, "p1", "token", nullptr));
  EXPECT_EQ(token.reason(), v1::REASON_TOKEN_FAILED);
  EXPECT_EQ(token.token_rv(), 0x30u);
}

TEST_F(CryptoStreamsTest, AStreamIsKept) {
  auto streams = Streams();
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(Send(*streams, std::to_string(i)).ok());
  EXPECT_EQ(service_.streams, 1);
}

TEST_F(CryptoStreamsTest, AHangEndsAtItsTimeoutAndTheNextCallWorks) {
  auto streams = Streams();
  ASSERT_TRUE(Send(*streams, "a").ok());
  service_.hang = true;
  EXPECT_EQ(ReasonOf(Send(*streams, "b", absl::Milliseconds(200))), v1::REASON_DEADLINE_EXCEEDED);
  service_.hang = false;
  EXPECT_TRUE(Send(*streams, "c").ok());
}

TEST_F(CryptoStreamsTest, ABrokenOldStreamIsReplacedWithoutAnError) {
  auto streams = Streams();
  ASSERT_TRUE(Send(*streams, "a").ok());
  service_.break_next = true;
  EXPECT_TRUE(Send(*streams, "b").ok());
  EXPECT_EQ(service_.streams, 2);
  service_.break_next = true;  // an old one again: replaced again
  EXPECT_TRUE(Send(*streams, "c").ok());
}

TEST_F(CryptoStreamsTest, AServerThatIsGoneIsUnreachableAndComesBack) {
  auto streams = Streams();
  ASSERT_TRUE(Send(*streams, "a").ok());
  StopServer();
  EXPECT_EQ(ReasonOf(Send(*streams, "b", absl::Seconds(5))), v1::REASON_UNREACHABLE);
  StartServer();
  absl::Status status;
  for (int i = 0; i < 100; ++i) {
    status = Send(*streams, "c", absl::Seconds(5));
    if (status.ok()) break;
    Mutex mutex;
    CondVar never;
    MutexLock lock(mutex);
    never.WaitFor(mutex, absl::Milliseconds(50));
  }
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(CryptoStreamsTest, APeerThatFailsTheCheckGetsNothing) {
  auto streams = Streams();
  peer_verdict_ = Error(v1::REASON_UNREACHABLE, "not the pinned one");
  EXPECT_EQ(ReasonOf(Send(*streams, "a")), v1::REASON_UNREACHABLE);
}

TEST_F(CryptoStreamsTest, StreamsHaveABound) {
  auto streams = Streams(1);
  ASSERT_TRUE(Send(*streams, "a").ok());
  service_.hang = true;
  Thread first("first", [&] { (void)Send(*streams, "b"); });
  absl::Status status;
  for (int i = 0; i < 100; ++i) {  // until the other one has the stream
    status = Send(*streams, "c", absl::Milliseconds(20));
    if (ReasonOf(status) == v1::REASON_BUSY) break;
  }
  EXPECT_EQ(ReasonOf(status), v1::REASON_BUSY);
  service_.hang = false;
  first.Join();
}

}  // namespace
}  // namespace hsm
