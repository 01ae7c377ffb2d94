// Real gRPC with mutual TLS on the loopback, an RpcServer at its end: the same cases on the streams of
// clients and on those of the coordinator. Identities, failures crossing the wire, streams that hang or
// break, the end of a server.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <vector>

#include "common/completion_loop.h"
#include "common/crypto_streams.h"
#include "common/error.h"
#include "common/file.h"
#include "common/mutex.h"
#include "common/rpc_bind.h"
#include "common/rpc_server.h"
#include "common/thread.h"
#include "common/tls.h"
#include "common/x509.h"
#include "coordinator/partition_streams.h"
#include "hsm/v1/crypto.grpc.pb.h"

namespace hsm {
namespace {

// What the server does with batches, and what it saw. Thread-safe.
class Behaviour {
 public:
  // Serves at once, or keeps the batch until Release.
  void Take(std::function<void()> serve) {
    {
      MutexLock lock(mutex_);
      if (hang_) {
        held_.push_back(std::move(serve));
        changed_.NotifyAll();
        return;
      }
    }
    serve();
  }
  void Hang() {
    MutexLock lock(mutex_);
    hang_ = true;
  }
  void AwaitHeld() {
    MutexLock lock(mutex_);
    while (held_.empty()) changed_.Wait(mutex_);
  }
  void Release() {
    std::vector<std::function<void()>> held;
    {
      MutexLock lock(mutex_);
      hang_ = false;
      held.swap(held_);
    }
    for (auto& serve : held) serve();
  }

  std::atomic<int> streams{0};
  std::atomic<bool> break_next{false};
  std::atomic<bool> refuse{false};

 private:
  Mutex mutex_;
  CondVar changed_;
  bool hang_ HSM_GUARDED_BY(mutex_) = false;
  std::vector<std::function<void()>> held_ HSM_GUARDED_BY(mutex_);
};

class EchoSession final : public BatchSession {
 public:
  explicit EchoSession(Behaviour& behaviour) : behaviour_(behaviour) { ++behaviour_.streams; }
  void Serve(v1::CryptoBatch& batch, v1::CryptoBatchResult& results, Done done) override {
    if (behaviour_.break_next.exchange(false)) return done(Error(v1::REASON_UNREACHABLE, "broken"));
    behaviour_.Take([&batch, &results, done] {
      results.Clear();
      for (const v1::CryptoOp& op : batch.ops()) results.add_results()->set_value(op.data());
      done(absl::OkStatus());
    });
  }

 private:
  Behaviour& behaviour_;
};

// Execute shows what the other side's certificate says.
class EchoHandlers final : public v1::CryptoService::Service {
 public:
  explicit EchoHandlers(Behaviour& behaviour) : behaviour_(behaviour) {}
  grpc::Status Execute(grpc::ServerContext* context, const v1::CryptoRequest* request,
                       v1::CryptoResult* result) override {
    if (request->op().key_name() == "busy") return ToGrpc(BusyError(123, "much to do"), context);
    if (request->op().key_name() == "token")
      return ToGrpc(TokenError(v1::REASON_TOKEN_FAILED, 0x30, "C_Sign"), context);
    for (const std::string& uri : PeerUris(*context)) result->mutable_value()->append(uri + ";");
    return grpc::Status::OK;
  }
  absl::StatusOr<std::unique_ptr<BatchSession>> Open(grpc::ServerContext&) {
    if (behaviour_.refuse) return Error(v1::REASON_PERMISSION_DENIED, "not you");
    return std::make_unique<EchoSession>(behaviour_);
  }

 private:
  Behaviour& behaviour_;
};

// Either kind of streams behind one call that blocks.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual absl::Status RoundTrip(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result,
                                 absl::Duration timeout) = 0;
};

using CheckPeer = std::function<absl::Status(const grpc::AuthContext&)>;

class ClientTransport final : public Transport {
 public:
  ClientTransport(std::shared_ptr<grpc::Channel> channel, uint32_t streams_max, CheckPeer check)
      : streams_(std::move(channel),
                 {.name = "p1", .streams_max = streams_max, .check_peer = std::move(check)}) {}
  absl::Status RoundTrip(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result,
                         absl::Duration timeout) override {
    return streams_.RoundTrip(batch, result, timeout);
  }

 private:
  CryptoStreams streams_;
};

