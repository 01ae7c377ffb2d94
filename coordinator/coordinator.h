#pragma once
// The coordinator of one HSM: what is behind its gRPC faces, and what simulations drive directly. Built on a
// Store, a PartitionClient per configured partition, a Clock and a Random; holds no key material in
// plaintext. Thread-safe.
//
//   Coordinator coordinator(config, store, clients, clock, random);
//   HSM_RETURN_IF_ERROR(coordinator.Start());   // campaigns, loads the catalogue, starts the loops
//   ... calls ...
//   coordinator.Stop();                         // ends the loops; the destructor does too
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/random.h"
#include "coordinator/caller.h"
#include "coordinator/config.h"
#include "coordinator/core.h"
#include "coordinator/partition_client.h"
#include "coordinator/roles.h"
#include "hsm/internal/v1/control.pb.h"
#include "hsm/v1/hsm.pb.h"
#include "hsm/v1/key.pb.h"
#include "store/store.h"

namespace hsm {

class Coordinator {
 public:
  // `clients` in the order of config.partitions; they, the store, clock and random outlive this.
  Coordinator(CoordinatorConfig config, Store& store, std::vector<PartitionClient*> clients, Clock& clock,
              Random& random);
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;

  // CONFLICT while another coordinator leads; otherwise this one does when it returns OK. After a failed
  // Start, make another object.
  absl::Status Start();
  void Stop();
  // False once leadership was lost: the process should end and start again.
  bool Leads() const;

  // From nodes. The caller has checked that the request comes from the node it names.
  rpc::HeartbeatResponse OnHeartbeat(const rpc::HeartbeatRequest& request);

  // KeyService.
  absl::StatusOr<v1::Key> CreateKey(const Caller& caller, const v1::CreateKeyRequest& request);
  absl::StatusOr<v1::Key> GetKey(const Caller& caller, const v1::GetKeyRequest& request);
  absl::StatusOr<v1::ListKeysResponse> ListKeys(const Caller& caller, const v1::ListKeysRequest& request);
  absl::StatusOr<v1::ListKeysResponse> ListKeyVersions(const Caller& caller,
                                                       const v1::ListKeyVersionsRequest& request);
  absl::StatusOr<v1::Key> SetKeyAttributes(const Caller& caller, const v1::SetKeyAttributesRequest& request);
  absl::StatusOr<v1::Key> RotateKey(const Caller& caller, const v1::RotateKeyRequest& request);
  absl::StatusOr<v1::DeletedKey> DeleteKey(const Caller& caller, const v1::DeleteKeyRequest& request);
  absl::StatusOr<v1::DeletedKey> GetDeletedKey(const Caller& caller, const v1::GetDeletedKeyRequest& request);
  absl::StatusOr<v1::ListDeletedKeysResponse> ListDeletedKeys(const Caller& caller,
                                                              const v1::ListDeletedKeysRequest& request);
  absl::StatusOr<v1::Key> RecoverDeletedKey(const Caller& caller,
                                            const v1::RecoverDeletedKeyRequest& request);
  absl::StatusOr<v1::PurgeDeletedKeyResponse> PurgeDeletedKey(const Caller& caller,
                                                              const v1::PurgeDeletedKeyRequest& request);
  absl::StatusOr<v1::ProveKeyResponse> ProveKey(const Caller& caller, const v1::ProveKeyRequest& request);

  // RoleService.
  Roles& roles();

  // HsmService. active_job is left to coordinator/jobs.
  absl::StatusOr<v1::HsmStatus> GetStatus(const Caller& caller);
  absl::StatusOr<v1::PartitionResponse> DrainPartition(const Caller& caller,
                                                       const v1::PartitionRequest& request);
  absl::StatusOr<v1::PartitionResponse> ResumePartition(const Caller& caller,
                                                        const v1::PartitionRequest& request);
  absl::StatusOr<v1::PartitionResponse> ApprovePartition(const Caller& caller,
                                                         const v1::ApprovePartitionRequest& request);
  absl::StatusOr<v1::ListAuditResponse> ListAudit(const Caller& caller, const v1::ListAuditRequest& request);
  v1::HsmStatus Status() const;  // without a check of rights

  // For restores (coordinator/restore): the modes of the HSM. Each commits, then waits for the barrier.
  // From the ack of EnterRestore on, no data-plane call is answered. Repeatable with the same job.
  absl::Status EnterRestore(const JobId& job, const AuditFields& audit);
  // A data set number never used before, made durable.
  absl::StatusOr<DataSet> NewDataSet(const JobId& job);
  // One transaction: `to` serves, the present one becomes the previous, mode ACTIVE. Reloads the key table
  // and switches the nodes; returns when W of them serve `to` (OUTCOME_UNKNOWN if not in time: the switch
  // stands).
  absl::Status SwitchDataSet(const JobId& job, DataSet to, const AuditFields& audit);
  // Back to ACTIVE with the old data set.
  absl::Status LeaveRestore(const JobId& job, const AuditFields& audit);

  // The parts, for the crypto path (router, crypto) and for jobs.
  Core& core();
  const CoordinatorConfig& config() const;

  // Asks the reconciler to look at a partition (or all) now.
  void Kick(size_t index);
  void KickAll();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm
