// The node program by itself, over real gRPC with mutual TLS, on SoftHSM tokens: its life from an empty token
// to signatures, who may talk to it, the hand-over between two of them, and how it ends.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "common/completion_loop.h"
#include "common/error.h"
#include "common/file.h"
#include "common/random.h"
#include "common/record.h"
#include "common/tls.h"
#include "common/x509.h"
#include "coordinator/grpc_partition_client.h"
#include "hsm/internal/v1/control.grpc.pb.h"
#include "node/public_part.h"
#include "tests/testing/eventually.h"
#include "tests/testing/paths.h"

namespace hsm {
namespace {

using testing::Eventually;

constexpr absl::Duration kTimeout = absl::Seconds(60);

// Grants every node that asks what the test says.
class FakeMembership final : public rpc::MembershipService::Service {
 public:
  grpc::Status Heartbeat(grpc::ServerContext*, const rpc::HeartbeatRequest*,
                         rpc::HeartbeatResponse* response) override {
    response->set_epoch(1);
    response->set_data_set(1);
    response->set_lease_granted(true);
    response->set_serve(true);
    response->set_lease_ms(3'000);
    ++asked;
    return grpc::Status::OK;
  }
  std::atomic<int> asked{0};
};

int FreePort() {
  static int next = 24'000 + static_cast<int>(getpid() % 500) * 10;
  return next++;
}

// One qhsm-node and what it needs on disk.
class NodeProcess {
 public:
  NodeProcess(std::string directory, std::string name, const IssuedCertificate& authority)
      : name_(std::move(name)),
        directory_(std::move(directory) + "/" + name_),
        port_(FreePort()),
        identity_(*IssueCertificate({.common_name = name_,
                                     .uris = {"urn:qhsm:node:" + name_},
                                     .dns_names = {name_, "localhost"},
                                     .ip_addresses = {"127.0.0.1"}},
                                    &authority)) {
    std::filesystem::create_directories(directory_ + "/tokens");
    Put("tls.crt", identity_.certificate.Pem());
    Put("tls.key", std::string(StringView(identity_.key.Pem().Expose())));
    Put("ca.crt", authority.certificate.Pem());
    Put("pin", "1234");
    Put("so-pin", "12345678");
    Put("softhsm2.conf",
        "directories.tokendir = " + directory_ + "/tokens\nobjectstore.backend = file\nlog.level = ERROR\n");
  }
  ~NodeProcess() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }

  void Configure(const std::string& coordinator, const std::string& healing,
                 const std::vector<const NodeProcess*>& peers) {
    std::string text =
        "name = \"" + name_ + "\"\nlisten = \"127.0.0.1:" + std::to_string(port_) +
        "\"\ndata_dir = \"data\"\ncoordinators = [\"" + coordinator + "\"]\nhealing = \"" + healing +
        "\"\n[tls]\nca = \"ca.crt\"\ncertificate = \"tls.crt\"\nkey = \"tls.key\"\n[token]\nmodule = "
        "\"/usr/lib/softhsm/libsofthsm2.so\"\nlabel = \"" +
        name_ + "\"\npin_file = \"pin\"\n";
    if (healing == "automatic") text += "so_pin_file = \"so-pin\"\n";
    text += "[token.environment]\nSOFTHSM2_CONF = \"" + directory_ + "/softhsm2.conf\"\n[peers]\n";
    for (const NodeProcess* peer : peers)
      text += peer->name_ + " = \"" + Hex(peer->identity_.certificate.Fingerprint()) + "\"\n";
    Put("node.toml", text);
  }
  void Start() {
    std::string program = BinaryDir() + "/bin/qhsm-node", config = directory_ + "/node.toml";
    std::string log = directory_ + "/log";
    pid_ = fork();
    if (pid_ == 0) {
      int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      dup2(out, STDERR_FILENO);
      execl(program.c_str(), program.c_str(), "--config", config.c_str(), nullptr);
      _exit(127);
    }
  }
  // The exit code, after at most a minute.
  int Wait() {
    int state = 0;
    if (!Eventually([&] { return waitpid(pid_, &state, WNOHANG) == pid_; }, absl::Minutes(1))) return -1000;
    pid_ = -1;
    return WIFEXITED(state) ? WEXITSTATUS(state) : -WTERMSIG(state);
  }
  int Stop() {
    kill(pid_, SIGTERM);
    return Wait();
  }
  void Put(const std::string& file, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomic(directory_ + "/" + file, View(text)).ok());
  }
  std::string Log() const { return *ReadTextFile(directory_ + "/log", 1 << 20); }
  bool AnyFileContains(const std::string& text) const {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_ + "/data")) {
      if (!entry.is_regular_file()) continue;
      auto content = ReadFile(entry.path().string(), 64 << 20);
      if (content.ok() && StringView(*content).find(text) != std::string_view::npos) return true;
    }
    return false;
  }

  const std::string name_, directory_;
  const int port_;
  const IssuedCertificate identity_;
  pid_t pid_ = -1;
};

