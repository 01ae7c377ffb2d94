#pragma once
// From the start of the process to a serving partition, and the domain calls that lead there.
//
//   STARTING -> (a pending hand-over is made by a helper) -> a domain is stored: the token is opened ->
//   SERVING
//                                                         -> none: NO_DOMAIN -> MakeDomain or BeginJoin,
//                                                         CompleteJoin -> SERVING
// While a helper works, this process has no PKCS#11 module loaded. A token that lost its keys (wiped,
// replaced) sends the process back to NO_DOMAIN through a restart: the stored domain is put aside and nothing
// counts as proved. What needs an operator (wrong PIN, failed self-test) is REFUSED: the process stays, says
// why, and tries no PIN a second time. Thread-safe.
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/x509.h"
#include "hsm/internal/v1/partition.pb.h"
#include "node/blob_store.h"
#include "node/config.h"
#include "node/handover.h"
#include "node/helper.h"
#include "node/partition.h"
#include "node/pkcs11_token.h"
#include "node/profile.h"
#include "node/use_audit.h"
#include "node/watchdog.h"

namespace hsm {

class Lifecycle {
 public:
  inline static constexpr int kExitRestart = 75;  // start me again at once
  inline static constexpr int kExitStoreBroken =
      74;  // the blob store failed; a restart reads what the disk has

  // `program` is the path of this executable, for helpers. `request_exit` may be called once, from any
  // thread.
  static absl::StatusOr<std::unique_ptr<Lifecycle>> Open(NodeConfig config, std::string program,
                                                         std::function<void(int)> request_exit);
  ~Lifecycle();

  // Does what is pending and opens the domain, if there is one. Returns an error only when the process must
  // end. `so_pin` came with a sponsoring that an officer approved, over the restart.
  absl::Status Start(SecretBytes so_pin);
  // No new crypto, calls in flight end, the token is let go. Nothing may be called afterwards.
  void Shutdown();

  // The SO PIN of an approved sponsoring, for the process that comes after this one (node/restart); empty if
  // none.
  SecretBytes TakeSoPin();

  std::shared_ptr<Partition> partition();  // null without a domain
  rpc::HeartbeatRequest Status();

  absl::StatusOr<rpc::GetInfoResponse> GetInfo();
  absl::StatusOr<rpc::MakeDomainResponse> MakeDomain(const rpc::MakeDomainRequest& request);
  absl::StatusOr<rpc::JoinKey> BeginJoin(const rpc::BeginJoinRequest& request);
  absl::StatusOr<rpc::CompleteJoinResponse> CompleteJoin(const rpc::CompleteJoinRequest& request);
  absl::StatusOr<rpc::SponsorResponse> Sponsor(const rpc::SponsorRequest& request);
  absl::StatusOr<rpc::TakeHandoverResponse> TakeHandover(const rpc::TakeHandoverRequest& request);

  const NodeConfig& config() const { return config_; }
  Clock& clock() const { return *clock_; }  // leases and times of keys go by it

 private:
  class TokenLock;
  Lifecycle(NodeConfig config, std::string program, std::function<void(int)> request_exit);
  absl::Status MakeHandover(SecretBytes so_pin);
  absl::StatusOr<rpc::Handover> RunSponsor(const HandoverFiles::Request& request, SecretBytes so_pin);
  absl::Status OpenDomain(const rpc::DomainBundle& bundle);
  absl::Status OpenJoined(const rpc::DomainBundle& bundle);
  absl::Status OpenToken(const rpc::DomainBundle& bundle);
  absl::Status CheckProbe();
  absl::Status StoreDomain(const rpc::DomainBundle& bundle, Epoch epoch, DataSet data_set);
  absl::Status ForgetDomain(const absl::Status& why);
  void SetState(rpc::NodeState state, std::string message);
  // One domain call at a time, and only while there is no domain; the caller holds `busy_` until Done.
  absl::Status Begin();
  void Done();

  const NodeConfig config_;
  Clock* clock_ = nullptr;
  const std::string program_;
  const std::function<void(int)> request_exit_;
  std::unique_ptr<Certificate> certificate_;
  std::unique_ptr<PrivateKey> private_key_;
  std::unique_ptr<DeviceProfile> profile_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<UseAudit> audit_;
  std::unique_ptr<Watchdog> watchdog_;
  HandoverFiles handovers_;
  uint64_t incarnation_ = 0;

  Mutex mutex_;
  rpc::NodeState state_ HSM_GUARDED_BY(mutex_) = rpc::NODE_STATE_STARTING;
  std::string message_ HSM_GUARDED_BY(mutex_);
  bool busy_ HSM_GUARDED_BY(mutex_) = false;
  SecretBytes so_pin_ HSM_GUARDED_BY(mutex_);
  std::shared_ptr<Partition> partition_ HSM_GUARDED_BY(mutex_);
  // Touched only by Start, Shutdown and the holder of busy_.
  std::unique_ptr<HelperProcess> joining_;
  std::unique_ptr<TokenLock> token_lock_;
  std::unique_ptr<Pkcs11Token> token_;
  std::unique_ptr<Token> watched_;
};

}  // namespace hsm
