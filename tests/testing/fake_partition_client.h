#pragma once
// A partition that answers as it is told, for tests of parts that need no real one. Fields are set before
// use.
#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/mutex.h"
#include "coordinator/partition_client.h"

namespace hsm::testing {

class FakePartitionClient : public PartitionClient {
 public:
  explicit FakePartitionClient(std::string name) : name_(std::move(name)) {}
  const std::string& name() const override { return name_; }

  absl::Status control;             // what Control answers
  std::vector<uint64_t> sequences;  // of Control calls, in order of arrival

  absl::StatusOr<rpc::ControlResponse> Control(const rpc::ControlRequest& request, absl::Duration) override {
    MutexLock lock(mutex_);
    sequences.push_back(request.sequence());
    if (!control.ok()) return control;
    rpc::ControlResponse response;
    response.set_taken(true);
    return response;
  }

#define HSM_FAKE_CALL(Method, Request, Response)                                       \
  absl::StatusOr<rpc::Response> Method(const rpc::Request&, absl::Duration) override { \
    return Error(v1::REASON_UNREACHABLE, name_ + " has no " #Method);                  \
  }
  HSM_FAKE_CALL(GetInfo, GetInfoRequest, GetInfoResponse)
  HSM_FAKE_CALL(MakeDomain, MakeDomainRequest, MakeDomainResponse)
  HSM_FAKE_CALL(BeginJoin, BeginJoinRequest, JoinKey)
  HSM_FAKE_CALL(Sponsor, SponsorRequest, SponsorResponse)
  HSM_FAKE_CALL(TakeHandover, TakeHandoverRequest, TakeHandoverResponse)
  HSM_FAKE_CALL(CompleteJoin, CompleteJoinRequest, CompleteJoinResponse)
  HSM_FAKE_CALL(Generate, GenerateRequest, GenerateResponse)
  HSM_FAKE_CALL(Transition, TransitionRequest, TransitionResponse)
  HSM_FAKE_CALL(Install, InstallRequest, InstallResponse)
  HSM_FAKE_CALL(Activate, ActivateRequest, ActivateResponse)
  HSM_FAKE_CALL(Discard, DiscardRequest, DiscardResponse)
  HSM_FAKE_CALL(Prove, ProveRequest, ProveResponse)
  HSM_FAKE_CALL(Digest, DigestRequest, DigestResponse)
  HSM_FAKE_CALL(ListBucket, ListBucketRequest, ListBucketResponse)
  HSM_FAKE_CALL(PutRecords, PutRecordsRequest, PutRecordsResponse)
  HSM_FAKE_CALL(Quarantine, QuarantineRequest, QuarantineResponse)
  HSM_FAKE_CALL(Export, ExportRequest, ExportResponse)
  HSM_FAKE_CALL(DeriveAead, DeriveAeadRequest, DeriveAeadResponse)
  HSM_FAKE_CALL(SignManifest, SignManifestRequest, SignManifestResponse)
  HSM_FAKE_CALL(CheckManifest, CheckManifestRequest, CheckManifestResponse)
  HSM_FAKE_CALL(Import, ImportRequest, ImportResponse)
#undef HSM_FAKE_CALL
  absl::StatusOr<v1::CryptoBatchResult> Crypto(const v1::CryptoBatch&, absl::Duration) override {
    return Error(v1::REASON_UNREACHABLE, name_ + " has no Crypto");
  }

 private:
  const std::string name_;
  Mutex mutex_;
};

}  // namespace hsm::testing
