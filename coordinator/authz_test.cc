#include "coordinator/authz.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "coordinator/builtin_roles.h"
#include "tests/testing/matchers.h"
#include "tests/testing/numbered.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::Numbered;

PrincipalId Principal(uint8_t n) { return Numbered<PrincipalId>(n); }
const PrincipalId kAdmin = Principal(1), kUser = Principal(2), kScoped = Principal(3), kNobody = Principal(4);
const RoleId kCustom = Numbered<RoleId>(9);

class Roles {
 public:
  Roles& Give(const PrincipalId& principal, const RoleId& role, const std::string& scope) {
    AssignmentId id = Numbered<AssignmentId>(++made_);
    set_.assignments[id] = {id, principal, role, scope};
    return *this;
  }
  Roles& Give(const PrincipalId& principal, std::string_view role, const std::string& scope) {
    return Give(principal, FindBuiltInRole(role)->id, scope);
  }
  Roles& Define(std::vector<DataAction> actions, std::vector<DataAction> not_actions = {}) {
    set_.custom[kCustom] = {kCustom, "custom", "", false, std::move(actions), std::move(not_actions)};
    return *this;
  }
  Authz Made() const { return Authz(set_); }

 private:
  RoleSet set_;
  uint8_t made_ = 0;
};

Authz Made() {
  return Roles()
      .Give(kAdmin, kAdministratorRole, "/")
      .Give(kUser, "Managed HSM Crypto User", "/keys")
      .Give(kScoped, "Managed HSM Crypto User", "/keys/mine")
      .Made();
}

TEST(AuthzTest, DeniesByDefault) {
  for (const Authz& authz : {Authz(), Made()}) {
    for (size_t action = 0; action < static_cast<size_t>(DataAction::kCount); ++action) {
      EXPECT_FALSE(authz.Allowed(kNobody, static_cast<DataAction>(action), "mine"));
      EXPECT_FALSE(authz.Allowed(kNobody, static_cast<DataAction>(action)));
    }
    EXPECT_THAT(authz.Check(kNobody, DataAction::kSign, "mine"), HasReason(v1::REASON_PERMISSION_DENIED));
  }
}

TEST(AuthzTest, ARoleOverTheWholeHsmHoldsForEveryKey) {
  Authz authz = Made();
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kKeysCreate, "any"));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kSign, "any"));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kKeysRead));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kRandom));
  EXPECT_FALSE(authz.Allowed(kUser, DataAction::kBackupStart));
  EXPECT_FALSE(authz.Allowed(kUser, DataAction::kDeletedKeysPurge));
  EXPECT_TRUE(authz.Allowed(kAdmin, DataAction::kPartitionsManage));
  EXPECT_FALSE(authz.Allowed(kAdmin, DataAction::kSign, "any")) << "administrators use no keys";
}

TEST(AuthzTest, KeepsAKeyScopeToItsKey) {
  Authz authz = Made();
  EXPECT_TRUE(authz.Allowed(kScoped, DataAction::kSign, "mine"));
  EXPECT_FALSE(authz.Allowed(kScoped, DataAction::kSign, "mine2"));
  EXPECT_FALSE(authz.Allowed(kScoped, DataAction::kSign, "min"));
  EXPECT_FALSE(authz.Allowed(kScoped, DataAction::kSign));
  EXPECT_FALSE(authz.Allowed(kScoped, DataAction::kKeysRead)) << "listing needs the whole HSM";
  EXPECT_TRUE(authz.Allowed(kScoped, DataAction::kStatusRead)) << "any role may see the status";
}

TEST(AuthzTest, AddsUpWhatSeveralAssignmentsGive) {
  Authz authz = Roles()
                    .Give(kUser, "Managed HSM Crypto Service Encryption User", "/keys/a")
                    .Give(kUser, "Managed HSM Crypto Service Release User", "/keys/a")
                    .Give(kUser, "Managed HSM Backup", "/")
                    .Made();
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kWrap, "a"));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kKeysRelease, "a"));
  EXPECT_TRUE(authz.Allowed(kUser, DataAction::kKeysBackup, "b"));
  EXPECT_FALSE(authz.Allowed(kUser, DataAction::kWrap, "b"));
}

TEST(AuthzTest, ACustomRoleGrantsItsActionsButNotItsNotActions) {
  Roles roles;
  roles.Give(kUser, kCustom, "/");
  roles.Define({DataAction::kSign, DataAction::kVerify}, {DataAction::kVerify, DataAction::kWrap});
  EXPECT_TRUE(roles.Made().Allowed(kUser, DataAction::kSign, "k"));
  EXPECT_FALSE(roles.Made().Allowed(kUser, DataAction::kVerify, "k"));
  EXPECT_FALSE(roles.Made().Allowed(kUser, DataAction::kWrap, "k"));
  // What one role leaves out, another may grant.
  roles.Give(kUser, "Managed HSM Crypto User", "/keys/k");
  EXPECT_TRUE(roles.Made().Allowed(kUser, DataAction::kVerify, "k"));
}

TEST(AuthzTest, ADefunctAssignmentGrantsNothing) {
  Authz authz = Roles().Give(kUser, kCustom, "/").Made();
  for (size_t action = 0; action < static_cast<size_t>(DataAction::kCount); ++action) {
    EXPECT_FALSE(authz.Allowed(kUser, static_cast<DataAction>(action), "k"));
  }
}

TEST(AuthzTest, ARefusalNamesTheRolesThatWouldDo) {
  Authz authz = Made();
  EXPECT_EQ(DetailOf(authz.Check(kAdmin, DataAction::kSign, "mine")).message(),
            GuidText(kAdmin) +
                " has no role with keys/sign/action at /keys/mine (needed: Managed HSM Crypto User)");
  EXPECT_EQ(DetailOf(authz.Check(kUser, DataAction::kBackupStart)).message(),
            GuidText(kUser) +
                " has no role with backup/start/action at / (needed: Managed HSM Administrator or "
                "Managed HSM Backup)");
  EXPECT_NE(DetailOf(authz.Check(kNobody, DataAction::kStatusRead)).message().find("(needed: any role)"),
            std::string::npos);
}

}  // namespace
}  // namespace hsm
