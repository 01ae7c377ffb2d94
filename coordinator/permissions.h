#pragma once
// Azure Managed HSM's data actions, and which of them each of our calls needs. Pure tables; names are Azure's
// (docs/access_control.md). The roles that hold them: coordinator/builtin_roles.h.
#include <bitset>
#include <optional>
#include <span>
#include <string>
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

std::string_view ActionName(DataAction action);  // "keys/sign/action"
// With Azure's prefix, as role definitions say it: "Microsoft.KeyVault/managedHsm/keys/sign/action".
std::string FullActionName(DataAction action);
// The full name, in any case. Nothing if there is no such action: also for wildcards, which Azure's local
// roles do not have.
std::optional<DataAction> FindAction(std::string_view full_name);

enum class CallScope { kHsm, kKey };  // what the right is checked against: "/" or "/keys/NAME"
// One line for every call of every public service: the coordinator does not start, and permissions_test
// fails, if one is missing.
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
