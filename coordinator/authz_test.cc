#include "coordinator/authz.h"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>

#include "hsm/v1/backup.pb.h"
#include "hsm/v1/crypto.pb.h"
#include "hsm/v1/hsm.pb.h"
#include "hsm/v1/job.pb.h"
#include "hsm/v1/key.pb.h"
#include "tests/testing/matchers.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;

PrincipalId Principal(uint8_t n) {
  PrincipalId id;
  id.value[15] = n;
  return id;
}
const PrincipalId kAdmin = Principal(1), kUser = Principal(2), kScoped = Principal(3), kNobody = Principal(4);

Authz Made() {
  return *Authz::Make({kAdmin}, {{kUser, "Managed HSM Crypto User", "/keys"},
                                 {kScoped, "21dbd100-6940-42c2-9190-5d6cb909625b", "/keys/mine"}});
}

// Every call of the public services has a line in the table, and the table has no others.
TEST(PermissionsTest, ListsEveryCall) {
  std::set<std::string> calls;
  for (const google::protobuf::FileDescriptor* file :
       {v1::CreateKeyRequest::descriptor()->file(), v1::CryptoOp::descriptor()->file(),
        v1::HsmStatus::descriptor()->file(), v1::Job::descriptor()->file(),
        v1::BackupPlan::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        calls.insert(file->service(s)->name() + "." + file->service(s)->method(m)->name());
      }
    }
  }
  EXPECT_GE(calls.size(), 20u);
  for (const std::string& call : calls) EXPECT_NE(FindCall(call), nullptr) << call << " has no permission";
  for (const CallPermission& row : CallPermissions()) {
    EXPECT_TRUE(calls.contains(std::string(row.call))) << row.call << " is no call";
    EXPECT_TRUE(row.action.has_value() || !row.note.empty()) << row.call << " is decided nowhere";
  }
}

TEST(PermissionsTest, RolesAreFoundByNameAndGuid) {
  EXPECT_EQ(BuiltInRoles().size(), 9u);
  EXPECT_EQ(FindRole("managed hsm backup"), FindRole("7B127D3C-77bd-4e3e-bbe0-dbb8971fa7f8"));
  EXPECT_EQ(FindRole("Managed HSM"), nullptr);
}

TEST(AuthzTest, DeniesByDefault) {
  Authz authz = Made();
  for (size_t action = 0; action < static_cast<size_t>(DataAction::kCount); ++action) {
    EXPECT_FALSE(authz.Allowed(kNobody, static_cast<DataAction>(action), "mine"));
  }
  EXPECT_THAT(authz.Check(kNobody, DataAction::kSign, "mine"), HasReason(v1::REASON_PERMISSION_DENIED));
}

// Azure's table, row by row, for the roles this matters most for.
TEST(AuthzTest, GivesEachRoleWhatAzureGivesIt) {
  Authz authz = Made();
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kKeysCreate, "any"));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kSign, "any"));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kKeysRead));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kRandom));
  EXPECT_FALSE(authz.Allowed(kUser, DataAction::kBackupStart));
  EXPECT_FALSE(authz.Allowed(kUser, DataAction::kDeletedKeysPurge));
  EXPECT_TRUE(authz.Allowed(kAdmin, DataAction::kBackupStart));
  EXPECT_TRUE(authz.Allowed(kAdmin, DataAction::kPartitionsManage));
  EXPECT_FALSE(authz.Allowed(kAdmin, DataAction::kSign, "any")) << "administrators use no keys";
  EXPECT_FALSE(authz.Allowed(kAdmin, DataAction::kKeysCreate, "any"));
}

TEST(AuthzTest, KeepsAKeyScopeToItsKey) {
  Authz authz = Made();
  EXPECT_TRUE(authz.Allowed(kScoped, DataAction::kSign, "mine"));
  EXPECT_FALSE(authz.Allowed(kScoped, DataAction::kSign, "mine2"));
  EXPECT_FALSE(authz.Allowed(kScoped, DataAction::kSign));
  EXPECT_FALSE(authz.Allowed(kScoped, DataAction::kKeysRead)) << "listing needs the whole HSM";
  EXPECT_TRUE(authz.Allowed(kScoped, DataAction::kStatusRead));
}

TEST(AuthzTest, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(Authz::Make({}, {{kUser, "Owner", "/"}}), HasReason(v1::REASON_CONFIG_INVALID));
  EXPECT_THAT(Authz::Make({}, {{kUser, "Managed HSM Backup", "keys"}}), HasReason(v1::REASON_CONFIG_INVALID));
  EXPECT_THAT(Authz::Make({}, {{kUser, "Managed HSM Backup", "/keys/a/b"}}),
              HasReason(v1::REASON_CONFIG_INVALID));
  EXPECT_THAT(Authz::Make({}, {{kUser, "Managed HSM Backup", "/keys/a-b"}}), IsOk());
}

}  // namespace
}  // namespace hsm
