// Changes of roles on real partition cores: what is in force when, what outlives a restart, what is refused.
#include "coordinator/roles.h"

#include <gtest/gtest.h>

#include <atomic>

#include "coordinator/builtin_roles.h"
#include "tests/testing/local_cluster.h"
#include "tests/testing/matchers.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;
using testing::LocalCluster;

constexpr char kUserGuid[] = "11111111-2222-3333-4444-555555555555";
constexpr char kRoleGuid[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
constexpr char kPrefix[] = "Microsoft.KeyVault/managedHsm/";

class RolesTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(cluster_.StartCoordinator()); }
  void Restart() {
    cluster_.StopCoordinator();
    ASSERT_TRUE(cluster_.StartCoordinator());
  }
  Roles& roles() { return cluster_.coordinator().roles(); }
  Caller admin() { return cluster_.caller(); }
  static Caller user() {
    Caller caller;
    caller.principal = *ParsePrincipal(kUserGuid);
    return caller;
  }
  bool MayRead(const Caller& caller, const std::string& key) {
    v1::GetKeyRequest request;
    request.set_name(key);
    return ReasonOf(cluster_.coordinator().GetKey(caller, request).status()) != v1::REASON_PERMISSION_DENIED;
  }

  absl::StatusOr<v1::RoleAssignment> Assign(const std::string& role, const std::string& scope,
                                            const std::string& op_id = "", const std::string& name = "") {
    v1::PutRoleAssignmentRequest request;
    request.set_op_id(op_id);
    request.set_name(name);
    request.set_scope(scope);
    request.set_principal_id(kUserGuid);
    const RoleDefinition* built_in = FindBuiltInRole(role);
    request.set_role_definition_id(built_in == nullptr ? role : GuidText(built_in->id));
    return roles().PutAssignment(admin(), request);
  }
  absl::StatusOr<v1::RoleAssignment> Unassign(const v1::RoleAssignment& assignment,
                                              const std::string& op_id = "") {
    v1::DeleteRoleAssignmentRequest request;
    request.set_op_id(op_id);
    request.set_scope(assignment.scope());
    request.set_name(assignment.name());
    return roles().DeleteAssignment(admin(), request);
  }
  absl::StatusOr<v1::RoleDefinition> Define(const std::string& role_name,
                                            const std::vector<std::string>& actions,
                                            const std::string& guid = kRoleGuid) {
    v1::PutRoleDefinitionRequest request;
    request.set_name(guid);
    request.set_role_name(role_name);
    for (const std::string& action : actions)
      request.mutable_permission()->add_data_actions(kPrefix + action);
    return roles().PutDefinition(admin(), request);
  }
  absl::StatusOr<v1::RoleDefinition> Undefine(const std::string& guid) {
    v1::DeleteRoleDefinitionRequest request;
    request.set_name(guid);
    return roles().DeleteDefinition(admin(), request);
  }
  std::vector<v1::RoleAssignment> List(const std::string& scope, bool at_scope = false,
                                       const std::string& principal = "") {
    v1::ListRoleAssignmentsRequest request;
    request.set_scope(scope);
    request.set_at_scope(at_scope);
    request.set_principal_id(principal);
    absl::StatusOr<v1::ListRoleAssignmentsResponse> response = roles().ListAssignments(admin(), request);
    EXPECT_THAT(response, IsOk());
    if (!response.ok()) return {};
    return {response->assignments().begin(), response->assignments().end()};
  }

  LocalCluster cluster_;
};

TEST_F(RolesTest, TheConfigurationsRolesAreTakenOverOnce) {
  std::vector<v1::RoleAssignment> all = List("/");
  ASSERT_EQ(all.size(), 3u);  // LocalCluster: Administrator, Crypto User, Crypto Officer
  EXPECT_TRUE(MayRead(admin(), "k"));
  for (const v1::RoleAssignment& assignment : all) {
    if (assignment.role_name() == "Managed HSM Crypto User") {
      ASSERT_THAT(Unassign(assignment), IsOk());
    }
  }
  EXPECT_FALSE(MayRead(admin(), "k"));
  Restart();
  EXPECT_FALSE(MayRead(admin(), "k")) << "the configuration gave back what had been taken away";
  EXPECT_EQ(List("/").size(), 2u);
}