class PartitionTransport final : public Transport {
 public:
  PartitionTransport(std::shared_ptr<grpc::Channel> channel, uint32_t streams_max, CheckPeer check)
      : streams_(std::move(channel),
                 {.name = "p1", .streams_max = streams_max, .check_peer = std::move(check)}, loop_) {}
  absl::Status RoundTrip(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result,
                         absl::Duration timeout) override {
    absl::Status status;
    Mutex mutex;
    CondVar changed;
    bool done = false;
    streams_.Start(batch, timeout, [&](absl::StatusOr<v1::CryptoBatchResult> answer) {
      MutexLock lock(mutex);
      status = answer.status();
      if (answer.ok()) result = *std::move(answer);
      done = true;
      changed.NotifyAll();
    });
    MutexLock lock(mutex);
    while (!done) changed.Wait(mutex);
    return status;
  }

 private:
  CompletionLoop loop_{"client"};
  PartitionStreams streams_;
};

enum class Kind { kClient, kPartition };

class StreamsContractTest : public testing::TestWithParam<Kind> {
 protected:
  StreamsContractTest() : ca_(IssueCertificate({.common_name = "ca", .authority = true}, nullptr).value()) {
    std::string pattern = testing::TempDir() + "streams.XXXXXX";
    directory_ = mkdtemp(pattern.data());
    node_ = Issue("p1", {"urn:qhsm:node:p1"}, ca_);
    client_ = Issue("c1", {"urn:qhsm:coordinator:c1", "urn:uuid:00000000-0000-0000-0000-000000000001"}, ca_);
    StartServer();
  }
  ~StreamsContractTest() override { StopServer(); }

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
    loop_ = std::make_unique<CompletionLoop>("server");
    server_ = std::make_unique<RpcServer>(*loop_,
                                          RpcServer::Options{.workers = 2, .queue_max = 8, .streams_max = 8});
    auto handlers = std::make_shared<EchoHandlers>(behaviour_);
    RpcBinder<v1::CryptoService, EchoHandlers>(*server_, handlers)
        .Unary("Execute", &EchoHandlers::Execute)
        .Stream("Stream",
                [](EchoHandlers& echo, grpc::ServerContext& context) { return echo.Open(context); });
    server_->AddStream("/hsm.internal.v1.Partition/Crypto",
                       [handlers](grpc::ServerContext& context) { return handlers->Open(context); });
    absl::StatusOr<int> port = server_->Start("127.0.0.1:" + std::to_string(port_), node_);
    ASSERT_TRUE(port.ok()) << port.status();
    port_ = *port;
  }
  void StopServer() {
    behaviour_.Release();
    server_->Drain(absl::ZeroDuration());
    server_.reset();
    loop_.reset();
  }

  std::shared_ptr<grpc::Channel> Channel(const TlsFiles& files, const std::string& peer) {
    return MakeChannel("127.0.0.1:" + std::to_string(port_), MakeChannelCredentials(files).value(), peer,
                       true);
  }
  std::unique_ptr<Transport> Streams(uint32_t streams_max = 4) {
    auto check = [this](const grpc::AuthContext& peer) {
      seen_ = PeerUris(peer);
      fingerprint_ = PeerFingerprint(peer);
      return peer_verdict_;
    };
    if (GetParam() == Kind::kClient)
      return std::make_unique<ClientTransport>(Channel(client_, "p1"), streams_max, check);
    return std::make_unique<PartitionTransport>(Channel(client_, "p1"), streams_max, check);
  }
  absl::Status Send(Transport& streams, const std::string& text, absl::Duration timeout = absl::Seconds(20)) {
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
  Behaviour behaviour_;
  int port_ = 0;
  std::unique_ptr<CompletionLoop> loop_;
  std::unique_ptr<RpcServer> server_;
  std::vector<std::string> seen_;
  Bytes fingerprint_;
  absl::Status peer_verdict_;
};

TEST_P(StreamsContractTest, BothSidesKnowEachOther) {
  auto streams = Streams();
  ASSERT_TRUE(Send(*streams, "a").ok());
  EXPECT_EQ(PeerName(seen_, "node"), "p1");
  EXPECT_EQ(fingerprint_, Certificate::FromFile(node_.certificate).value().Fingerprint());
  std::string uris;
  ASSERT_TRUE(Execute(client_, "p1", "", &uris).ok());
  EXPECT_EQ(uris, "urn:qhsm:coordinator:c1;urn:uuid:00000000-0000-0000-0000-000000000001;");
}

