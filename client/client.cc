#include "client/client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "client/combiner.h"
#include "common/crypto_streams.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/tls.h"
#include "hsm/v1/backup.grpc.pb.h"
#include "hsm/v1/crypto.grpc.pb.h"
#include "hsm/v1/hsm.grpc.pb.h"
#include "hsm/v1/job.grpc.pb.h"
#include "hsm/v1/key.grpc.pb.h"
#include "hsm/v1/role.grpc.pb.h"

namespace hsm {
namespace {

constexpr uint32_t kLanesMax = 8;  // of each class
constexpr absl::Duration kBackoffFirst = absl::Milliseconds(10);
constexpr absl::Duration kBackoffMax = absl::Seconds(1);
constexpr absl::Duration kLeftForRetry = absl::Milliseconds(5);

// Slow operations have lanes of their own, so that none sits in front of a fast one.
bool IsExpensive(v1::Algorithm algorithm, v1::CryptoOperation operation) {
  switch (algorithm) {
    case v1::ALGORITHM_RS256:
    case v1::ALGORITHM_RS384:
    case v1::ALGORITHM_RS512:
    case v1::ALGORITHM_PS256:
    case v1::ALGORITHM_PS384:
    case v1::ALGORITHM_PS512:
    case v1::ALGORITHM_RSA_OAEP:
    case v1::ALGORITHM_RSA_OAEP_256:
    case v1::ALGORITHM_RSA1_5:
      return operation != v1::CRYPTO_OPERATION_VERIFY && operation != v1::CRYPTO_OPERATION_ENCRYPT &&
             operation != v1::CRYPTO_OPERATION_WRAP_KEY;
    case v1::ALGORITHM_ES384:
    case v1::ALGORITHM_ES512:
    case v1::ALGORITHM_ES256K:
      return true;
    default:
      return false;
  }
}

// What may be asked again without a second effect: mutating calls carry an op id, all others only read.
bool MayRepeat(v1::Reason reason) {
  return reason == v1::REASON_OUTCOME_UNKNOWN || reason == v1::REASON_UNREACHABLE ||
         reason == v1::REASON_BUSY;
}

bool MayHaveHappened(const v1::ErrorDetail& detail) {
  switch (detail.reason()) {
    case v1::REASON_OUTCOME_UNKNOWN:
    case v1::REASON_DEADLINE_EXCEEDED:
      return true;
    case v1::REASON_UNREACHABLE:  // never sent when there was no connection (gRPC's words)
      return detail.message().find("failed to connect") == std::string::npos;
    default:
      return false;
  }
}

// One coordinator.
struct Endpoint {
  std::shared_ptr<grpc::Channel> calls, data;
  std::unique_ptr<v1::KeyService::Stub> keys;
  std::unique_ptr<v1::HsmService::Stub> hsm;
  std::unique_ptr<v1::JobService::Stub> jobs;
  std::unique_ptr<v1::BackupService::Stub> backups;
  std::unique_ptr<v1::RoleService::Stub> roles;
  std::unique_ptr<CryptoStreams> streams;
};

}  // namespace

class Client::Impl {
 public:
  Impl(ClientOptions options, Clock& clock, Random& random)
      : options_(std::move(options)),
        clock_(clock),
        random_(random),
        cheap_([this](auto& batch, auto& result, auto timeout) { return Send(batch, result, timeout); },
               clock, kLanesMax),
        expensive_([this](auto& batch, auto& result, auto timeout) { return Send(batch, result, timeout); },
                   clock, kLanesMax) {}