TEST_F(RolesTest, AChangeIsInForceWhenItIsAnsweredAndOutlivesARestart) {
  EXPECT_FALSE(MayRead(user(), "mine"));
  absl::StatusOr<v1::RoleAssignment> made = Assign("Managed HSM Crypto User", "/keys/mine");
  ASSERT_THAT(made, IsOk());
  EXPECT_EQ(made->id(), "/keys/mine/providers/Microsoft.Authorization/roleAssignments/" + made->name());
  EXPECT_EQ(made->role_name(), "Managed HSM Crypto User");
  EXPECT_TRUE(MayRead(user(), "mine"));
  EXPECT_FALSE(MayRead(user(), "other"));
  Restart();
  EXPECT_TRUE(MayRead(user(), "mine"));
  ASSERT_THAT(Unassign(*made), IsOk());
  EXPECT_FALSE(MayRead(user(), "mine"));
  EXPECT_THAT(Unassign(*made), HasReason(v1::REASON_NOT_FOUND));
  Restart();
  EXPECT_FALSE(MayRead(user(), "mine"));
}

TEST_F(RolesTest, TakingAwayIsAnsweredOnlyWhenEveryPartitionObeysNoOlderLeader) {
  absl::StatusOr<v1::RoleAssignment> made = Assign("Managed HSM Crypto User", "/");
  ASSERT_THAT(made, IsOk());
  std::atomic<int> told{0};
  cluster_.SetFilter([&](size_t, std::string_view call) {
    told += call == "Control";
    return absl::OkStatus();
  });
  ASSERT_THAT(Assign("Managed HSM Backup", "/"), IsOk());
  EXPECT_EQ(told, 0) << "giving needs no barrier";
  ASSERT_THAT(Unassign(*made), IsOk());
  EXPECT_EQ(told, 3);
  cluster_.SetFilter(nullptr);
  EXPECT_TRUE(cluster_.AwaitReady(3)) << "the message costs no partition its lease";
}

TEST_F(RolesTest, OneOpIdHasOneEffect) {
  Random& random = cluster_.coordinator().core().random;
  const std::string op = random.NewOpId(RealClock()).Raw();
  absl::StatusOr<v1::RoleAssignment> first = Assign("Managed HSM Backup", "/", op);
  absl::StatusOr<v1::RoleAssignment> again = Assign("Managed HSM Backup", "/", op);
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(first->name(), again->name());
  EXPECT_THAT(Assign("Managed HSM Restore", "/", op), HasReason(v1::REASON_OP_ID_CONFLICT));
  const std::string del = random.NewOpId(RealClock()).Raw();
  ASSERT_THAT(Unassign(*first, del), IsOk());
  EXPECT_THAT(Unassign(*first, del), IsOk());
}

TEST_F(RolesTest, EveryChangeIsAudited) {
  absl::StatusOr<v1::RoleAssignment> made = Assign("Managed HSM Backup", "/");
  ASSERT_THAT(made, IsOk());
  ASSERT_THAT(Assign("Managed HSM Backup", "/", "", made->name()), IsOk()) << "the same: changes nothing";
  ASSERT_THAT(Unassign(*made), IsOk());
  ASSERT_THAT(Define("Signer", {"keys/sign/action"}), IsOk());
  ASSERT_THAT(Undefine(kRoleGuid), IsOk());
  absl::StatusOr<v1::ListAuditResponse> audit = cluster_.coordinator().ListAudit(admin(), {});
  ASSERT_THAT(audit, IsOk());
  std::vector<std::string> seen;
  for (const v1::AuditEntry& entry : audit->entries())
    seen.push_back(entry.operation() + " " + entry.object());
  const std::string what = std::string("/: Managed HSM Backup to ") + kUserGuid;
  EXPECT_EQ(seen, (std::vector<std::string>{"SeedRoles 3 assignments", "PutRoleAssignment " + what,
                                            "DeleteRoleAssignment " + what, "PutRoleDefinition Signer",
                                            "DeleteRoleDefinition Signer"}));
}

