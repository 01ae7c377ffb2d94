#include "node/partition_handlers.h"

#include <grpcpp/grpcpp.h>

#include "common/error.h"
#include "common/rpc_bind.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/tls.h"
#include "hsm/internal/v1/partition.grpc.pb.h"

namespace hsm {
namespace {

constexpr uint32_t kBusyRetryAfterMs = 25;

absl::Status CheckPeer(const grpc::ServerContext& context) {
  if (PeerName(PeerUris(context), "coordinator")) return absl::OkStatus();
  return Error(v1::REASON_PERMISSION_DENIED, "only a coordinator talks to a partition");
}

absl::Status NoDomain() { return Error(v1::REASON_NOT_ACTIVE, "the partition has no domain in use"); }

// Batches of one coordinator. What is quick is done on the loop: a hand-off to a worker costs more than an
// HMAC.
class CryptoSession final : public BatchSession {
 public:
  CryptoSession(Lifecycle& life, WorkerPool& workers) : life_(life), workers_(workers) {}

  void Serve(v1::CryptoBatch& batch, v1::CryptoBatchResult& results, Done done) override {
    results.Clear();
    std::shared_ptr<hsm::Partition> partition = life_.partition();
    if (partition == nullptr) return done(NoDomain());
    if (partition->IsQuick(batch)) {
      partition->Crypto(batch, &results);
      return done(absl::OkStatus());
    }
    bool taken = workers_.Submit([partition, &batch, &results, done] {
      partition->Crypto(batch, &results);
      done(absl::OkStatus());
    });
    if (taken) return;
    for (const v1::CryptoOp& op : batch.ops()) {
      v1::CryptoResult& result = *results.add_results();
      result.set_id(op.id());
      result.set_reason(v1::REASON_BUSY);
      result.set_message("the partition has as much to do as it may");
      result.set_retry_after_ms(kBusyRetryAfterMs);
    }
    done(absl::OkStatus());
  }

 private:
  Lifecycle& life_;
  WorkerPool& workers_;
};

class Handlers final : public rpc::Partition::Service {
 public:
  Handlers(Lifecycle& life, WorkerPool& crypto, std::function<void()> changed)
      : life_(life), crypto_(crypto), changed_(std::move(changed)) {}

  // Calls of the partition proper, those of them after which it may hold other keys, and calls of its life
  // before it has a domain.
#define HSM_PARTITION_CALL(Method, Response)                                                         \
  grpc::Status Method(grpc::ServerContext* context, const rpc::Method##Request* request,             \
                      rpc::Response* response) override {                                            \
    return Serve(context, response, [&] { return OnPartition(&hsm::Partition::Method, *request); }); \
  }
#define HSM_CHANGING_CALL(Method, Response)                                                  \
  grpc::Status Method(grpc::ServerContext* context, const rpc::Method##Request* request,     \
                      rpc::Response* response) override {                                    \
    return Serve(context, response, [&] {                                                    \
      absl::StatusOr<rpc::Response> answer = OnPartition(&hsm::Partition::Method, *request); \
      changed_();                                                                            \
      return answer;                                                                         \
    });                                                                                      \
  }
#define HSM_LIFE_CALL(Method, Response)                                                  \
  grpc::Status Method(grpc::ServerContext* context, const rpc::Method##Request* request, \
                      rpc::Response* response) override {                                \
    return Serve(context, response, [&] { return life_.Method(*request); });             \
  }
  grpc::Status GetInfo(grpc::ServerContext* context, const rpc::GetInfoRequest*,
                       rpc::GetInfoResponse* response) override {
    return Serve(context, response, [&] { return life_.GetInfo(); });
  }
  HSM_LIFE_CALL(MakeDomain, MakeDomainResponse)
  HSM_LIFE_CALL(BeginJoin, JoinKey)
  HSM_LIFE_CALL(Sponsor, SponsorResponse)
  HSM_LIFE_CALL(TakeHandover, TakeHandoverResponse)
  HSM_LIFE_CALL(CompleteJoin, CompleteJoinResponse)
  HSM_PARTITION_CALL(Generate, GenerateResponse)
  HSM_CHANGING_CALL(Transition, TransitionResponse)
  HSM_PARTITION_CALL(Install, InstallResponse)
  HSM_CHANGING_CALL(Activate, ActivateResponse)
  HSM_CHANGING_CALL(Discard, DiscardResponse)
  HSM_PARTITION_CALL(Prove, ProveResponse)
  HSM_CHANGING_CALL(Control, ControlResponse)
  HSM_PARTITION_CALL(Digest, DigestResponse)
  HSM_PARTITION_CALL(ListBucket, ListBucketResponse)
  HSM_CHANGING_CALL(PutRecords, PutRecordsResponse)
  HSM_CHANGING_CALL(Quarantine, QuarantineResponse)
  HSM_PARTITION_CALL(Export, ExportResponse)
  HSM_PARTITION_CALL(DeriveAead, DeriveAeadResponse)
  HSM_PARTITION_CALL(SignManifest, SignManifestResponse)
  HSM_PARTITION_CALL(CheckManifest, CheckManifestResponse)
  HSM_PARTITION_CALL(Import, ImportResponse)
#undef HSM_PARTITION_CALL
#undef HSM_CHANGING_CALL
#undef HSM_LIFE_CALL