  absl::Status Open() {
    if (options_.endpoints.empty()) return Error(v1::REASON_CONFIG_INVALID, "no endpoint is given");
    HSM_ASSIGN_OR_RETURN(auto credentials,
                         MakeChannelCredentials({options_.ca, options_.certificate, options_.key}));
    for (const std::string& address : options_.endpoints) {
      Endpoint endpoint;
      endpoint.calls = MakeChannel(address, credentials, "", /*data_path=*/false);
      endpoint.data = MakeChannel(address, credentials, "", /*data_path=*/true);
      endpoint.keys = v1::KeyService::NewStub(endpoint.calls);
      endpoint.hsm = v1::HsmService::NewStub(endpoint.calls);
      endpoint.jobs = v1::JobService::NewStub(endpoint.calls);
      endpoint.backups = v1::BackupService::NewStub(endpoint.calls);
      endpoint.roles = v1::RoleService::NewStub(endpoint.calls);
      endpoint.streams = std::make_unique<CryptoStreams>(
          endpoint.data, CryptoStreams::Options{.name = address, .streams_max = 2 * kLanesMax}, clock_);
      endpoints_.push_back(std::move(endpoint));
    }
    return absl::OkStatus();
  }

  const ClientOptions& options() const { return options_; }

  absl::StatusOr<v1::CryptoResult> Crypto(v1::CryptoOp op) {
    absl::Duration timeout =
        op.timeout_ms() == 0 ? options_.crypto_timeout : absl::Milliseconds(op.timeout_ms());
    timeout = std::min<absl::Duration>(timeout, absl::Milliseconds(limits::kCryptoTimeoutMsMax));
    Deadline deadline(clock_, timeout);
    Combiner& combiner = IsExpensive(op.algorithm(), op.operation()) ? expensive_ : cheap_;
    if (op.data().size() > limits::kCryptoDataBytesMax || op.aad().size() > limits::kAadBytesMax) {
      return Error(v1::REASON_LIMIT_EXCEEDED, "the operation's data is too long");
    }
    // The common way needs no copy: only a typed BUSY or NO_PARTITION is worth another try here, connections
    // are repaired by Send for a whole batch at once.
    bool keep = op.ByteSizeLong() <= 1024;
    v1::CryptoOp copy;
    if (keep) copy = op;
    for (absl::Duration backoff = kBackoffFirst;; backoff = std::min(backoff * 2, kBackoffMax)) {
      absl::StatusOr<v1::CryptoResult> result = combiner.Run(std::move(op), deadline.Left());
      if (!result.ok()) return result;
      if (result->reason() == v1::REASON_UNSPECIFIED) return result;
      v1::ErrorDetail detail;
      detail.set_reason(result->reason());
      detail.set_message(result->message());
      detail.set_retry_after_ms(result->retry_after_ms());
      absl::Duration pause = Jitter(std::max(backoff, absl::Milliseconds(result->retry_after_ms())));
      if (!keep || result->reason() != v1::REASON_BUSY || deadline.Left() < pause + kLeftForRetry) {
        return Error(detail);
      }
      Pause(pause);
      op = copy;
    }
  }