TEST_P(StreamsContractTest, AnotherNameOrAnotherAuthorityIsRefused) {
  EXPECT_EQ(ReasonOf(Execute(client_, "p2", "", nullptr)), v1::REASON_UNREACHABLE);
  IssuedCertificate other = IssueCertificate({.common_name = "ca", .authority = true}, nullptr).value();
  TlsFiles stranger = Issue("c1", {"urn:qhsm:coordinator:c1"}, other);
  EXPECT_EQ(ReasonOf(Execute(stranger, "p1", "", nullptr)), v1::REASON_UNREACHABLE);
  stranger.ca = client_.ca;  // trusts us, but is not trusted
  EXPECT_EQ(ReasonOf(Execute(stranger, "p1", "", nullptr)), v1::REASON_UNREACHABLE);
}

TEST_P(StreamsContractTest, CredentialsThatDoNotBelongTogetherAreAConfigurationError) {
  TlsFiles mixed = client_;
  mixed.key = node_.key;
  EXPECT_EQ(ReasonOf(MakeChannelCredentials(mixed).status()), v1::REASON_CONFIG_INVALID);
  mixed.key = directory_ + "/absent";
  EXPECT_EQ(ReasonOf(MakeServerCredentials(mixed).status()), v1::REASON_CONFIG_INVALID);
}

TEST_P(StreamsContractTest, FailuresCrossTheWireWhole) {
  v1::ErrorDetail busy = DetailOf(Execute(client_, "p1", "busy", nullptr));
  EXPECT_EQ(busy.reason(), v1::REASON_BUSY);
  EXPECT_EQ(busy.retry_after_ms(), 123u);
  EXPECT_EQ(busy.message(), "much to do");
  v1::ErrorDetail token = DetailOf(Execute(client_, "p1", "token", nullptr));
  EXPECT_EQ(token.reason(), v1::REASON_TOKEN_FAILED);
  EXPECT_EQ(token.token_rv(), 0x30u);
}

TEST_P(StreamsContractTest, AStreamIsKept) {
  auto streams = Streams();
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(Send(*streams, std::to_string(i)).ok());
  EXPECT_EQ(behaviour_.streams, 1);
}

TEST_P(StreamsContractTest, AHangEndsAtItsTimeoutAndTheNextCallWorks) {
  auto streams = Streams();
  ASSERT_TRUE(Send(*streams, "a").ok());
  behaviour_.Hang();
  EXPECT_EQ(ReasonOf(Send(*streams, "b", absl::Milliseconds(200))), v1::REASON_DEADLINE_EXCEEDED);
  behaviour_.Release();
  EXPECT_TRUE(Send(*streams, "c").ok());
}

TEST_P(StreamsContractTest, ABrokenOldStreamIsReplacedWithoutAnError) {
  auto streams = Streams();
  ASSERT_TRUE(Send(*streams, "a").ok());
  behaviour_.break_next = true;
  EXPECT_TRUE(Send(*streams, "b").ok());
  EXPECT_EQ(behaviour_.streams, 2);
  behaviour_.break_next = true;  // an old one again: replaced again
  EXPECT_TRUE(Send(*streams, "c").ok());
}