class NodeTest : public ::testing::Test {
 protected:
  CompletionLoop loop_{"streams"};

  NodeTest() {
    char name[] = "/tmp/node-test-XXXXXX";
    directory_ = mkdtemp(name);
    for (const char* who : {"coordinator", "node"}) {
      auto issued = *IssueCertificate({.common_name = who,
                                       .uris = {"urn:qhsm:" + std::string(who) + ":c1"},
                                       .dns_names = {"c1", "localhost"},
                                       .ip_addresses = {"127.0.0.1"}},
                                      &authority_);
      EXPECT_TRUE(WriteFileAtomic(directory_ + "/" + who + ".crt", View(issued.certificate.Pem())).ok());
      EXPECT_TRUE(WriteFileAtomic(directory_ + "/" + who + ".key", issued.key.Pem().Expose()).ok());
    }
    EXPECT_TRUE(WriteFileAtomic(directory_ + "/ca.crt", View(authority_.certificate.Pem())).ok());
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", *MakeServerCredentials(Files("coordinator")), &port);
    builder.RegisterService(&membership_);
    server_ = builder.BuildAndStart();
    coordinator_ = "127.0.0.1:" + std::to_string(port);
  }
  ~NodeTest() override {
    server_->Shutdown(std::chrono::system_clock::now());
    p1_.reset();
    p2_.reset();
    if (HasFailure())
      fprintf(stderr, "kept: %s\n", directory_.c_str());
    else
      std::filesystem::remove_all(directory_);
  }
  TlsFiles Files(const std::string& who) const {
    return {directory_ + "/ca.crt", directory_ + "/" + who + ".crt", directory_ + "/" + who + ".key"};
  }
  std::unique_ptr<PartitionClient> Client(const NodeProcess& node, const std::string& who = "coordinator") {
    PartitionConfig config;
    config.name = node.name_;
    config.address = "127.0.0.1:" + std::to_string(node.port_);
    return *MakeGrpcPartitionClient(config, Files(who), loop_);
  }
  void AwaitState(PartitionClient& client, rpc::NodeState want) {
    rpc::NodeState state = rpc::NODE_STATE_UNSPECIFIED;
    std::string message;
    Eventually([&] {
      if (auto info = client.GetInfo({}, absl::Seconds(5)); info.ok()) {
        state = info->status().state();
        message = info->status().message();
      }
      return state == want;
    });
    ASSERT_EQ(state, want) << message;
  }
  rpc::Fence Fence() const {
    rpc::Fence fence;
    fence.set_hsm_id(hsm_);
    fence.set_epoch(1);
    fence.set_data_set(1);
    return fence;
  }
  void MakeDomain(PartitionClient& client) {
    AwaitState(client, rpc::NODE_STATE_NO_DOMAIN);
    rpc::MakeDomainRequest make;
    make.set_hsm_id(hsm_);
    make.set_epoch(1);
    auto made = client.MakeDomain(make, kTimeout);
    ASSERT_TRUE(made.ok()) << made.status();
    AwaitState(client, rpc::NODE_STATE_SERVING);
  }
  absl::StatusOr<rpc::KeyRecords> CreateKey(PartitionClient& client) {
    rpc::GenerateRequest generate;
    *generate.mutable_fence() = Fence();
    generate.mutable_key()->set_name("k");
    generate.mutable_key()->set_type(v1::KEY_TYPE_EC_HSM);
    generate.mutable_key()->set_operations(Bit(v1::KEY_OPERATION_SIGN));
    generate.mutable_key()->set_enabled(true);
    auto made = client.Generate(generate, kTimeout);
    if (!made.ok()) return made.status();
    rpc::InstallRequest install;
    *install.mutable_fence() = Fence();
    rpc::InstallItem& item = *install.add_items();
    item.set_op_id(std::string(16, 'a'));
    *item.mutable_records() = made->records();
    item.set_nonce(std::string(32, 'n'));
    if (auto installed = client.Install(install, kTimeout); !installed.ok()) return installed.status();
    rpc::ActivateRequest activate;
    *activate.mutable_fence() = Fence();
    activate.add_items()->set_op_id(item.op_id());
    activate.mutable_items(0)->set_uid(DecodeHead(made->records().head())->uid.Raw());
    activate.mutable_items(0)->set_revision(1);
    if (auto activated = client.Activate(activate, kTimeout); !activated.ok()) return activated.status();
    return made->records();
  }
  v1::CryptoResult Sign(PartitionClient& client, const rpc::KeyRecords& records) {
    v1::CryptoBatch batch;
    batch.set_epoch(1);
    batch.set_data_set(1);
    v1::CryptoOp* op = batch.add_ops();
    op->set_operation(v1::CRYPTO_OPERATION_SIGN);
    op->set_algorithm(v1::ALGORITHM_ES256);
    op->set_data(std::string(32, 'd'));
    op->mutable_route()->set_uid(DecodeHead(records.head())->uid.Raw());
    op->mutable_route()->set_incarnation(1);
    op->mutable_route()->set_revision(1);
    v1::CryptoResult result;
    result.set_reason(v1::REASON_NOT_ACTIVE);
    Eventually([&] {  // until the lease is there
      auto results = client.Crypto(batch, kTimeout);
      if (results.ok()) result = results->results(0);
      return result.reason() != v1::REASON_NOT_ACTIVE;
    });
    return result;
  }
  bool Verifies(const rpc::KeyRecords& records, const v1::CryptoResult& result) {
    VersionRecord version = *DecodeVersion(records.versions(0));
    return PublicPart::Parse(version.spec, version.spki)
        ->Verify(v1::ALGORITHM_ES256, View(std::string(32, 'd')), View(result.value()));
  }
  // p2 gets p1's domain; `sealed_so_pin` as an officer would send it.
  absl::Status Join(PartitionClient& sponsor, PartitionClient& joiner, const std::string& sealed_so_pin) {
    rpc::BeginJoinRequest begin;
    begin.set_hsm_id(hsm_);
    begin.set_epoch(1);
    auto key = joiner.BeginJoin(begin, kTimeout);
    if (!key.ok()) return key.status();
    rpc::SponsorRequest request;
    *request.mutable_fence() = Fence();
    *request.mutable_join_key() = *key;
    request.set_sealed_so_pin(sealed_so_pin);
    auto accepted = sponsor.Sponsor(request, kTimeout);
    if (!accepted.ok()) return accepted.status();
    if (sealed_so_pin.empty()) {
      EXPECT_EQ(p1_->Wait(), 75);
      p1_->Start();
    }
    rpc::TakeHandoverRequest take;
    take.set_handover_id(accepted->handover_id());
    absl::StatusOr<rpc::TakeHandoverResponse> taken = Error(v1::REASON_UNREACHABLE, "not asked yet");
    Eventually([&] {
      taken = sponsor.TakeHandover(take, absl::Seconds(5));
      return taken.ok() && !taken->pending();
    });
    if (!taken.ok()) return taken.status();
    if (!taken->failure().empty()) return Error(v1::REASON_TOKEN_FAILED, taken->failure());
    rpc::CompleteJoinRequest complete;
    *complete.mutable_fence() = Fence();
    *complete.mutable_handover() = taken->handover();
    return joiner.CompleteJoin(complete, kTimeout).status();
  }
  void StartTwo(const std::string& healing, bool pinned) {
    p1_ = std::make_unique<NodeProcess>(directory_, "p1", authority_);
    p2_ = std::make_unique<NodeProcess>(directory_, "p2", authority_);
    p1_->Configure(coordinator_, "automatic",
                   {});  // the first start makes the domain with the SO PIN at hand
    p2_->Configure(coordinator_, "automatic", {p1_.get()});
    p1_->Start();
    MakeDomain(*Client(*p1_));
    EXPECT_EQ(p1_->Stop(), 0);
    p1_->Configure(coordinator_, healing,
                   pinned ? std::vector<const NodeProcess*>{p2_.get()} : std::vector<const NodeProcess*>{});
    p1_->Start();
    p2_->Start();
    AwaitState(*Client(*p1_), rpc::NODE_STATE_SERVING);
    AwaitState(*Client(*p2_), rpc::NODE_STATE_NO_DOMAIN);
  }

