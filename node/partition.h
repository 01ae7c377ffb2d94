#pragma once
// One partition of an HSM, without its face: what hsm/internal/v1/partition.proto asks of a node, on a Token.
// The gRPC handlers (node/partition_handlers) are thin; simulation uses this class directly. Thread-safe;
// calls block in the token and in the blob store. Everything answers NOT_ACTIVE until LoadDomain succeeded.
//
// What each call checks first (node/fence): the HSM, the epoch (an older one is refused, a newer one is
// remembered durably before anything is done), the data set. Prove, Digest, ListBucket, Install, Activate and
// PutRecords also work on a data set that is being loaded and does not serve yet. Crypto needs the serving
// lease as well, before and after the token call.
#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/random.h"
#include "hsm/internal/v1/partition.pb.h"
#include "node/blob_store.h"
#include "node/token.h"
#include "node/use_audit.h"

namespace hsm {

namespace rpc = internal::v1;
class DeviceProfile;

class Partition {
 public:
  struct Options {
    std::string node;               // the name in its certificate
    std::string address;            // host:port it serves on
    size_t key_cache_max = 20'000;  // session objects kept
    uint32_t verify_sample =
        64;  // one of so many signatures of each key is verified; RSA: every one. 0 = none
    absl::Duration drain_wait = absl::Seconds(8);  // longest wait of Control for calls in flight
    DeviceProfile* profile = nullptr;              // not owned; null = as fast as the token is
  };
  Partition(Options options, Token& token, BlobStore& blobs, UseAudit& audit, Clock& clock, Random& random);
  ~Partition();

  // Takes the domain into use: KEK fingerprints (OTHER_DOMAIN), Token::SelfTest (SELF_TEST_FAILED), the keys
  // of the bundle as session objects, the index of the blob store. A bundle that differs from the stored one
  // counts as a new join: it is stored and no key is proved any more. Call it once. After a failure the state
  // is REFUSED.
  absl::Status LoadDomain(const rpc::DomainBundle& bundle);

  absl::StatusOr<rpc::GetInfoResponse> GetInfo(const rpc::GetInfoRequest& request);  // status and bundle
  absl::StatusOr<rpc::GenerateResponse> Generate(const rpc::GenerateRequest& request);
  absl::StatusOr<rpc::TransitionResponse> Transition(const rpc::TransitionRequest& request);
  absl::StatusOr<rpc::InstallResponse> Install(const rpc::InstallRequest& request);
  absl::StatusOr<rpc::ActivateResponse> Activate(const rpc::ActivateRequest& request);
  absl::StatusOr<rpc::DiscardResponse> Discard(const rpc::DiscardRequest& request);
  absl::StatusOr<rpc::ProveResponse> Prove(const rpc::ProveRequest& request);
  absl::StatusOr<rpc::ControlResponse> Control(const rpc::ControlRequest& request);
  absl::StatusOr<rpc::DigestResponse> Digest(const rpc::DigestRequest& request);
  absl::StatusOr<rpc::ListBucketResponse> ListBucket(const rpc::ListBucketRequest& request);
  absl::StatusOr<rpc::PutRecordsResponse> PutRecords(const rpc::PutRecordsRequest& request);
  absl::StatusOr<rpc::QuarantineResponse> Quarantine(const rpc::QuarantineRequest& request);
  absl::StatusOr<rpc::ExportResponse> Export(const rpc::ExportRequest& request);
  absl::StatusOr<rpc::DeriveAeadResponse> DeriveAead(const rpc::DeriveAeadRequest& request);
  absl::StatusOr<rpc::SignManifestResponse> SignManifest(const rpc::SignManifestRequest& request);
  absl::StatusOr<rpc::CheckManifestResponse> CheckManifest(const rpc::CheckManifestRequest& request);
  absl::StatusOr<rpc::ImportResponse> Import(const rpc::ImportRequest& request);
  // Always one answer per op, in order.
  v1::CryptoBatchResult Crypto(const v1::CryptoBatch& batch);
  // Whether Crypto on this batch may run on a thread that all streams share: its keys are in the cache,
  // nothing of it waits, and operations of its kinds have been taking little time.
  bool IsQuick(const v1::CryptoBatch& batch) const;
  void Crypto(const v1::CryptoBatch& batch, v1::CryptoBatchResult* results);  // may be on an arena

  // What the node says of itself, and what it does with the answer. `asked_at` is Clock::Uptime() before the
  // question went out: a delayed answer grants less, never more.
  rpc::HeartbeatRequest StatusForHeartbeat();
  void OnHeartbeat(const rpc::HeartbeatResponse& response, absl::Duration asked_at);

  // For a shutdown or a hand-over: no new crypto; returns when calls in flight have ended or drain_wait has
  // passed.
  void Drain();
  bool Serving() const;      // has the lease now
  bool StoreBroken() const;  // the process must end: BlobStore::Broken
  // The fence of every call with effects; also for the domain calls the handlers do themselves (Sponsor).
  absl::Status CheckFence(const rpc::Fence& fence);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace hsm
