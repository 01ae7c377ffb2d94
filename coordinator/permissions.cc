#include "coordinator/permissions.h"

#include <iterator>
#include <string>

#include "common/text.h"

namespace hsm {
namespace {

using enum DataAction;

constexpr std::string_view kNames[] = {
    "securitydomain/download/action",
    "securitydomain/download/read",
    "securitydomain/upload/action",
    "securitydomain/upload/read",
    "securitydomain/transferkey/read",
    "keys/read/action",
    "keys/write/action",
    "keys/rotate/action",
    "keys/create",
    "keys/delete",
    "keys/deletedKeys/read/action",
    "keys/deletedKeys/recover/action",
    "keys/deletedKeys/delete",
    "keys/backup/action",
    "keys/restore/action",
    "keys/release/action",
    "keys/import/action",
    "keys/export/action",
    "keys/encrypt/action",
    "keys/decrypt/action",
    "keys/sign/action",
    "keys/verify/action",
    "keys/wrap/action",
    "keys/unwrap/action",
    "rng/action",
    "roleAssignments/read/action",
    "roleAssignments/write/action",
    "roleAssignments/delete/action",
    "roleDefinitions/read/action",
    "roleDefinitions/write/action",
    "roleDefinitions/delete/action",
    "backup/start/action",
    "backup/status/action",
    "restore/start/action",
    "restore/status/action",
    "status/read",
    "partitions/manage/action",
    "audit/read",
};
static_assert(std::size(kNames) == static_cast<size_t>(kCount));

constexpr std::string_view kPrefix = "Microsoft.KeyVault/managedHsm/";

constexpr CallPermission kCalls[] = {
    {"KeyService.CreateKey", kKeysCreate, CallScope::kKey},
    {"KeyService.GetKey", kKeysRead, CallScope::kKey},
    {"KeyService.ListKeys", kKeysRead, CallScope::kHsm},
    {"KeyService.ListKeyVersions", kKeysRead, CallScope::kKey},
    {"KeyService.SetKeyAttributes", kKeysWrite, CallScope::kKey},
    {"KeyService.RotateKey", kKeysRotate, CallScope::kKey},
    {"KeyService.DeleteKey", kKeysDelete, CallScope::kKey},
    {"KeyService.GetDeletedKey", kDeletedKeysRead, CallScope::kKey},
    {"KeyService.ListDeletedKeys", kDeletedKeysRead, CallScope::kHsm},
    {"KeyService.RecoverDeletedKey", kDeletedKeysRecover, CallScope::kKey},
    {"KeyService.PurgeDeletedKey", kDeletedKeysPurge, CallScope::kKey},
    {"KeyService.ProveKey", kKeysRead, CallScope::kKey},
    {"CryptoService.Execute", std::nullopt, CallScope::kKey, "by operation: coordinator/crypto.cc"},
    {"CryptoService.Stream", std::nullopt, CallScope::kKey, "by operation: coordinator/crypto.cc"},
    {"HsmService.GetStatus", kStatusRead, CallScope::kHsm},
    {"HsmService.DrainPartition", kPartitionsManage, CallScope::kHsm},
    {"HsmService.ResumePartition", kPartitionsManage, CallScope::kHsm},
    {"HsmService.ApprovePartition", kPartitionsManage, CallScope::kHsm},
    {"HsmService.ListAudit", kAuditRead, CallScope::kHsm},
    {"JobService.GetJob", std::nullopt, CallScope::kHsm,
     "who started it, or the status right: coordinator/jobs.cc"},
    {"JobService.ListJobs", std::nullopt, CallScope::kHsm,
     "who started it, or the status right: coordinator/jobs.cc"},
    {"RoleService.ListRoleDefinitions", kRoleDefinitionsRead, CallScope::kHsm},
    {"RoleService.GetRoleDefinition", kRoleDefinitionsRead, CallScope::kHsm},
    {"RoleService.PutRoleDefinition", kRoleDefinitionsWrite, CallScope::kHsm},
    {"RoleService.DeleteRoleDefinition", kRoleDefinitionsDelete, CallScope::kHsm},
    // At a key's scope the right at that key is enough.
    {"RoleService.ListRoleAssignments", kRoleAssignmentsRead, CallScope::kKey},
    {"RoleService.GetRoleAssignment", kRoleAssignmentsRead, CallScope::kKey},
    {"RoleService.PutRoleAssignment", kRoleAssignmentsWrite, CallScope::kKey},
    {"RoleService.DeleteRoleAssignment", kRoleAssignmentsDelete, CallScope::kKey},
    {"BackupService.PlanBackup", kBackupStatus, CallScope::kHsm},
    {"BackupService.StartBackup", kBackupStart, CallScope::kHsm},
    {"BackupService.ListBackups", kBackupStatus, CallScope::kHsm},
    {"BackupService.VerifyBackup", kBackupStatus, CallScope::kHsm},
    {"BackupService.StartRestore", kRestoreStart, CallScope::kHsm},
    {"BackupService.RollbackRestore", kRestoreStart, CallScope::kHsm},
};

}  // namespace

std::string_view ActionName(DataAction action) { return kNames[static_cast<size_t>(action)]; }

std::string FullActionName(DataAction action) { return std::string(kPrefix).append(ActionName(action)); }

std::optional<DataAction> FindAction(std::string_view full_name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    const auto action = static_cast<DataAction>(i);
    if (EqualsIgnoringCase(FullActionName(action), full_name)) return action;
  }
  return std::nullopt;
}

std::span<const CallPermission> CallPermissions() { return kCalls; }

const CallPermission* FindCall(std::string_view call) {
  for (const CallPermission& row : kCalls) {
    if (row.call == call) return &row;
  }
  return nullptr;
}

}  // namespace hsm