  const std::string hsm_ = std::string(16, 'h');
  std::string directory_, coordinator_;
  IssuedCertificate authority_ = *IssueCertificate({.common_name = "test CA", .authority = true}, nullptr);
  FakeMembership membership_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<NodeProcess> p1_, p2_;
};

TEST_F(NodeTest, FromAnEmptyTokenToASignatureOverARestart) {
  p1_ = std::make_unique<NodeProcess>(directory_, "p1", authority_);
  p1_->Configure(coordinator_, "automatic", {});
  p1_->Start();
  auto client = Client(*p1_);
  MakeDomain(*client);
  auto records = CreateKey(*client);
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_TRUE(Verifies(*records, Sign(*client, *records)));
  EXPECT_GT(membership_.asked, 0);
  auto info = client->GetInfo({}, kTimeout);
  EXPECT_NE(info->probe_report().find("strong"), std::string::npos);

  NodeProcess second(directory_, "p1", authority_);  // the same directory: refused while the first runs
  second.Start();
  EXPECT_EQ(second.Wait(), 73);

  EXPECT_EQ(p1_->Stop(), 0);
  p1_->Start();
  EXPECT_TRUE(Verifies(*records, Sign(*client, *records)));
  kill(p1_->pid_, SIGKILL);
  EXPECT_EQ(p1_->Wait(), -SIGKILL);
  p1_->Start();
  EXPECT_TRUE(Verifies(*records, Sign(*client, *records)));

  // A wiped token: the process starts again, and waits for keys.
  EXPECT_EQ(p1_->Stop(), 0);
  std::filesystem::remove_all(p1_->directory_ + "/tokens");
  std::filesystem::create_directories(p1_->directory_ + "/tokens");
  p1_->Start();
  EXPECT_EQ(p1_->Wait(), 75);
  p1_->Start();
  AwaitState(*client, rpc::NODE_STATE_NO_DOMAIN);
  EXPECT_EQ(p1_->Stop(), 0);
}

