#include "coordinator/role_rules.h"

#include <gtest/gtest.h>

#include "coordinator/builtin_roles.h"
#include "tests/testing/matchers.h"
#include "tests/testing/numbered.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;
using testing::Numbered;

const RoleId kCustom = Numbered<RoleId>(9);

RoleDefinition Custom(uint8_t n, const std::string& name) {
  return {Numbered<RoleId>(n), name, "", false, {DataAction::kSign}, {}};
}
RoleAssignment Assignment(uint8_t n, uint8_t principal, std::string_view role, const std::string& scope) {
  return {Numbered<AssignmentId>(n), Numbered<PrincipalId>(principal), FindBuiltInRole(role)->id, scope};
}
void Add(RoleSet& roles, const RoleDefinition& role) { roles.custom[role.id] = role; }
void Add(RoleSet& roles, const RoleAssignment& assignment) { roles.assignments[assignment.id] = assignment; }

TEST(RoleScopeTest, IsTheHsmOrOneKey) {
  EXPECT_EQ(*KeyOfScope("/"), "");
  EXPECT_EQ(*KeyOfScope("/keys"), "");
  EXPECT_EQ(*KeyOfScope("/keys/a-b"), "a-b");
  for (const char* none : {"", "keys", "/keys/", "/keys/a/b", "/keys/a_b", "/secrets", "//", "/Keys"}) {
    EXPECT_THAT(KeyOfScope(none).status(), HasReason(v1::REASON_INVALID_ARGUMENT)) << none;
  }
}