TEST_F(RolesTest, ACustomRoleIsMadeNarrowedAndLeavesDefunctAssignments) {
  ASSERT_THAT(Define("Reader", {"keys/read/action", "keys/sign/action"}), IsOk());
  absl::StatusOr<v1::RoleAssignment> made = Assign(kRoleGuid, "/keys");
  ASSERT_THAT(made, IsOk());
  EXPECT_TRUE(MayRead(user(), "k"));
  ASSERT_THAT(Define("Reader", {"keys/sign/action"}), IsOk());
  EXPECT_FALSE(MayRead(user(), "k"));
  ASSERT_THAT(Define("Reader", {"keys/read/action"}), IsOk());
  EXPECT_TRUE(MayRead(user(), "k"));
  Restart();
  EXPECT_TRUE(MayRead(user(), "k"));
  absl::StatusOr<v1::RoleDefinition> gone = Undefine(kRoleGuid);
  ASSERT_THAT(gone, IsOk());
  EXPECT_EQ(gone->role_name(), "Reader");
  EXPECT_FALSE(MayRead(user(), "k"));
  for (const v1::RoleAssignment& assignment : List("/")) {
    if (assignment.principal_id() != kUserGuid) continue;
    EXPECT_EQ(assignment.role_name(), "");
  }
  EXPECT_THAT(Define("Reader", {"keys/read/action"}), HasReason(v1::REASON_CONFLICT))
      << "would bring the defunct assignment back to life";
  ASSERT_THAT(Unassign(*made), IsOk());
  EXPECT_THAT(Define("Reader", {"keys/read/action"}), IsOk());
}

