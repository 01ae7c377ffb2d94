// Roles as people see them: the built programs, mutual TLS, a second person with a certificate of their own.
#include <gtest/gtest.h>

#include <fstream>

#include "client/client.h"
#include "common/error.h"
#include "common/file.h"
#include "common/x509.h"
#include "tests/testing/dev_cluster.h"

namespace hsm::testing {
namespace {

constexpr char kGuid[] = "11111111-2222-3333-4444-555555555555";
constexpr char kDigest[] = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

class RoleCommandsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = DevCluster::Up();
    if (cluster_ == nullptr) return;
    IssueTo(kGuid);
    cluster_->Answer({"key", "create", "--name", "mine", "--kty", "EC-HSM"});
    cluster_->Answer({"key", "create", "--name", "other", "--kty", "EC-HSM"});
  }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override { ASSERT_NE(cluster_, nullptr); }

  // A certificate from the cluster's CA for another person.
  static void IssueTo(const std::string& guid) {
    absl::StatusOr<Certificate> ca = Certificate::FromFile(cluster_->Folder("ca/tls.crt"));
    absl::StatusOr<PrivateKey> key = PrivateKey::FromFile(cluster_->Folder("ca/tls.key"));
    ASSERT_TRUE(ca.ok() && key.ok());
    const IssuedCertificate authority{*ca, *key};
    absl::StatusOr<IssuedCertificate> person =
        IssueCertificate({.common_name = "person", .uris = {"urn:uuid:" + guid}}, &authority);
    ASSERT_TRUE(person.ok()) << person.status();
    ASSERT_TRUE(MakeDirectories(cluster_->Folder("person")).ok());
    std::ofstream(cluster_->Folder("person/tls.crt")) << person->certificate.Pem();
    ASSERT_TRUE(WriteFileAtomic(cluster_->Folder("person/tls.key"), person->key.Pem().Expose(), 0600).ok());
  }
  static Ended AsPerson(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"-o", "json"});
    return cluster_->QhsmAs("person", arguments);
  }
  static Ended Sign(const std::string& key) {
    return AsPerson({"key", "sign", "--name", key, "--algorithm", "ES256", "--digest", kDigest});
  }
  static void ExpectDenied(const Ended& ended, const std::string& role) {
    EXPECT_EQ(ended.exit_code, 1) << ended.out;
    EXPECT_EQ(At(ended.Document(), "error.code"), "PERMISSION_DENIED");
    EXPECT_NE(At(ended.Document(), "error.message").find("needed: " + role), std::string::npos) << ended.out;
    EXPECT_NE(At(ended.Document(), "error.hint").find("administrator"), std::string::npos) << ended.out;
  }

  static std::unique_ptr<DevCluster> cluster_;
};
std::unique_ptr<DevCluster> RoleCommandsTest::cluster_;

TEST_F(RoleCommandsTest, TheDevAdministratorHoldsTheThreeRolesOfTheTour) {
  Json list = cluster_->Answer({"role", "assignment", "list"});
  EXPECT_EQ(list.Find("role_assignments")->items().size(), 3u);
  for (const char* role :
       {"Managed HSM Administrator", "Managed HSM Crypto User", "Managed HSM Crypto Officer"}) {
    EXPECT_NE(At(list, "role_assignments[].role_name").find(role), std::string::npos) << role;
  }
}

TEST_F(RoleCommandsTest, WhoHasNoRoleIsToldWhichWouldDo) {
  ExpectDenied(Sign("mine"), "Managed HSM Crypto User");
  ExpectDenied(Sign("there-is-none"), "Managed HSM Crypto User");
  ExpectDenied(AsPerson({"key", "list"}), "Managed HSM Crypto User");
  ExpectDenied(AsPerson({"status"}), "any role");
  ExpectDenied(AsPerson({"partition", "drain", "p1"}), "Managed HSM Administrator");
  ExpectDenied(AsPerson({"role", "assignment", "list"}), "Managed HSM Administrator");
  ExpectDenied(AsPerson({"backup", "plan"}), "Managed HSM Administrator or Managed HSM Backup");
}

TEST_F(RoleCommandsTest, ARoleAtAKeyIsGivenUsedAndTakenAway) {
  Json made = cluster_->Answer({"role", "assignment", "create", "--role", "Managed HSM Crypto User",
                                "--scope", "/keys/mine", "--assignee", kGuid});
  EXPECT_EQ(At(made, "principal_id"), kGuid);
  EXPECT_EQ(At(made, "role_definition_id"),
            "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/"
            "21dbd100-6940-42c2-9190-5d6cb909625b");
  EXPECT_EQ(Sign("mine").exit_code, 0);
  ExpectDenied(Sign("other"), "Managed HSM Crypto User");
  EXPECT_EQ(
      At(cluster_->Answer({"role", "assignment", "show", At(made, "name"), "--scope", "/keys/mine"}), "id"),
      At(made, "id"));
  EXPECT_EQ(At(cluster_->Answer({"role", "assignment", "list", "--scope", "/keys/mine"}),
               "role_assignments[].name"),
            "[\"" + At(made, "name") + "\"]");
  cluster_->Answer({"role", "assignment", "delete", "--role", "Managed HSM Crypto User", "--assignee", kGuid,
                    "--scope", "/keys/mine"});
  ExpectDenied(Sign("mine"), "Managed HSM Crypto User");
}

TEST_F(RoleCommandsTest, ACustomRoleOutlivesARestart) {
  const std::string document =
      R"({"roleName":"Signer","description":"signs","dataActions":["Microsoft.KeyVault/managedHsm/keys/sign/action"]})";
  Json role = cluster_->Answer({"role", "definition", "create", "--role-definition", document});
  EXPECT_EQ(At(role, "role_type"), "CustomRole");
  EXPECT_EQ(At(role, "permissions[].data_actions"),
            R"([["Microsoft.KeyVault/managedHsm/keys/sign/action"]])");
  cluster_->Answer({"role", "assignment", "create", "--role", "signer", "--assignee", kGuid});
  EXPECT_EQ(Sign("mine").exit_code, 0);
  ExpectDenied(AsPerson({"key", "show", "--name", "mine"}), "Managed HSM Crypto User");
  cluster_->Kill("coordinator");
  cluster_->Start("coordinator");
  ASSERT_TRUE(cluster_->AwaitReady());
  EXPECT_EQ(Sign("mine").exit_code, 0);
  EXPECT_EQ(At(cluster_->Answer({"role", "definition", "list", "--custom-role-only"}),
               "role_definitions[].role_name"),
            R"(["Signer"])");
  cluster_->Answer({"role", "definition", "delete", "Signer"});
  ExpectDenied(Sign("mine"), "Managed HSM Crypto User");
}

TEST_F(RoleCommandsTest, TheLastAdministratorStays) {
  Json list = cluster_->Answer({"role", "assignment", "list", "--role", "Managed HSM Administrator"});
  ASSERT_EQ(list.Find("role_assignments")->items().size(), 1u);
  Ended refused = cluster_->Qhsm(
      {"role", "assignment", "delete", "--name", At(list, "role_assignments[0].name"), "-o", "json"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(At(refused.Document(), "error.code"), "CONFLICT");
}

}  // namespace
}  // namespace hsm::testing