  template <typename Stub, typename Request, typename Response>
  using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, Response*);

  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(std::unique_ptr<Stub> Endpoint::* stub,
                                Method<Stub, Request, Response> method, Request request) {
    if constexpr (requires { request.op_id(); }) {
      if (request.op_id().empty()) request.set_op_id(random_.NewOpId(clock_).Raw());
    }
    Deadline deadline(clock_, options_.timeout);
    bool unknown = false;  // an earlier try may have had its effect
    for (absl::Duration backoff = kBackoffFirst;; backoff = std::min(backoff * 2, kBackoffMax)) {
      const size_t at = current_.load(std::memory_order_relaxed);
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(deadline.Left()));
      Response response;
      absl::Status status =
          FromGrpc((*(endpoints_[at].*stub).*method)(&context, request, &response), context);
      if (status.ok()) return response;
      v1::ErrorDetail detail = DetailOf(status);
      if (detail.reason() == v1::REASON_UNREACHABLE) MoveOn(at);
      unknown |= MayHaveHappened(detail);
      absl::Duration pause = Jitter(std::max(backoff, absl::Milliseconds(detail.retry_after_ms())));
      if (!MayRepeat(detail.reason()) || deadline.Left() < pause + kLeftForRetry) {
        return Verdict(std::move(status), unknown && HasOpId<Request>());
      }
      PauseOrConnect(detail.reason(), *endpoints_[at].calls, pause);
    }
  }

 private:
  template <typename Request>
  static constexpr bool HasOpId() {
    return requires(Request request) { request.op_id(); };
  }

  // A change whose last try did not say what became of it may have happened.
  static absl::Status Verdict(absl::Status status, bool unknown) {
    v1::Reason reason = ReasonOf(status);
    if (!unknown || (reason != v1::REASON_UNREACHABLE && reason != v1::REASON_DEADLINE_EXCEEDED))
      return status;
    return Error(v1::REASON_OUTCOME_UNKNOWN, DetailOf(status).message());
  }

  // One batch over the present endpoint; a broken connection is tried again, here or at the next one, while
  // there is time: all operations are repeatable.
  absl::Status Send(const v1::CryptoBatch& batch, v1::CryptoBatchResult& result, absl::Duration timeout) {
    Deadline deadline(clock_, timeout);
    for (absl::Duration backoff = kBackoffFirst;; backoff = std::min(backoff * 2, kBackoffMax)) {
      const size_t at = current_.load(std::memory_order_relaxed);
      absl::Status status = endpoints_[at].streams->RoundTrip(batch, result, deadline.Left());
      if (status.ok() || !MayRepeat(ReasonOf(status))) return status;
      if (ReasonOf(status) == v1::REASON_UNREACHABLE) MoveOn(at);
      absl::Duration pause = Jitter(backoff);
      if (deadline.Left() < pause + kLeftForRetry) return status;
      PauseOrConnect(ReasonOf(status), *endpoints_[at].data, pause);
    }
  }

  // The next coordinator, unless another thread has moved on already.
  void MoveOn(size_t from) { current_.compare_exchange_strong(from, (from + 1) % endpoints_.size()); }

  absl::Duration Jitter(absl::Duration pause) {  // half to all of it
    int64_t ns = absl::ToInt64Nanoseconds(pause);
    return absl::Nanoseconds(ns / 2 + static_cast<int64_t>(random_.Below(static_cast<uint64_t>(ns / 2 + 1))));
  }

  // gRPC moves a connection on only while somebody waits on it: calls that fail at once and plain pauses
  // would let a TLS handshake run into its limit again and again.
  void PauseOrConnect(v1::Reason reason, grpc::Channel& channel, absl::Duration pause) {
    if (reason != v1::REASON_UNREACHABLE) return Pause(pause);
    Deadline deadline(clock_, pause);
    channel.WaitForConnected(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(pause));
    if (channel.GetState(false) != GRPC_CHANNEL_READY && !deadline.Passed()) Pause(deadline.Left());
  }

  void Pause(absl::Duration pause) {
    Mutex mutex;
    CondVar never;
    MutexLock lock(mutex);
    clock_.Await(mutex, never, [] { return false; }, pause);
  }

  const ClientOptions options_;
  Clock& clock_;
  Random& random_;
  std::vector<Endpoint> endpoints_;
  std::atomic<size_t> current_{0};
  Combiner cheap_;
  Combiner expensive_;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options, Clock& clock, Random& random) {
  auto impl = std::make_unique<Impl>(std::move(options), clock, random);
  HSM_RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

const ClientOptions& Client::options() const { return impl_->options(); }
absl::StatusOr<v1::CryptoResult> Client::Crypto(v1::CryptoOp op) { return impl_->Crypto(std::move(op)); }

#define HSM_CLIENT_CALL(Service, stub, Method, Request, Response)         \
  absl::StatusOr<v1::Response> Client::Method(v1::Request request) {      \
    return impl_->Call<v1::Service::Stub, v1::Request, v1::Response>(     \
        &Endpoint::stub, &v1::Service::Stub::Method, std::move(request)); \
  }
HSM_CLIENT_CALL(KeyService, keys, CreateKey, CreateKeyRequest, Key)
HSM_CLIENT_CALL(KeyService, keys, GetKey, GetKeyRequest, Key)
HSM_CLIENT_CALL(KeyService, keys, ListKeys, ListKeysRequest, ListKeysResponse)
HSM_CLIENT_CALL(KeyService, keys, ListKeyVersions, ListKeyVersionsRequest, ListKeysResponse)
HSM_CLIENT_CALL(KeyService, keys, SetKeyAttributes, SetKeyAttributesRequest, Key)
HSM_CLIENT_CALL(KeyService, keys, RotateKey, RotateKeyRequest, Key)
HSM_CLIENT_CALL(KeyService, keys, DeleteKey, DeleteKeyRequest, DeletedKey)
HSM_CLIENT_CALL(KeyService, keys, GetDeletedKey, GetDeletedKeyRequest, DeletedKey)
HSM_CLIENT_CALL(KeyService, keys, ListDeletedKeys, ListDeletedKeysRequest, ListDeletedKeysResponse)
HSM_CLIENT_CALL(KeyService, keys, RecoverDeletedKey, RecoverDeletedKeyRequest, Key)
HSM_CLIENT_CALL(KeyService, keys, PurgeDeletedKey, PurgeDeletedKeyRequest, PurgeDeletedKeyResponse)
HSM_CLIENT_CALL(KeyService, keys, ProveKey, ProveKeyRequest, ProveKeyResponse)
HSM_CLIENT_CALL(HsmService, hsm, GetStatus, GetStatusRequest, HsmStatus)
HSM_CLIENT_CALL(HsmService, hsm, DrainPartition, PartitionRequest, PartitionResponse)
HSM_CLIENT_CALL(HsmService, hsm, ResumePartition, PartitionRequest, PartitionResponse)
HSM_CLIENT_CALL(HsmService, hsm, ApprovePartition, ApprovePartitionRequest, PartitionResponse)
HSM_CLIENT_CALL(HsmService, hsm, ListAudit, ListAuditRequest, ListAuditResponse)
HSM_CLIENT_CALL(RoleService, roles, ListRoleDefinitions, ListRoleDefinitionsRequest,
                ListRoleDefinitionsResponse)
HSM_CLIENT_CALL(RoleService, roles, GetRoleDefinition, GetRoleDefinitionRequest, RoleDefinition)
HSM_CLIENT_CALL(RoleService, roles, PutRoleDefinition, PutRoleDefinitionRequest, RoleDefinition)
HSM_CLIENT_CALL(RoleService, roles, DeleteRoleDefinition, DeleteRoleDefinitionRequest, RoleDefinition)
HSM_CLIENT_CALL(RoleService, roles, ListRoleAssignments, ListRoleAssignmentsRequest,
                ListRoleAssignmentsResponse)
HSM_CLIENT_CALL(RoleService, roles, GetRoleAssignment, GetRoleAssignmentRequest, RoleAssignment)
HSM_CLIENT_CALL(RoleService, roles, PutRoleAssignment, PutRoleAssignmentRequest, RoleAssignment)
HSM_CLIENT_CALL(RoleService, roles, DeleteRoleAssignment, DeleteRoleAssignmentRequest, RoleAssignment)
HSM_CLIENT_CALL(BackupService, backups, PlanBackup, PlanBackupRequest, BackupPlan)
HSM_CLIENT_CALL(BackupService, backups, StartBackup, StartBackupRequest, StartJobResponse)
HSM_CLIENT_CALL(BackupService, backups, ListBackups, ListBackupsRequest, ListBackupsResponse)
HSM_CLIENT_CALL(BackupService, backups, VerifyBackup, VerifyBackupRequest, BackupSummary)
HSM_CLIENT_CALL(BackupService, backups, StartRestore, StartRestoreRequest, StartJobResponse)
HSM_CLIENT_CALL(BackupService, backups, RollbackRestore, RollbackRestoreRequest, RestoreResult)
HSM_CLIENT_CALL(JobService, jobs, GetJob, GetJobRequest, Job)
HSM_CLIENT_CALL(JobService, jobs, ListJobs, ListJobsRequest, ListJobsResponse)
#undef HSM_CLIENT_CALL

}  // namespace hsm
