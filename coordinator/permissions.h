#pragma once
// Azure Managed HSM's data actions, its built-in roles, and which action each of our calls needs. Pure
// tables; names and GUIDs are Azure's (docs/architecture.md, "Access control").
#include <bitset>
#include <optional>
#include <span>
#include <string_view>

namespace hsm {

enum class DataAction : uint8_t {
  kSecurityDomainDownload,
  kSecurityDomainDownloadRead,
  kSecurityDomainUpload,
  kSecurityDomainUploadRead,
  kTransferKeyRead,
  kKeysRead,
  kKeysWrite,
  kKeysRotate,
  kKeysCreate,
  kKeysDelete,
  kDeletedKeysRead,
  kDeletedKeysRecover,
  kDeletedKeysPurge,
  kKeysBackup,
  kKeysRestore,
  kKeysRelease,
  kKeysImport,
  kKeysExport,
  kEncrypt,
  kDecrypt,
  kSign,
  kVerify,
  kWrap,
  kUnwrap,
  kRandom,
  kRoleAssignmentsRead,
  kRoleAssignmentsWrite,
  kRoleAssignmentsDelete,
  kRoleDefinitionsRead,
  kRoleDefinitionsWrite,
  kRoleDefinitionsDelete,
  kBackupStart,
  kBackupStatus,
  kRestoreStart,
  kRestoreStatus,
  // Not Azure's: the operator's side of a cluster one owns. Administrator only, but status for every role.
  kStatusRead,
  kPartitionsManage,
  kAuditRead,
  kCount,
};
using ActionSet = std::bitset<static_cast<size_t>(DataAction::kCount)>;

std::string_view ActionName(
    DataAction action);  // "keys/sign/action"; Azure prefixes Microsoft.KeyVault/managedHsm/

struct BuiltInRole {
  std::string_view name;
  std::string_view guid;
  ActionSet actions;
};
std::span<const BuiltInRole> BuiltInRoles();
const BuiltInRole* FindRole(std::string_view name_or_guid);  // null if unknown
inline constexpr std::string_view kAdministratorRole = "a290e904-7015-4bba-90c8-60543313cdb4";

enum class CallScope { kHsm, kKey };  // what the right is checked against: "/" or "/keys/NAME"
struct CallPermission {
  std::string_view call;  // "KeyService.CreateKey"
  // Nothing: decided per operation (crypto) or by who started the job; the check is where `note` says.
  std::optional<DataAction> action;
  CallScope scope = CallScope::kHsm;
  std::string_view note;
};
std::span<const CallPermission> CallPermissions();
const CallPermission* FindCall(std::string_view call);

}  // namespace hsm
