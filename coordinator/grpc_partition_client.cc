#include "coordinator/grpc_partition_client.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "common/error.h"
#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "coordinator/partition_streams.h"
#include "hsm/internal/v1/partition.grpc.pb.h"

namespace hsm {
namespace {

constexpr uint32_t kStreamsMax = 32;

class GrpcPartitionClient final : public PartitionClient {
 public:
  GrpcPartitionClient(const PartitionConfig& partition, Bytes pin,
                      const std::shared_ptr<grpc::ChannelCredentials>& credentials, CompletionLoop& loop,
                      Clock& clock)
      : name_(partition.name),
        pin_(std::move(pin)),
        stub_(
            rpc::Partition::NewStub(MakeChannel(partition.address, credentials, name_, /*data_path=*/false))),
        streams_(MakeChannel(partition.address, credentials, name_, /*data_path=*/true),
                 {.name = name_,
                  .streams_max = kStreamsMax,
                  .check_peer = [this](const grpc::AuthContext& peer) { return CheckPeer(peer); }},
                 loop, clock) {}

  const std::string& name() const override { return name_; }

#define HSM_PARTITION_CALL(Method, Request, Response)                                                  \
  absl::StatusOr<rpc::Response> Method(const rpc::Request& request, absl::Duration timeout) override { \
    return Call<rpc::Request, rpc::Response>(&rpc::Partition::Stub::Method, request, timeout);         \
  }
  HSM_PARTITION_CALL(GetInfo, GetInfoRequest, GetInfoResponse)
  HSM_PARTITION_CALL(MakeDomain, MakeDomainRequest, MakeDomainResponse)
  HSM_PARTITION_CALL(BeginJoin, BeginJoinRequest, JoinKey)
  HSM_PARTITION_CALL(Sponsor, SponsorRequest, SponsorResponse)
  HSM_PARTITION_CALL(TakeHandover, TakeHandoverRequest, TakeHandoverResponse)
  HSM_PARTITION_CALL(CompleteJoin, CompleteJoinRequest, CompleteJoinResponse)
  HSM_PARTITION_CALL(Generate, GenerateRequest, GenerateResponse)
  HSM_PARTITION_CALL(Transition, TransitionRequest, TransitionResponse)
  HSM_PARTITION_CALL(Install, InstallRequest, InstallResponse)
  HSM_PARTITION_CALL(Activate, ActivateRequest, ActivateResponse)
  HSM_PARTITION_CALL(Discard, DiscardRequest, DiscardResponse)
  HSM_PARTITION_CALL(Prove, ProveRequest, ProveResponse)
  HSM_PARTITION_CALL(Control, ControlRequest, ControlResponse)
  HSM_PARTITION_CALL(Digest, DigestRequest, DigestResponse)
  HSM_PARTITION_CALL(ListBucket, ListBucketRequest, ListBucketResponse)
  HSM_PARTITION_CALL(PutRecords, PutRecordsRequest, PutRecordsResponse)
  HSM_PARTITION_CALL(Quarantine, QuarantineRequest, QuarantineResponse)
  HSM_PARTITION_CALL(Export, ExportRequest, ExportResponse)
  HSM_PARTITION_CALL(DeriveAead, DeriveAeadRequest, DeriveAeadResponse)
  HSM_PARTITION_CALL(SignManifest, SignManifestRequest, SignManifestResponse)
  HSM_PARTITION_CALL(CheckManifest, CheckManifestRequest, CheckManifestResponse)
  HSM_PARTITION_CALL(Import, ImportRequest, ImportResponse)
#undef HSM_PARTITION_CALL

  absl::StatusOr<v1::CryptoBatchResult> Crypto(const v1::CryptoBatch& batch,
                                               absl::Duration timeout) override {
    Mutex mutex;
    CondVar changed;
    absl::StatusOr<v1::CryptoBatchResult> answer;
    bool done = false;
    StartCrypto(batch, timeout, [&](absl::StatusOr<v1::CryptoBatchResult> result) {
      MutexLock lock(mutex);
      answer = std::move(result);
      done = true;
      changed.NotifyAll();
    });
    MutexLock lock(mutex);
    while (!done) changed.Wait(mutex);
    return answer;
  }

  void StartCrypto(const v1::CryptoBatch& batch, absl::Duration timeout, CryptoDone done) override {
    streams_.Start(batch, timeout, std::move(done));
  }

 private:
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (rpc::Partition::Stub::*method)(grpc::ClientContext*,
                                                                             const Request&, Response*),
                                const Request& request, absl::Duration timeout) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(timeout));
    Response response;
    absl::Status status = FromGrpc((stub_.get()->*method)(&context, request, &response), context);
    if (!status.ok()) return Named(status);
    std::shared_ptr<const grpc::AuthContext> peer = context.auth_context();
    if (peer == nullptr) return Error(v1::REASON_UNREACHABLE, name_ + " did not authenticate itself");
    HSM_RETURN_IF_ERROR(CheckPeer(*peer));
    return response;
  }

  absl::Status Named(const absl::Status& status) const {
    v1::ErrorDetail detail = DetailOf(status);
    if (detail.message().rfind(name_ + ":", 0) != 0) detail.set_message(name_ + ": " + detail.message());
    return Error(detail);
  }

  absl::Status CheckPeer(const grpc::AuthContext& peer) {
    const std::string_view certificate = PeerPem(peer);
    {
      MutexLock lock(mutex_);
      if (!certificate.empty() && certificate == known_certificate_) return absl::OkStatus();
    }
    if (PeerName(PeerUris(peer), "node") != name_) {
      return Error(v1::REASON_UNREACHABLE, "the process at " + name_ + "'s address is not that node");
    }
    if (!pin_.empty() && PeerFingerprint(peer) != pin_) {
      return Error(v1::REASON_UNREACHABLE, name_ + " shows another certificate than the pinned one");
    }
    MutexLock lock(mutex_);
    known_certificate_ = certificate;
    return absl::OkStatus();
  }

  const std::string name_;
  const Bytes pin_;
  Mutex mutex_;
  std::string known_certificate_
      HSM_GUARDED_BY(mutex_);  // PEM; the last one that was checked and found right
  const std::unique_ptr<rpc::Partition::Stub> stub_;
  PartitionStreams streams_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PartitionClient>> MakeGrpcPartitionClient(const PartitionConfig& partition,
                                                                         const TlsFiles& tls,
                                                                         CompletionLoop& loop, Clock& clock) {
  HSM_ASSIGN_OR_RETURN(auto credentials, MakeChannelCredentials(tls));
  auto pin = FromHex(partition.certificate_sha256);
  if (!pin || (!pin->empty() && pin->size() != 32)) {
    return Error(v1::REASON_CONFIG_INVALID,
                 "certificate_sha256 of " + partition.name + " is not 64 hex digits");
  }
  return std::make_unique<GrpcPartitionClient>(partition, std::move(*pin), credentials, loop, clock);
}

}  // namespace hsm
