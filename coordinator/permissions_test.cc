#include "coordinator/permissions.h"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "coordinator/builtin_roles.h"
#include "hsm/v1/backup.pb.h"
#include "hsm/v1/crypto.pb.h"
#include "hsm/v1/hsm.pb.h"
#include "hsm/v1/job.pb.h"
#include "hsm/v1/key.pb.h"
#include "hsm/v1/role.pb.h"

namespace hsm {
namespace {

// Every call of the public services. The files are those of proto/CMakeLists.txt; one that is not linked into
// this test is not found, and fails it: mention a message of it below.
std::set<std::string> PublicCalls() {
  for (const google::protobuf::Descriptor* linked :
       {v1::Key::descriptor(), v1::CryptoOp::descriptor(), v1::HsmStatus::descriptor(), v1::Job::descriptor(),
        v1::BackupPlan::descriptor(), v1::RoleDefinition::descriptor()}) {
    EXPECT_NE(linked, nullptr);
  }
  std::set<std::string> calls;
  std::istringstream files(HSM_PUBLIC_PROTOS);
  for (std::string name; files >> name;) {
    const auto* file = google::protobuf::DescriptorPool::generated_pool()->FindFileByName(name);
    EXPECT_NE(file, nullptr) << name << " is not linked into this test";
    if (file == nullptr) continue;
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        calls.insert(file->service(s)->name() + "." + file->service(s)->method(m)->name());
      }
    }
  }
  return calls;
}

TEST(PermissionsTest, EveryCallHasALineAndEveryLineACall) {
  const std::set<std::string> calls = PublicCalls();
  EXPECT_GE(calls.size(), 31u);
  for (const std::string& call : calls) EXPECT_NE(FindCall(call), nullptr) << call << " has no permission";
  std::set<std::string_view> seen;
  for (const CallPermission& row : CallPermissions()) {
    EXPECT_TRUE(calls.contains(std::string(row.call))) << row.call << " is no call";
    EXPECT_TRUE(seen.insert(row.call).second) << row.call << " has two lines";
    EXPECT_TRUE(row.action.has_value() || !row.note.empty()) << row.call << " is decided nowhere";
  }
}

TEST(PermissionsTest, AnActionIsFoundByItsFullNameOnly) {
  for (size_t i = 0; i < static_cast<size_t>(DataAction::kCount); ++i) {
    const DataAction action = static_cast<DataAction>(i);
    EXPECT_EQ(FindAction(FullActionName(action)), action);
    EXPECT_EQ(FindAction(ActionName(action)), std::nullopt);
  }
  EXPECT_EQ(FindAction("microsoft.keyvault/managedhsm/KEYS/sign/action"), DataAction::kSign);
  for (const char* none : {"", "*", "Microsoft.KeyVault/managedHsm/*", "Microsoft.KeyVault/managedHsm/keys/*",
                           "Microsoft.KeyVault/managedHsm/keys/*/action"}) {
    EXPECT_EQ(FindAction(none), std::nullopt) << none;
  }
}

TEST(BuiltInRolesTest, AreFoundByNameAndGuid) {
  EXPECT_EQ(BuiltInRoles().size(), 9u);
  std::set<RoleId> ids;
  for (const RoleDefinition& role : BuiltInRoles()) {
    EXPECT_TRUE(ids.insert(role.id).second) << role.name;
    EXPECT_EQ(FindBuiltInRole(role.id), &role);
    EXPECT_EQ(FindBuiltInRole(role.name), &role);
    EXPECT_EQ(FindBuiltInRole(GuidText(role.id)), &role);
    EXPECT_FALSE(role.description.empty());
  }
  EXPECT_EQ(FindBuiltInRole("managed hsm backup"), FindBuiltInRole("7B127D3C-77bd-4e3e-bbe0-dbb8971fa7f8"));
  EXPECT_EQ(FindBuiltInRole("Managed HSM"), nullptr);
}

// Azure's table (docs/access_control.md), written down a second time: A dministrator, crypto O fficer, crypto
// U ser, P olicy administrator, aud I tor, service E ncryption, service re L ease, B ackup, R estore.
TEST(BuiltInRolesTest, HoldWhatAzureGivesThem) {
  constexpr std::string_view kLetters = "AOUPIELBR";
  struct Row {
    std::string_view action, roles;
  };
  constexpr Row kTable[] = {
      {"securitydomain/download/action", "A"},
      {"securitydomain/download/read", "A"},
      {"securitydomain/upload/action", "A"},
      {"securitydomain/upload/read", "A"},
      {"securitydomain/transferkey/read", "A"},
      {"keys/read/action", "UIE"},
      {"keys/write/action", "U"},
      {"keys/rotate/action", "U"},
      {"keys/create", "U"},
      {"keys/delete", "U"},
      {"keys/deletedKeys/read/action", "OUI"},
      {"keys/deletedKeys/recover/action", "O"},
      {"keys/deletedKeys/delete", "O"},
      {"keys/backup/action", "UB"},
      {"keys/restore/action", "UR"},
      {"keys/release/action", "UL"},
      {"keys/import/action", "U"},
      {"keys/export/action", "O"},
      {"keys/encrypt/action", "U"},
      {"keys/decrypt/action", "U"},
      {"keys/sign/action", "U"},
      {"keys/verify/action", "U"},
      {"keys/wrap/action", "UE"},
      {"keys/unwrap/action", "UE"},
      {"rng/action", "U"},
      {"roleAssignments/read/action", "AOUPI"},
      {"roleAssignments/write/action", "AOP"},
      {"roleAssignments/delete/action", "AOP"},
      {"roleDefinitions/read/action", "AOUPI"},
      {"roleDefinitions/write/action", "AOP"},
      {"roleDefinitions/delete/action", "AOP"},
      {"backup/start/action", "AB"},
      {"backup/status/action", "AB"},
      {"restore/start/action", "AR"},
      {"restore/status/action", "AR"},
      {"status/read", "A"},
      {"partitions/manage/action", "A"},
      {"audit/read", "AI"},
  };
  ASSERT_EQ(std::size(kTable), static_cast<size_t>(DataAction::kCount));
  ASSERT_EQ(kLetters.size(), BuiltInRoles().size());
  for (size_t i = 0; i < std::size(kTable); ++i) {
    EXPECT_EQ(ActionName(static_cast<DataAction>(i)), kTable[i].action);
    for (size_t r = 0; r < kLetters.size(); ++r) {
      EXPECT_EQ(BuiltInRoles()[r].Effective().test(i),
                kTable[i].roles.find(kLetters[r]) != std::string_view::npos)
          << kTable[i].action << " of " << BuiltInRoles()[r].name;
    }
  }
}

}  // namespace
}  // namespace hsm