TEST_F(NodeTest, OnlyACoordinatorIsAnswered) {
  p1_ = std::make_unique<NodeProcess>(directory_, "p1", authority_);
  p1_->Configure(coordinator_, "automatic", {});
  p1_->Start();
  AwaitState(*Client(*p1_), rpc::NODE_STATE_NO_DOMAIN);
  EXPECT_EQ(ReasonOf(Client(*p1_, "node")->GetInfo({}, kTimeout).status()), v1::REASON_PERMISSION_DENIED);
  EXPECT_EQ(ReasonOf(Client(*p1_, "node")->Digest({}, kTimeout).status()), v1::REASON_PERMISSION_DENIED);
}

TEST_F(NodeTest, AWrongPinIsTriedOnceAndTheNodeSaysSo) {
  p1_ = std::make_unique<NodeProcess>(directory_, "p1", authority_);
  p1_->Configure(coordinator_, "automatic", {});
  p1_->Start();
  auto client = Client(*p1_);
  MakeDomain(*client);
  EXPECT_EQ(p1_->Stop(), 0);
  p1_->Put("pin", "9999");
  p1_->Start();
  AwaitState(*client, rpc::NODE_STATE_REFUSED);
  EXPECT_EQ(p1_->Stop(), 0);
  p1_->Put("pin", "1234");
  p1_->Start();
  AwaitState(*client, rpc::NODE_STATE_SERVING);
}