TEST_F(RolesTest, RequestsThatMakeNoSenseAreRefused) {
  EXPECT_THAT(Define("Any", {"keys/*"}), HasReason(v1::REASON_INVALID_ARGUMENT)) << "no wildcards";
  EXPECT_THAT(Define("Any", {"keys/fly/action"}), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(Define("Any", {}), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(Define("Any", {"keys/sign/action"}, "no-guid"), HasReason(v1::REASON_INVALID_ARGUMENT));
  v1::PutRoleDefinitionRequest scoped;
  scoped.set_role_name("Scoped");
  scoped.add_assignable_scopes("/keys/k");
  scoped.mutable_permission()->add_data_actions(std::string(kPrefix) + "keys/sign/action");
  EXPECT_THAT(roles().PutDefinition(admin(), scoped), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(Assign("Managed HSM Backup", "/secrets"), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(Assign(kRoleGuid, "/"), HasReason(v1::REASON_NOT_FOUND));
  EXPECT_THAT(Undefine(std::string(kAdministratorRole)), HasReason(v1::REASON_INVALID_ARGUMENT));
}

TEST_F(RolesTest, TheLastAdministratorStays) {
  for (const v1::RoleAssignment& assignment : List("/")) {
    if (assignment.role_name() != "Managed HSM Administrator") continue;
    EXPECT_THAT(Unassign(assignment), HasReason(v1::REASON_CONFLICT));
    ASSERT_THAT(Assign("Managed HSM Administrator", "/"), IsOk());
    EXPECT_THAT(Unassign(assignment), IsOk());
    return;
  }
  FAIL() << "no administrator at all";
}

TEST_F(RolesTest, AConfiguredAdministratorGetsTheRoleBackWhenAsked) {
  const PrincipalId lost = admin().principal;
  ASSERT_THAT(Assign("Managed HSM Administrator", "/"), IsOk());
  for (const v1::RoleAssignment& assignment : List("/")) {
    if (assignment.principal_id() == GuidText(lost) &&
        assignment.role_name() == "Managed HSM Administrator") {
      ASSERT_THAT(Unassign(assignment), IsOk());
    }
  }
  auto administers = [&] {
    return cluster_.coordinator().core().roles.View()->authz.Allowed(lost, DataAction::kPartitionsManage);
  };
  Restart();
  EXPECT_FALSE(administers());
  cluster_.config().reinstate_administrators = true;
  Restart();
  EXPECT_TRUE(administers());
  Restart();
  EXPECT_EQ(List("/", false, GuidText(lost)).size(), 3u) << "once";
}

TEST_F(RolesTest, ListsAreByScopePrincipalAndPage) {
  ASSERT_THAT(Assign("Managed HSM Backup", "/keys"), IsOk());
  ASSERT_THAT(Assign("Managed HSM Crypto User", "/keys/a"), IsOk());
  ASSERT_THAT(Assign("Managed HSM Crypto Auditor", "/keys/a"), IsOk());
  EXPECT_EQ(List("").size(), 4u) << "only those over the whole HSM";
  EXPECT_EQ(List("/keys").size(), 4u);
  EXPECT_EQ(List("/keys/a").size(), 2u);
  EXPECT_EQ(List("/keys/b").size(), 0u);
  EXPECT_EQ(List("/keys/a", true).size(), 6u);
  EXPECT_EQ(List("/", false, kUserGuid).size(), 1u);
  ASSERT_THAT(Define("Signer", {"keys/sign/action"}), IsOk());

  std::vector<std::string> names;
  v1::ListRoleDefinitionsRequest request;
  request.set_page_size(4);
  for (int page = 0; page < 3; ++page) {
    absl::StatusOr<v1::ListRoleDefinitionsResponse> response = roles().ListDefinitions(admin(), request);
    ASSERT_THAT(response, IsOk());
    for (const v1::RoleDefinition& role : response->definitions()) names.push_back(role.role_name());
    request.set_page_token(response->next_page_token());
  }
  EXPECT_EQ(request.page_token(), "");
  ASSERT_EQ(names.size(), 10u);
  EXPECT_EQ(names.front(), "Managed HSM Administrator");
  EXPECT_EQ(names.back(), "Signer");

  v1::ListRoleAssignmentsRequest paged;
  paged.set_scope("/keys/a");
  paged.set_page_size(1);
  absl::StatusOr<v1::ListRoleAssignmentsResponse> first = roles().ListAssignments(admin(), paged);
  ASSERT_THAT(first, IsOk());
  paged.set_page_token(first->next_page_token());
  absl::StatusOr<v1::ListRoleAssignmentsResponse> second = roles().ListAssignments(admin(), paged);
  ASSERT_THAT(second, IsOk());
  ASSERT_EQ(second->assignments_size(), 1);
  EXPECT_NE(first->assignments(0).name(), second->assignments(0).name());
  EXPECT_EQ(second->next_page_token(), "");
}

TEST_F(RolesTest, LimitsAreTheConfigurations) {
  cluster_.config().role_limits = {1, 4, 1};
  Restart();
  ASSERT_THAT(Define("One", {"keys/sign/action"}), IsOk());
  EXPECT_THAT(Define("Two", {"keys/sign/action"}, "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee"),
              HasReason(v1::REASON_LIMIT_EXCEEDED));
  ASSERT_THAT(Assign("Managed HSM Backup", "/"), IsOk());
  EXPECT_THAT(Assign("Managed HSM Restore", "/keys"), HasReason(v1::REASON_LIMIT_EXCEEDED));
  ASSERT_THAT(Assign("Managed HSM Backup", "/keys/a"), IsOk());
  EXPECT_THAT(Assign("Managed HSM Restore", "/keys/a"), HasReason(v1::REASON_LIMIT_EXCEEDED));
}

TEST_F(RolesTest, ARowThatThisVersionDoesNotUnderstandIsNotGuessedAt) {
  cluster_.StopCoordinator();
  rpc::StoredRoleDefinition newer;
  newer.set_id(ParseGuid<RoleId>(kRoleGuid)->Raw());
  newer.set_name("Newer");
  newer.add_data_actions(std::string(kPrefix) + "keys/sign/action");
  newer.add_not_data_actions(std::string(kPrefix) + "keys/teleport/action");
  StoreTransaction put;
  put.ops.push_back(
      StoreOp::Put(store_key::RoleDefinition(*ParseGuid<RoleId>(kRoleGuid)), newer.SerializeAsString()));
  ASSERT_EQ(cluster_.store().Commit(put).outcome, StoreOutcome::kCommitted);
  EXPECT_FALSE(cluster_.StartCoordinator());
}

}  // namespace
}  // namespace hsm
