#pragma once
// The seam from the coordinator to one partition. Implementations: GrpcPartitionClient (coordinator/
// grpc_partition_client.h) and the simulated network of tests/testing. Thread-safe; each call blocks until
// the answer, the timeout (DEADLINE_EXCEEDED) or a broken connection (UNREACHABLE).
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "hsm/internal/v1/partition.pb.h"

namespace hsm {

namespace rpc = internal::v1;

class PartitionClient {
 public:
  virtual ~PartitionClient() = default;
  virtual const std::string& name() const = 0;

#define HSM_PARTITION_CALL(Method, Request, Response) \
  virtual absl::StatusOr<rpc::Response> Method(const rpc::Request& request, absl::Duration timeout) = 0
  HSM_PARTITION_CALL(GetInfo, GetInfoRequest, GetInfoResponse);
  HSM_PARTITION_CALL(MakeDomain, MakeDomainRequest, MakeDomainResponse);
  HSM_PARTITION_CALL(BeginJoin, BeginJoinRequest, JoinKey);
  HSM_PARTITION_CALL(Sponsor, SponsorRequest, SponsorResponse);
  HSM_PARTITION_CALL(TakeHandover, TakeHandoverRequest, TakeHandoverResponse);
  HSM_PARTITION_CALL(CompleteJoin, CompleteJoinRequest, CompleteJoinResponse);
  HSM_PARTITION_CALL(Generate, GenerateRequest, GenerateResponse);
  HSM_PARTITION_CALL(Transition, TransitionRequest, TransitionResponse);
  HSM_PARTITION_CALL(Install, InstallRequest, InstallResponse);
  HSM_PARTITION_CALL(Activate, ActivateRequest, ActivateResponse);
  HSM_PARTITION_CALL(Discard, DiscardRequest, DiscardResponse);
  HSM_PARTITION_CALL(Prove, ProveRequest, ProveResponse);
  HSM_PARTITION_CALL(Control, ControlRequest, ControlResponse);
  HSM_PARTITION_CALL(Digest, DigestRequest, DigestResponse);
  HSM_PARTITION_CALL(ListBucket, ListBucketRequest, ListBucketResponse);
  HSM_PARTITION_CALL(PutRecords, PutRecordsRequest, PutRecordsResponse);
  HSM_PARTITION_CALL(Quarantine, QuarantineRequest, QuarantineResponse);
  HSM_PARTITION_CALL(Export, ExportRequest, ExportResponse);
  HSM_PARTITION_CALL(DeriveAead, DeriveAeadRequest, DeriveAeadResponse);
  HSM_PARTITION_CALL(SignManifest, SignManifestRequest, SignManifestResponse);
  HSM_PARTITION_CALL(CheckManifest, CheckManifestRequest, CheckManifestResponse);
  HSM_PARTITION_CALL(Import, ImportRequest, ImportResponse);
#undef HSM_PARTITION_CALL

  // One batch of the data path: answers in the order of the ops. A batch either gets all its answers or one
  // failure for the whole (UNREACHABLE, DEADLINE_EXCEEDED): then each op may or may not have run, which is
  // harmless, for every op on this path is repeatable.
  virtual absl::StatusOr<v1::CryptoBatchResult> Crypto(const v1::CryptoBatch& batch,
                                                       absl::Duration timeout) = 0;
  // The same for callers that must not block: calls `done` once, now or later, on a thread that must not
  // block either. `batch` is only looked at during the call.
  using CryptoDone = std::function<void(absl::StatusOr<v1::CryptoBatchResult>)>;
  virtual void StartCrypto(const v1::CryptoBatch& batch, absl::Duration timeout, CryptoDone done) {
    done(Crypto(batch, timeout));
  }
};

}  // namespace hsm