TEST_F(NodeTest, APinnedPartitionGetsTheDomainAndServesTheSameKey) {
  StartTwo("automatic", true);
  auto one = Client(*p1_), two = Client(*p2_);
  auto records = CreateKey(*one);
  ASSERT_TRUE(records.ok()) << records.status();
  absl::Status joined = Join(*one, *two, "");
  ASSERT_TRUE(joined.ok()) << joined << p1_->Log() << p2_->Log();
  AwaitState(*one, rpc::NODE_STATE_SERVING);
  AwaitState(*two, rpc::NODE_STATE_SERVING);
  rpc::InstallRequest install;
  *install.mutable_fence() = Fence();
  rpc::InstallItem& item = *install.add_items();
  item.set_op_id(std::string(16, 'b'));
  *item.mutable_records() = *records;
  item.set_nonce(std::string(32, 'n'));
  auto installed = two->Install(install, kTimeout);
  ASSERT_TRUE(installed.ok()) << installed.status();
  EXPECT_FALSE(installed->answers(0).has_error());
  EXPECT_TRUE(Verifies(*records, Sign(*two, *records)));  // STAGED, and named
  EXPECT_TRUE(Verifies(*records, Sign(*one, *records)));
}

TEST_F(NodeTest, AJoinerThatTheSponsorDoesNotKnowGetsNothing) {
  StartTwo("automatic", false);
  EXPECT_EQ(ReasonOf(Join(*Client(*p1_), *Client(*p2_), "")), v1::REASON_PERMISSION_DENIED);
  AwaitState(*Client(*p1_), rpc::NODE_STATE_SERVING);
}

TEST_F(NodeTest, WithApprovedHealingTheSoPinComesSealedAndTouchesNoDisk) {
  StartTwo("approved", true);
  auto one = Client(*p1_), two = Client(*p2_);
  EXPECT_EQ(ReasonOf(Join(*one, *two, "")), v1::REASON_PERMISSION_DENIED);
  Bytes sealed =
      *EncryptTo(p1_->identity_.certificate.Spki(), "qhsm so pin", SecretBytes(ToBytes("12345678")));
  pid_t before = p1_->pid_;
  absl::Status joined = Join(*one, *two, ToString(sealed));
  ASSERT_TRUE(joined.ok()) << joined << p1_->Log() << p2_->Log();
  AwaitState(*one, rpc::NODE_STATE_SERVING);
  AwaitState(*two, rpc::NODE_STATE_SERVING);
  EXPECT_EQ(kill(before, 0), 0) << "the sponsor replaced itself and kept its process id";
  EXPECT_FALSE(p1_->AnyFileContains("12345678"));
  EXPECT_EQ(p1_->Log().find("12345678"), std::string::npos);
}

}  // namespace
}  // namespace hsm
