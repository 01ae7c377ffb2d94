#pragma once
// The cluster as a C++ object. Thread-safe; each call blocks until the answer or its timeout. Failures carry
// a Reason (common/error.h).
//
// Management calls get an op id here unless the request has one, and are repeated with that same op id while
// the outcome is unknown, the coordinator cannot be reached, or it is busy: so a call has one effect, and an
// error other than OUTCOME_UNKNOWN means that nothing happened. Crypto operations are repeatable and travel
// combined in batches (client/combiner.h).
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/options.h"
#include "common/clock.h"
#include "common/random.h"
#include "hsm/v1/backup.pb.h"
#include "hsm/v1/crypto.pb.h"
#include "hsm/v1/hsm.pb.h"
#include "hsm/v1/job.pb.h"
#include "hsm/v1/key.pb.h"
#include "hsm/v1/role.pb.h"

namespace hsm {

class Client {
 public:
  // Reads the credentials; connects at the first call. CONFIG_INVALID.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(ClientOptions options, Clock& clock = RealClock(),
                                                         Random& random = SystemRandom());
  ~Client();
  Client(const Client&) = delete;

  // One crypto operation; any number of threads. `op.timeout_ms` 0 = the options' timeout; `op.id` is ours.
  // The result's reason is always success: a failed operation is a failed status.
  absl::StatusOr<v1::CryptoResult> Crypto(v1::CryptoOp op);

#define HSM_CLIENT_CALL(Method, Request, Response) \
  absl::StatusOr<v1::Response> Method(v1::Request request = {})
  HSM_CLIENT_CALL(CreateKey, CreateKeyRequest, Key);
  HSM_CLIENT_CALL(GetKey, GetKeyRequest, Key);
  HSM_CLIENT_CALL(ListKeys, ListKeysRequest, ListKeysResponse);
  HSM_CLIENT_CALL(ListKeyVersions, ListKeyVersionsRequest, ListKeysResponse);
  HSM_CLIENT_CALL(SetKeyAttributes, SetKeyAttributesRequest, Key);
  HSM_CLIENT_CALL(RotateKey, RotateKeyRequest, Key);
  HSM_CLIENT_CALL(DeleteKey, DeleteKeyRequest, DeletedKey);
  HSM_CLIENT_CALL(GetDeletedKey, GetDeletedKeyRequest, DeletedKey);
  HSM_CLIENT_CALL(ListDeletedKeys, ListDeletedKeysRequest, ListDeletedKeysResponse);
  HSM_CLIENT_CALL(RecoverDeletedKey, RecoverDeletedKeyRequest, Key);
  HSM_CLIENT_CALL(PurgeDeletedKey, PurgeDeletedKeyRequest, PurgeDeletedKeyResponse);
  HSM_CLIENT_CALL(ProveKey, ProveKeyRequest, ProveKeyResponse);
  HSM_CLIENT_CALL(GetStatus, GetStatusRequest, HsmStatus);
  HSM_CLIENT_CALL(DrainPartition, PartitionRequest, PartitionResponse);
  HSM_CLIENT_CALL(ResumePartition, PartitionRequest, PartitionResponse);
  HSM_CLIENT_CALL(ApprovePartition, ApprovePartitionRequest, PartitionResponse);
  HSM_CLIENT_CALL(ListAudit, ListAuditRequest, ListAuditResponse);
  HSM_CLIENT_CALL(ListRoleDefinitions, ListRoleDefinitionsRequest, ListRoleDefinitionsResponse);
  HSM_CLIENT_CALL(GetRoleDefinition, GetRoleDefinitionRequest, RoleDefinition);
  HSM_CLIENT_CALL(PutRoleDefinition, PutRoleDefinitionRequest, RoleDefinition);
  HSM_CLIENT_CALL(DeleteRoleDefinition, DeleteRoleDefinitionRequest, RoleDefinition);
  HSM_CLIENT_CALL(ListRoleAssignments, ListRoleAssignmentsRequest, ListRoleAssignmentsResponse);
  HSM_CLIENT_CALL(GetRoleAssignment, GetRoleAssignmentRequest, RoleAssignment);
  HSM_CLIENT_CALL(PutRoleAssignment, PutRoleAssignmentRequest, RoleAssignment);
  HSM_CLIENT_CALL(DeleteRoleAssignment, DeleteRoleAssignmentRequest, RoleAssignment);
  HSM_CLIENT_CALL(PlanBackup, PlanBackupRequest, BackupPlan);
  HSM_CLIENT_CALL(StartBackup, StartBackupRequest, StartJobResponse);
  HSM_CLIENT_CALL(ListBackups, ListBackupsRequest, ListBackupsResponse);
  HSM_CLIENT_CALL(VerifyBackup, VerifyBackupRequest, BackupSummary);
  HSM_CLIENT_CALL(StartRestore, StartRestoreRequest, StartJobResponse);
  HSM_CLIENT_CALL(RollbackRestore, RollbackRestoreRequest, RestoreResult);
  HSM_CLIENT_CALL(GetJob, GetJobRequest, Job);
  HSM_CLIENT_CALL(ListJobs, ListJobsRequest, ListJobsResponse);
#undef HSM_CLIENT_CALL

  const ClientOptions& options() const;

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm
