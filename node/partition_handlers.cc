#include "node/partition_handlers.h"

#include <grpcpp/grpcpp.h>

#include <atomic>

#include "common/error.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/tls.h"
#include "hsm/internal/v1/partition.grpc.pb.h"

namespace hsm {
namespace {

absl::Status CheckPeer(const grpc::ServerContext& context) {
  if (PeerName(PeerUris(context), "coordinator")) return absl::OkStatus();
  return Error(v1::REASON_PERMISSION_DENIED, "only a coordinator talks to a partition");
}

class Handlers final : public rpc::Partition::Service {
 public:
  Handlers(Lifecycle& life, uint32_t streams_max) : life_(life), streams_max_(streams_max) {}

  // Calls of the partition proper, and calls of its life before it has a domain.
#define HSM_PARTITION_CALL(Method, Response)                                                         \
  grpc::Status Method(grpc::ServerContext* context, const rpc::Method##Request* request,             \
                      rpc::Response* response) override {                                            \
    return Serve(context, response, [&] { return OnPartition(&hsm::Partition::Method, *request); }); \
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
  HSM_PARTITION_CALL(Transition, TransitionResponse)
  HSM_PARTITION_CALL(Install, InstallResponse)
  HSM_PARTITION_CALL(Activate, ActivateResponse)
  HSM_PARTITION_CALL(Discard, DiscardResponse)
  HSM_PARTITION_CALL(Prove, ProveResponse)
  HSM_PARTITION_CALL(Control, ControlResponse)
  HSM_PARTITION_CALL(Digest, DigestResponse)
  HSM_PARTITION_CALL(ListBucket, ListBucketResponse)
  HSM_PARTITION_CALL(PutRecords, PutRecordsResponse)
  HSM_PARTITION_CALL(Quarantine, QuarantineResponse)
  HSM_PARTITION_CALL(Export, ExportResponse)
  HSM_PARTITION_CALL(DeriveAead, DeriveAeadResponse)
  HSM_PARTITION_CALL(SignManifest, SignManifestResponse)
  HSM_PARTITION_CALL(CheckManifest, CheckManifestResponse)
  HSM_PARTITION_CALL(Import, ImportResponse)
#undef HSM_PARTITION_CALL
#undef HSM_LIFE_CALL

  // One thread for the life of the stream: it reads a batch, does it, answers it.
  grpc::Status Crypto(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::CryptoBatchResult, v1::CryptoBatch>* stream) override {
    if (absl::Status status = CheckPeer(*context); !status.ok()) return ToGrpc(status, context);
    Slot slot(streams_);
    if (slot.number > streams_max_) return ToGrpc(BusyError(1'000, "too many crypto streams"), context);
    v1::CryptoBatch batch;
    v1::CryptoBatchResult results;
    while (stream->Read(&batch)) {
      std::shared_ptr<hsm::Partition> partition = life_.partition();
      if (partition == nullptr) return ToGrpc(NoDomain(), context);
      results.Clear();
      partition->Crypto(batch, &results);
      if (!stream->Write(results)) break;
    }
    return grpc::Status::OK;
  }

 private:
  struct Slot {
    explicit Slot(std::atomic<uint32_t>& c) : count(c), number(c.fetch_add(1) + 1) {}
    ~Slot() { count.fetch_sub(1); }
    std::atomic<uint32_t>& count;
    const uint32_t number;
  };

  static absl::Status NoDomain() {
    return Error(v1::REASON_NOT_ACTIVE, "the partition has no domain in use");
  }

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
  const uint32_t streams_max_;
  std::atomic<uint32_t> streams_{0};
};

}  // namespace

std::unique_ptr<grpc::Service> MakePartitionService(Lifecycle& life, uint32_t streams_max) {
  return std::make_unique<Handlers>(life, streams_max);
}

}  // namespace hsm