TEST_P(StreamsContractTest, AServerThatIsGoneIsUnreachableAndComesBack) {
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

TEST_P(StreamsContractTest, APeerThatFailsTheCheckGetsNothing) {
  auto streams = Streams();
  peer_verdict_ = Error(v1::REASON_UNREACHABLE, "not the pinned one");
  EXPECT_EQ(ReasonOf(Send(*streams, "a")), v1::REASON_UNREACHABLE);
}

TEST_P(StreamsContractTest, StreamsHaveABound) {
  auto streams = Streams(1);
  ASSERT_TRUE(Send(*streams, "a").ok());
  behaviour_.Hang();
  Thread first("first", [&] { EXPECT_TRUE(Send(*streams, "b").ok()); });
  behaviour_.AwaitHeld();
  EXPECT_EQ(ReasonOf(Send(*streams, "c", absl::Milliseconds(20))), v1::REASON_BUSY);
  behaviour_.Release();
  first.Join();
  EXPECT_TRUE(Send(*streams, "d").ok());
  EXPECT_EQ(behaviour_.streams, 1);
}

TEST_P(StreamsContractTest, WhoWaitsForAStreamGetsItsTurn) {
  auto streams = Streams(1);
  behaviour_.Hang();
  std::vector<Thread> threads;
  for (int i = 0; i < 5; ++i) {
    threads.emplace_back("caller", [&, i] { EXPECT_TRUE(Send(*streams, std::to_string(i)).ok()); });
  }
  behaviour_.AwaitHeld();
  behaviour_.Release();
  for (Thread& thread : threads) thread.Join();
  EXPECT_EQ(behaviour_.streams, 1);
}

TEST_P(StreamsContractTest, ManyCallersGetTheirOwnAnswers) {
  auto streams = Streams(4);
  std::vector<Thread> threads;
  for (int caller = 0; caller < 8; ++caller) {
    threads.emplace_back("caller", [&, caller] {
      for (int i = 0; i < 100; ++i) {
        EXPECT_TRUE(Send(*streams, std::to_string(caller) + "/" + std::to_string(i)).ok());
      }
    });
  }
  for (Thread& thread : threads) thread.Join();
  EXPECT_LE(behaviour_.streams, 4);
}

TEST_P(StreamsContractTest, ARefusalArrivesAsItWasSaid) {
  behaviour_.refuse = true;
  auto streams = Streams();
  EXPECT_EQ(ReasonOf(Send(*streams, "a")), v1::REASON_PERMISSION_DENIED);
}

TEST_P(StreamsContractTest, TheServerHasABoundOnStreams) {
  std::vector<std::unique_ptr<Transport>> all;
  for (int i = 0; i < 8; ++i) {
    all.push_back(Streams());
    ASSERT_TRUE(Send(*all.back(), "a").ok());
  }
  auto one_more = Streams();
  EXPECT_EQ(ReasonOf(Send(*one_more, "b")), v1::REASON_BUSY);
  all.pop_back();  // its stream ends soon
  absl::Status status;
  for (int i = 0; i < 1000; ++i) {
    status = Send(*one_more, "c");
    if (status.ok()) break;
  }
  EXPECT_TRUE(status.ok()) << status;
}

// A batch under way is answered, then its stream ends; one that waits for nothing ends at once.
TEST_P(StreamsContractTest, ADrainWaitsForWhatItServes) {
  auto streams = Streams();
  auto idle = Streams();
  ASSERT_TRUE(Send(*idle, "a").ok());
  behaviour_.Hang();
  Thread under_way("caller", [&] { EXPECT_TRUE(Send(*streams, "b").ok()); });
  behaviour_.AwaitHeld();
  Thread drain("drain", [&] { server_->Drain(absl::Seconds(20)); });
  absl::Status refused;  // at first the drain may not have begun: then the batch is held like the other one
  for (int i = 0; i < 200; ++i) {
    refused = Send(*idle, "c", absl::Milliseconds(50));
    if (ReasonOf(refused) != v1::REASON_DEADLINE_EXCEEDED) break;
  }
  EXPECT_EQ(ReasonOf(refused), v1::REASON_UNREACHABLE);
  behaviour_.Release();
  under_way.Join();
  drain.Join();
}

TEST_P(StreamsContractTest, AClientThatGoesAwayInTheMiddleHarmsNobody) {
  behaviour_.Hang();
  {
    auto leaving = Streams();
    EXPECT_EQ(ReasonOf(Send(*leaving, "a", absl::Milliseconds(100))), v1::REASON_DEADLINE_EXCEEDED);
  }
  behaviour_.AwaitHeld();
  behaviour_.Release();  // the answer finds nobody
  auto streams = Streams();
  EXPECT_TRUE(Send(*streams, "b").ok());
}

TEST_P(StreamsContractTest, GarbageIsRefused) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  auto stub = v1::CryptoService::NewStub(Channel(client_, "p1"));
  auto stream = stub->Stream(&context);
  v1::CryptoBatch garbage;
  garbage.GetReflection()->MutableUnknownFields(&garbage)->AddLengthDelimited(1)->assign(
      "\xff\xff\xff");  // no CryptoOp
  v1::CryptoBatchResult result;
  EXPECT_TRUE(stream->Write(garbage));
  EXPECT_FALSE(stream->Read(&result));
  EXPECT_EQ(ReasonOf(FromGrpc(stream->Finish(), context)), v1::REASON_INVALID_ARGUMENT);
}

INSTANTIATE_TEST_SUITE_P(Both, StreamsContractTest, testing::Values(Kind::kClient, Kind::kPartition),
                         [](const auto& tested) {
                           return tested.param == Kind::kClient ? "Client" : "Partition";
                         });

}  // namespace
}  // namespace hsm
