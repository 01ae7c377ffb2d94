#include "node/server.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/tls.h"
#include "hsm/internal/v1/control.grpc.pb.h"
#include "node/partition_handlers.h"

namespace hsm {
namespace {
constexpr auto kAskTimeout = std::chrono::milliseconds(900);   // less than the heartbeat's pace
constexpr absl::Duration kReportGap = absl::Milliseconds(50);  // many changes make few reports
constexpr absl::Duration kStopTimeout = absl::Seconds(2);
constexpr size_t kCallThreads = 64;
constexpr size_t kStreamsMax = 128;
}  // namespace

struct NodeServer::Rpc {
  Rpc(Lifecycle& life, const NodeConfig::Limits& limits, std::function<void()> changed)
      : crypto("crypto", limits.workers, limits.queue_max),
        server(loop, {.workers = kCallThreads, .queue_max = limits.queue_max, .streams_max = kStreamsMax}) {
    BindPartitionHandlers(life, crypto, server, std::move(changed));
  }
  WorkerPool crypto;  // it may hold batches of the server's streams: the server is drained first
  CompletionLoop loop{"streams"};
  RpcServer server;
  struct Coordinator {
    std::string address;
    std::unique_ptr<rpc::MembershipService::Stub> stub;
  };
  std::vector<Coordinator> coordinators;
  size_t leader = 0;    // who granted last
  bool silent = false;  // already logged that nobody grants
};

NodeServer::NodeServer(Lifecycle& life)
    : life_(life), rpc_(std::make_unique<Rpc>(life, life.config().limits, [this] { ReportSoon(); })) {}

absl::StatusOr<std::unique_ptr<NodeServer>> NodeServer::Start(Lifecycle& life) {
  const NodeConfig& config = life.config();
  std::unique_ptr<NodeServer> self(new NodeServer(life));
  HSM_ASSIGN_OR_RETURN(auto outgoing, MakeChannelCredentials(config.tls));
  HSM_RETURN_IF_ERROR(self->rpc_->server.Start(config.listen, config.tls).status());
  for (const std::string& address : config.coordinators) {
    self->rpc_->coordinators.push_back(
        {address, rpc::MembershipService::NewStub(MakeChannel(address, outgoing, "", false))});
  }
  NodeServer* server = self.get();
  self->heartbeat_ = Thread("heartbeat", [server] { server->HeartbeatLoop(); });
  return self;
}

NodeServer::~NodeServer() { Stop(); }

void NodeServer::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  heartbeat_.Join();
  rpc_->server.Drain(kStopTimeout);
}

void NodeServer::HeartbeatLoop() {
  while (true) {
    bool granted = false;
    for (size_t i = 0; i < rpc_->coordinators.size() && !granted; ++i) {
      size_t asked = (rpc_->leader + i) % rpc_->coordinators.size();
      granted = Ask(asked);
      if (granted) rpc_->leader = asked;
    }
    MutexLock lock(mutex_);
    RealClock().Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stop_; }, kReportGap);
    RealClock().Await(
        mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stop_ || report_soon_; },
        absl::Milliseconds(limits::kHeartbeatMs) - kReportGap);
    if (stop_) return;
    report_soon_ = false;
  }
}

void NodeServer::ReportSoon() {
  MutexLock lock(mutex_);
  if (std::exchange(report_soon_, true)) return;
  changed_.NotifyAll();
}

bool NodeServer::Ask(size_t index) {
  Rpc::Coordinator& coordinator = rpc_->coordinators[index];
  std::shared_ptr<Partition> partition = life_.partition();
  rpc::HeartbeatRequest request = life_.Status();
  rpc::HeartbeatResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAskTimeout);
  context.set_wait_for_ready(
      true);  // a failing-fast call would leave the connection attempt without anybody who polls
  absl::Duration asked_at = life_.clock().Uptime();
  grpc::Status answer = coordinator.stub->Heartbeat(&context, request, &response);
  if (!answer.ok()) {
    if (!rpc_->silent) {
      LogWarning("no answer from a coordinator",
                 {{"address", coordinator.address}, {"error", FromGrpc(answer, context)}});
    }
    rpc_->silent = true;
    return false;
  }
  // The server's name was checked by TLS; that it is a coordinator at all, its certificate must say.
  auto auth = context.auth_context();
  if (auth == nullptr || !PeerName(PeerUris(*auth), "coordinator")) {
    LogError("the peer is no coordinator: its answer is ignored", {{"address", coordinator.address}});
    return false;
  }
  rpc_->silent = false;
  if (partition != nullptr) partition->OnHeartbeat(response, asked_at);
  return response.lease_granted() || rpc_->coordinators.size() == 1;
}

}  // namespace hsm