  absl::StatusOr<std::unique_ptr<BatchSession>> OpenCrypto(grpc::ServerContext& context);

 private:
  template <typename Request, typename Response>
  absl::StatusOr<Response> OnPartition(absl::StatusOr<Response> (hsm::Partition::*method)(const Request&),
                                       const Request& request) {
    std::shared_ptr<hsm::Partition> partition = life_.partition();
    if (partition == nullptr) return NoDomain();
    return (*partition.*method)(request);
  }

  template <typename Response, typename Call>
  grpc::Status Serve(grpc::ServerContext* context, Response* response, const Call& call) {
    if (absl::Status status = CheckPeer(*context); !status.ok()) return ToGrpc(status, context);
    absl::StatusOr<Response> answer = call();
    if (!answer.ok()) return ToGrpc(answer.status(), context);
    *response = *std::move(answer);
    return grpc::Status::OK;
  }

  Lifecycle& life_;
  WorkerPool& crypto_;
  const std::function<void()> changed_;
};

absl::StatusOr<std::unique_ptr<BatchSession>> Handlers::OpenCrypto(grpc::ServerContext& context) {
  HSM_RETURN_IF_ERROR(CheckPeer(context));
  return std::make_unique<CryptoSession>(life_, crypto_);
}

}  // namespace

void BindPartitionHandlers(Lifecycle& life, WorkerPool& crypto, RpcServer& server,
                           std::function<void()> changed) {
  RpcBinder<rpc::Partition, Handlers> bind(server,
                                           std::make_shared<Handlers>(life, crypto, std::move(changed)));
#define HSM_BIND(Method) bind.Unary(#Method, &Handlers::Method)
  HSM_BIND(GetInfo);
  HSM_BIND(MakeDomain);
  HSM_BIND(BeginJoin);
  HSM_BIND(Sponsor);
  HSM_BIND(TakeHandover);
  HSM_BIND(CompleteJoin);
  HSM_BIND(Generate);
  HSM_BIND(Transition);
  HSM_BIND(Install);
  HSM_BIND(Activate);
  HSM_BIND(Discard);
  HSM_BIND(Prove);
  HSM_BIND(Digest);
  HSM_BIND(ListBucket);
  HSM_BIND(PutRecords);
  HSM_BIND(Quarantine);
  HSM_BIND(Export);
  HSM_BIND(DeriveAead);
  HSM_BIND(SignManifest);
  HSM_BIND(CheckManifest);
  HSM_BIND(Import);
#undef HSM_BIND
  // Revocations wait for nothing else.
  bind.Unary("Control", &Handlers::Control, RpcServer::Urgency::kUrgent);
  bind.Stream("Crypto",
              [](Handlers& handlers, grpc::ServerContext& context) { return handlers.OpenCrypto(context); });
}

}  // namespace hsm