TEST(RoleRulesTest, ACustomRoleHasANameOfItsOwnAndGrantsSomething) {
  RoleSet roles;
  Add(roles, Custom(1, "Signers"));
  EXPECT_THAT(CheckPut(roles, Custom(2, "Verifiers"), {}), IsOk());
  EXPECT_THAT(CheckPut(roles, Custom(1, "Signers of invoices"), {}), IsOk()) << "a change";
  EXPECT_THAT(CheckPut(roles, Custom(2, "SIGNERS"), {}), HasReason(v1::REASON_CONFLICT));
  EXPECT_THAT(CheckPut(roles, Custom(2, "managed hsm backup"), {}), HasReason(v1::REASON_CONFLICT));
  EXPECT_THAT(CheckPut(roles, Custom(2, ""), {}), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(CheckPut(roles, Custom(2, "a\nb"), {}), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(CheckPut(roles, Custom(2, std::string(129, 'x')), {}), HasReason(v1::REASON_INVALID_ARGUMENT));
  RoleDefinition empty = Custom(2, "Empty");
  empty.not_actions = empty.actions;
  EXPECT_THAT(CheckPut(roles, empty, {}), HasReason(v1::REASON_INVALID_ARGUMENT));
  RoleDefinition built_in = Custom(2, "Mine now");
  built_in.id = FindBuiltInRole(kAdministratorRole)->id;
  EXPECT_THAT(CheckPut(roles, built_in, {}), HasReason(v1::REASON_INVALID_ARGUMENT));
}

TEST(RoleRulesTest, AGuidThatDefunctAssignmentsNameIsNotGivenOut) {
  RoleSet roles;
  RoleAssignment defunct = Assignment(1, 1, kAdministratorRole, "/");
  defunct.role = kCustom;
  Add(roles, defunct);
  EXPECT_THAT(CheckPut(roles, Custom(9, "Again"), {}), HasReason(v1::REASON_CONFLICT));
  roles.assignments.clear();
  EXPECT_THAT(CheckPut(roles, Custom(9, "Again"), {}), IsOk());
}

TEST(RoleRulesTest, AnAssignmentNamesARoleAPrincipalAndAScope) {
  RoleSet roles;
  const RoleAssignment good = Assignment(1, 1, "Managed HSM Backup", "/keys/k");
  EXPECT_THAT(CheckPut(roles, good, {}), IsOk());
  RoleAssignment bad = good;
  bad.scope = "/keys/k/v";
  EXPECT_THAT(CheckPut(roles, bad, {}), HasReason(v1::REASON_INVALID_ARGUMENT));
  bad = good;
  bad.principal = {};
  EXPECT_THAT(CheckPut(roles, bad, {}), HasReason(v1::REASON_INVALID_ARGUMENT));
  bad = good;
  bad.role = kCustom;
  EXPECT_THAT(CheckPut(roles, bad, {}), HasReason(v1::REASON_NOT_FOUND));
  Add(roles, good);
  EXPECT_THAT(CheckPut(roles, good, {}), IsOk()) << "the very same, again";
  bad = good;
  bad.scope = "/";
  EXPECT_THAT(CheckPut(roles, bad, {}), HasReason(v1::REASON_CONFLICT)) << "assignments are not changed";
  bad = good;
  bad.id = Numbered<AssignmentId>(2);
  EXPECT_THAT(CheckPut(roles, bad, {}), HasReason(v1::REASON_CONFLICT)) << "the same by another name";
}

TEST(RoleRulesTest, LimitsCountTheHsmAndEachKeyByItself) {
  const RoleLimits limits{2, 2, 1};
  RoleSet roles;
  Add(roles, Custom(1, "one"));
  EXPECT_THAT(CheckPut(roles, Custom(2, "two"), limits), IsOk());
  Add(roles, Custom(2, "two"));
  EXPECT_THAT(CheckPut(roles, Custom(3, "three"), limits), HasReason(v1::REASON_LIMIT_EXCEEDED));
  EXPECT_THAT(CheckPut(roles, Custom(2, "second"), limits), IsOk()) << "a change takes no room";

  Add(roles, Assignment(1, 1, kAdministratorRole, "/"));
  Add(roles, Assignment(2, 2, kAdministratorRole, "/keys"));
  EXPECT_THAT(CheckPut(roles, Assignment(3, 3, kAdministratorRole, "/keys"), limits),
              HasReason(v1::REASON_LIMIT_EXCEEDED));
  EXPECT_THAT(CheckPut(roles, Assignment(3, 3, kAdministratorRole, "/keys/a"), limits), IsOk());
  Add(roles, Assignment(3, 3, kAdministratorRole, "/keys/a"));
  EXPECT_THAT(CheckPut(roles, Assignment(4, 4, kAdministratorRole, "/keys/a"), limits),
              HasReason(v1::REASON_LIMIT_EXCEEDED));
  EXPECT_THAT(CheckPut(roles, Assignment(4, 4, kAdministratorRole, "/keys/b"), limits), IsOk());
}

TEST(RoleRulesTest, DefaultsAreAzures) {
  EXPECT_EQ(RoleLimits().definitions, 50u);
  EXPECT_EQ(RoleLimits().assignments, 50u);
  EXPECT_EQ(RoleLimits().assignments_per_key, 10u);
}

TEST(RoleRulesTest, BuiltInRolesStay) {
  RoleSet roles;
  Add(roles, Custom(9, "mine"));
  EXPECT_THAT(CheckDelete(roles, kCustom), IsOk());
  EXPECT_THAT(CheckDelete(roles, Numbered<RoleId>(8)), HasReason(v1::REASON_NOT_FOUND));
  EXPECT_THAT(CheckDelete(roles, FindBuiltInRole("Managed HSM Backup")->id),
              HasReason(v1::REASON_INVALID_ARGUMENT));
}

TEST(RoleRulesTest, TheLastAdministratorStays) {
  RoleSet roles;
  const AssignmentId first = Numbered<AssignmentId>(1);
  Add(roles, Assignment(1, 1, kAdministratorRole, "/"));
  Add(roles, Assignment(2, 2, kAdministratorRole, "/keys/k"));  // of one key: no administrator of the HSM
  Add(roles, Assignment(3, 3, "Managed HSM Policy Administrator", "/"));
  EXPECT_THAT(CheckDelete(roles, first), HasReason(v1::REASON_CONFLICT));
  EXPECT_THAT(CheckDelete(roles, Numbered<AssignmentId>(2)), IsOk());
  EXPECT_THAT(CheckDelete(roles, Numbered<AssignmentId>(4)), HasReason(v1::REASON_NOT_FOUND));
  Add(roles, Assignment(5, 5, kAdministratorRole, "/keys"));
  EXPECT_THAT(CheckDelete(roles, first), IsOk());
}

TEST(ConfiguredRolesTest, AreAdministratorsAndAssignmentsWithSteadyGuids) {
  CoordinatorConfig config;
  config.administrators = {Numbered<PrincipalId>(1)};
  config.assignments = {{Numbered<PrincipalId>(1), "managed hsm administrator", "/"},  // said twice
                        {Numbered<PrincipalId>(2), "21dbd100-6940-42c2-9190-5d6cb909625b", "/keys/mine"}};
  absl::StatusOr<RoleSet> roles = ConfiguredRoles(config);
  ASSERT_THAT(roles.status(), IsOk());
  EXPECT_EQ(roles->assignments.size(), 2u);
  EXPECT_EQ(roles->assignments, ConfiguredRoles(config)->assignments);
}

TEST(ConfiguredRolesTest, RefuseWhatTheyDoNotKnow) {
  auto status = [](const std::string& role, const std::string& scope) {
    CoordinatorConfig config;
    config.assignments = {{Numbered<PrincipalId>(1), role, scope}};
    return ConfiguredRoles(config).status();
  };
  EXPECT_THAT(status("Owner", "/"), HasReason(v1::REASON_CONFIG_INVALID));
  EXPECT_THAT(status("Managed HSM Backup", "keys"), HasReason(v1::REASON_CONFIG_INVALID));
  EXPECT_THAT(status("Managed HSM Backup", "/keys/a/b"), HasReason(v1::REASON_CONFIG_INVALID));
  EXPECT_THAT(status("Managed HSM Backup", "/keys/a-b"), IsOk());
}

}  // namespace
}  // namespace hsm
