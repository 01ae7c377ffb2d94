#include "coordinator/permissions.h"

#include <array>
#include <initializer_list>
#include <string>

#include <strings.h>

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

ActionSet Set(std::initializer_list<DataAction> actions) {
  ActionSet set;
  for (DataAction action : actions) set.set(static_cast<size_t>(action));
  set.set(static_cast<size_t>(kStatusRead));  // whoever has a role may see whether the HSM is well
  return set;
}

const std::array<BuiltInRole, 9>& Roles() {
  static const std::array<BuiltInRole, 9> roles = {{
      {"Managed HSM Administrator", kAdministratorRole,
       Set({kSecurityDomainDownload, kSecurityDomainDownloadRead, kSecurityDomainUpload,
            kSecurityDomainUploadRead, kTransferKeyRead, kRoleAssignmentsRead, kRoleAssignmentsWrite,
            kRoleAssignmentsDelete, kRoleDefinitionsRead, kRoleDefinitionsWrite, kRoleDefinitionsDelete,
            kBackupStart, kBackupStatus, kRestoreStart, kRestoreStatus, kPartitionsManage, kAuditRead})},
      {"Managed HSM Crypto Officer", "515eb02d-2335-4d2d-92f2-b1cbdf9c3778",
       Set({kDeletedKeysRead, kDeletedKeysRecover, kDeletedKeysPurge, kKeysExport, kRoleAssignmentsRead,
            kRoleAssignmentsWrite, kRoleAssignmentsDelete, kRoleDefinitionsRead, kRoleDefinitionsWrite,
            kRoleDefinitionsDelete})},
      {"Managed HSM Crypto User", "21dbd100-6940-42c2-9190-5d6cb909625b",
       Set({kKeysRead, kKeysWrite, kKeysRotate, kKeysCreate, kKeysDelete, kKeysBackup, kKeysRestore,
            kKeysRelease, kKeysImport, kEncrypt, kDecrypt, kSign, kVerify, kWrap, kUnwrap, kRandom,
            kRoleAssignmentsRead, kRoleDefinitionsRead})},
      {"Managed HSM Policy Administrator", "4bd23610-cdcf-4971-bdee-bdc562cc28e4",
       Set({kRoleAssignmentsRead, kRoleAssignmentsWrite, kRoleAssignmentsDelete, kRoleDefinitionsRead,
            kRoleDefinitionsWrite, kRoleDefinitionsDelete})},
      {"Managed HSM Crypto Auditor", "2c18b078-7c48-4d3a-af88-5a3a1b3f82b3",
       Set({kKeysRead, kDeletedKeysRead, kRoleAssignmentsRead, kRoleDefinitionsRead, kAuditRead})},
      {"Managed HSM Crypto Service Encryption User", "33413926-3206-4cdd-b39a-83574fe37a17",
       Set({kKeysRead, kWrap, kUnwrap})},
      {"Managed HSM Crypto Service Release User", "21dbd100-6940-42c2-9190-5d6cb909625c",
       Set({kKeysRelease})},
      {"Managed HSM Backup", "7b127d3c-77bd-4e3e-bbe0-dbb8971fa7f8",
       Set({kKeysBackup, kBackupStart, kBackupStatus})},
      {"Managed HSM Restore", "6efe6056-5259-49d2-8b3d-d3d73544b20b",
       Set({kKeysRestore, kRestoreStart, kRestoreStatus})},
  }};
  return roles;
}

constexpr CallPermission kCalls[] = {
    {"KeyService.CreateKey", kKeysCreate, CallScope::kKey},
    {"KeyService.GetKey", kKeysRead, CallScope::kKey},
    {"KeyService.ListKeys", kKeysRead, CallScope::kHsm},
    {"KeyService.ListKeyVersions", kKeysRead, CallScope::kKey},
    {"KeyService.SetKeyAttributes", kKeysWrite, CallScope::kKey},
    {"KeyService.RotateKey", kKeysRotate, CallScope::kKey},
    {"KeyService.DeleteKey", kKeysDelete, CallScope::kKey},
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
    {"BackupService.PlanBackup", kBackupStatus, CallScope::kHsm},
    {"BackupService.StartBackup", kBackupStart, CallScope::kHsm},
    {"BackupService.ListBackups", kBackupStatus, CallScope::kHsm},
    {"BackupService.VerifyBackup", kBackupStatus, CallScope::kHsm},
    {"BackupService.StartRestore", kRestoreStart, CallScope::kHsm},
    {"BackupService.RollbackRestore", kRestoreStart, CallScope::kHsm},
};

}  // namespace

std::string_view ActionName(DataAction action) { return kNames[static_cast<size_t>(action)]; }

std::span<const BuiltInRole> BuiltInRoles() { return Roles(); }

namespace {
bool Same(std::string_view a, std::string_view b) {  // GUIDs and role names, in any case
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}
}  // namespace

const BuiltInRole* FindRole(std::string_view name_or_guid) {
  for (const BuiltInRole& role : Roles()) {
    if (Same(role.guid, name_or_guid) || Same(role.name, name_or_guid)) return &role;
  }
  return nullptr;
}

std::span<const CallPermission> CallPermissions() { return kCalls; }

const CallPermission* FindCall(std::string_view call) {
  for (const CallPermission& row : kCalls) {
    if (row.call == call) return &row;
  }
  return nullptr;
}

}  // namespace hsm
