#include "coordinator/builtin_roles.h"

#include <array>
#include <initializer_list>

#include "common/check.h"
#include "common/text.h"

namespace hsm {
namespace {

using enum DataAction;

RoleDefinition Role(std::string_view guid, std::string_view name, std::string_view description,
                    std::initializer_list<DataAction> actions) {
  RoleDefinition role;
  std::optional<RoleId> id = ParseGuid<RoleId>(guid);
  HSM_CHECK(id.has_value());
  role.id = *id;
  role.name = name;
  role.description = description;
  role.built_in = true;
  role.actions = actions;
  return role;
}

std::array<RoleDefinition, 9> Made() {
  return {
      Role(kAdministratorRole, "Managed HSM Administrator",
           "All operations on the security domain, full backup and restore, partitions, roles and audit. No "
           "operations on keys.",
           {kSecurityDomainDownload, kSecurityDomainDownloadRead, kSecurityDomainUpload,
            kSecurityDomainUploadRead, kTransferKeyRead, kRoleAssignmentsRead, kRoleAssignmentsWrite,
            kRoleAssignmentsDelete, kRoleDefinitionsRead, kRoleDefinitionsWrite, kRoleDefinitionsDelete,
            kBackupStart, kBackupStatus, kRestoreStart, kRestoreStatus, kStatusRead, kPartitionsManage,
            kAuditRead}),
      Role("515eb02d-2335-4d2d-92f2-b1cbdf9c3778", "Managed HSM Crypto Officer",
           "Role management; lists, recovers and purges deleted keys, exports keys. No other operations on "
           "keys.",
           {kDeletedKeysRead, kDeletedKeysRecover, kDeletedKeysPurge, kKeysExport, kRoleAssignmentsRead,
            kRoleAssignmentsWrite, kRoleAssignmentsDelete, kRoleDefinitionsRead, kRoleDefinitionsWrite,
            kRoleDefinitionsDelete}),
      Role("21dbd100-6940-42c2-9190-5d6cb909625b", "Managed HSM Crypto User",
           "All operations on keys but to recover, purge and export them.",
           {kKeysRead, kKeysWrite, kKeysRotate, kKeysCreate, kKeysDelete, kDeletedKeysRead, kKeysBackup,
            kKeysRestore, kKeysRelease, kKeysImport, kEncrypt, kDecrypt, kSign, kVerify, kWrap, kUnwrap,
            kRandom, kRoleAssignmentsRead, kRoleDefinitionsRead}),
      Role("4bd23610-cdcf-4971-bdee-bdc562cc28e4", "Managed HSM Policy Administrator",
           "Makes and removes role assignments and custom roles.",
           {kRoleAssignmentsRead, kRoleAssignmentsWrite, kRoleAssignmentsDelete, kRoleDefinitionsRead,
            kRoleDefinitionsWrite, kRoleDefinitionsDelete}),
      Role("2c18b078-7c48-4d3a-af88-5a3a1b3f82b3", "Managed HSM Crypto Auditor",
           "Reads keys, deleted keys, roles and the audit. Uses nothing.",
           {kKeysRead, kDeletedKeysRead, kRoleAssignmentsRead, kRoleDefinitionsRead, kAuditRead}),
      Role("33413926-3206-4cdd-b39a-83574fe37a17", "Managed HSM Crypto Service Encryption User",
           "Wraps and unwraps with a key, for services that encrypt data at rest.",
           {kKeysRead, kWrap, kUnwrap}),
      Role("21dbd100-6940-42c2-9190-5d6cb909625c", "Managed HSM Crypto Service Release User",
           "Releases a key to a trusted execution environment.", {kKeysRelease}),
      Role("7b127d3c-77bd-4e3e-bbe0-dbb8971fa7f8", "Managed HSM Backup",
           "Backs up a key or the whole HSM; cannot open what it made.",
           {kKeysBackup, kBackupStart, kBackupStatus}),
      Role("6efe6056-5259-49d2-8b3d-d3d73544b20b", "Managed HSM Restore", "Restores a key or the whole HSM.",
           {kKeysRestore, kRestoreStart, kRestoreStatus}),
  };
}

const std::array<RoleDefinition, 9>& Roles() {
  static const std::array<RoleDefinition, 9> roles = Made();
  return roles;
}

}  // namespace

std::span<const RoleDefinition> BuiltInRoles() { return Roles(); }

const RoleDefinition* FindBuiltInRole(const RoleId& id) {
  for (const RoleDefinition& role : Roles()) {
    if (role.id == id) return &role;
  }
  return nullptr;
}

const RoleDefinition* FindBuiltInRole(std::string_view name_or_guid) {
  if (std::optional<RoleId> id = ParseGuid<RoleId>(name_or_guid)) return FindBuiltInRole(*id);
  for (const RoleDefinition& role : Roles()) {
    if (EqualsIgnoringCase(role.name, name_or_guid)) return &role;
  }
  return nullptr;
}

}  // namespace hsm
