// Every call x role x scope of the assignment x state of the key, against a table that people have reviewed
// (role_matrix.txt). The calls go to the whole coordinator behind its gRPC faces.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "coordinator/builtin_roles.h"
#include "coordinator/crypto.h"
#include "tests/testing/local_cluster.h"
#include "tests/testing/paths.h"

namespace hsm::testing {
namespace {

// The columns of the table; their order there is its own.
const std::map<std::string, std::string> kColumns = {
    {"ADM", "Managed HSM Administrator"},
    {"CO", "Managed HSM Crypto Officer"},
    {"CU", "Managed HSM Crypto User"},
    {"PA", "Managed HSM Policy Administrator"},
    {"AUD", "Managed HSM Crypto Auditor"},
    {"SEU", "Managed HSM Crypto Service Encryption User"},
    {"SRU", "Managed HSM Crypto Service Release User"},
    {"BK", "Managed HSM Backup"},
    {"RS", "Managed HSM Restore"},
};
constexpr const char* kStates[] = {"live", "disabled", "expired", "deleted", "absent"};
constexpr const char* kOtherKey = "other";

struct Row {
  std::string call;
  std::map<std::string, char> cells;  // by column
};

std::vector<Row> ReadTable() {
  std::ifstream file(SourceDir() + "/tests/cluster/role_matrix.txt");
  EXPECT_TRUE(file.good());
  std::vector<Row> rows;
  std::vector<std::string> columns;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first, word;
    if (!(words >> first)) continue;
    if (first == "#") {
      std::string second;
      if (!(words >> second) || second != "call") continue;
      while (words >> word) columns.push_back(word);
      continue;
    }
    Row row{first, {}};
    for (const std::string& column : columns) {
      EXPECT_TRUE(static_cast<bool>(words >> word) && word.size() == 1) << line;
      row.cells[column] = word.empty() ? '?' : word[0];
    }
    EXPECT_FALSE(static_cast<bool>(words >> word)) << line;
    rows.push_back(std::move(row));
  }
  EXPECT_EQ(columns.size(), kColumns.size());
  return rows;
}

class RoleMatrixTest : public ::testing::Test {
 protected:
  // What a call answers to a caller, about a key of that name.
  using Call = std::function<absl::Status(const Caller&, const std::string& key)>;

  void SetUp() override {
    ASSERT_TRUE(cluster_.StartCoordinator());
    crypto_ = std::make_unique<Crypto>(core());
    AddKeyCalls();
    AddCryptoCalls();
    AddHsmCalls();
    AddRoleCalls();
    AddJobCalls();
    AssignRoles();
    MakeBackupJob();
  }

  Core& core() { return cluster_.coordinator().core(); }
  Coordinator& coordinator() { return cluster_.coordinator(); }
  static std::string KeyName(const std::string& state) { return "k-" + state; }
  static Caller CallerWith(const std::string& role, const std::string& scope) {
    Caller caller;
    std::string seed = role + scope;
    for (size_t i = 0; i < seed.size(); ++i) {
      uint8_t& byte = caller.principal.value[i % 16];
      byte = static_cast<uint8_t>(byte * 31 + static_cast<uint8_t>(seed[i]));
    }
    return caller;
  }
  static std::vector<std::string> Scopes(const std::string& key) {
    return {"/", "/keys", "/keys/" + key, std::string("/keys/") + kOtherKey};
  }

  // Each role at each scope has a principal of its own; the cluster's own caller may do everything.
  void AssignRoles() {
    RoleSet set = core().roles.View()->set;
    uint64_t made = 0;
    auto give = [&](const Caller& caller, const std::string& role, const std::string& scope) {
      AssignmentId id;
      id.value[0] = static_cast<uint8_t>(++made);
      id.value[1] = static_cast<uint8_t>(made >> 8);
      set.assignments[id] = {id, caller.principal, FindBuiltInRole(role)->id, scope};
    };
    for (const auto& [column, role] : kColumns) {
      give(cluster_.caller(), role, "/");
      std::set<std::string> scopes;
      for (const char* state : kStates) {
        for (const std::string& scope : Scopes(KeyName(state))) scopes.insert(scope);
      }
      for (const std::string& scope : scopes) give(CallerWith(column, scope), role, scope);
    }
    auto view = std::make_shared<RoleView>(*core().roles.View());
    view->authz = Authz(set);
    view->set = std::move(set);
    core().roles.Set(view);
  }

  // Brings the key of a state into it, the first time and after a call that took it out.
  void Restore(const std::string& state) {
    const std::string name = KeyName(state);
    KeyEntryPtr entry = core().table.Find(name);
    const bool deleted = entry != nullptr && entry->head.state == KeyState::kDeleted;
    const bool wants_deleted = state == "deleted";
    if (state == "absent") {
      if (entry == nullptr) return;
      ASSERT_TRUE(cluster_.Destroy(name).ok());
      return;
    }
    if (entry != nullptr && deleted == wants_deleted) return;
    if (deleted) {
      ASSERT_TRUE(cluster_.Destroy(name).ok());
    }
    if (entry == nullptr || deleted) {
      ASSERT_TRUE(cluster_.Create(name).ok());
    }
    if (wants_deleted) {
      ASSERT_TRUE(cluster_.Delete(name).ok());
      return;
    }
    v1::SetKeyAttributesRequest request;
    request.set_name(name);
    if (state == "disabled") request.set_enabled(false);
    if (state == "expired") request.set_expires(1);
    absl::StatusOr<v1::Key> set = coordinator().SetKeyAttributes(cluster_.caller(), request);
    ASSERT_TRUE(set.ok()) << set.status();
  }

  template <typename Request>
  static Request About(const std::string& key) {
    Request request;
    request.set_name(key);
    return request;
  }

  void AddKeyCalls() {
#define HSM_KEY_CALL(Method, Request)                                               \
  calls_["KeyService." #Method] = [this](const Caller& c, const std::string& key) { \
    return coordinator().Method(c, About<v1::Request>(key)).status();               \
  }
    HSM_KEY_CALL(GetKey, GetKeyRequest);
    HSM_KEY_CALL(ListKeyVersions, ListKeyVersionsRequest);
    HSM_KEY_CALL(SetKeyAttributes, SetKeyAttributesRequest);
    HSM_KEY_CALL(RotateKey, RotateKeyRequest);
    HSM_KEY_CALL(DeleteKey, DeleteKeyRequest);
    HSM_KEY_CALL(GetDeletedKey, GetDeletedKeyRequest);
    HSM_KEY_CALL(RecoverDeletedKey, RecoverDeletedKeyRequest);
    HSM_KEY_CALL(PurgeDeletedKey, PurgeDeletedKeyRequest);
    HSM_KEY_CALL(ProveKey, ProveKeyRequest);
#undef HSM_KEY_CALL
    calls_["KeyService.CreateKey"] = [this](const Caller& c, const std::string& key) {
      auto request = About<v1::CreateKeyRequest>(key);
      request.set_type(v1::KEY_TYPE_OCT_HSM);
      return coordinator().CreateKey(c, request).status();
    };
    calls_["KeyService.ListDeletedKeys"] = [this](const Caller& c, const std::string&) {
      return coordinator().ListDeletedKeys(c, {}).status();
    };
    calls_["KeyService.ListKeys"] = [this](const Caller& c, const std::string&) {
      return coordinator().ListKeys(c, {}).status();
    };
  }

  static v1::CryptoOp Op(int operation, const std::string& key) {
    v1::CryptoOp op;
    op.set_operation(static_cast<v1::CryptoOperation>(operation));
    op.set_key_name(key);
    op.set_algorithm(v1::ALGORITHM_HS256);
    op.set_data(std::string(32, 'd'));
    op.set_count(16);
    return op;
  }

  void AddCryptoCalls() {
    for (int operation = 1; operation <= v1::CryptoOperation_MAX; ++operation) {
      const std::string name = v1::CryptoOperation_Name(static_cast<v1::CryptoOperation>(operation))
                                   .substr(sizeof("CRYPTO_OPERATION"));
      calls_["CryptoService.Execute:" + name] = [this, operation](const Caller& c, const std::string& key) {
        return crypto_->ExecuteOne(c, Op(operation, key)).status();
      };
      calls_["CryptoService.Stream:" + name] = [this, operation](const Caller& c, const std::string& key) {
        v1::CryptoBatch batch;
        v1::CryptoBatchResult results;
        *batch.add_ops() = Op(operation, key);
        Mutex mutex;
        CondVar changed;
        bool done = false;
        crypto_->Start(c, batch, results, [&] {
          MutexLock lock(mutex);
          done = true;
          changed.NotifyAll();
        });
        MutexLock lock(mutex);
        while (!done) changed.Wait(mutex);
        const v1::CryptoResult& result = results.results(0);
        return result.reason() == v1::REASON_UNSPECIFIED ? absl::OkStatus()
                                                         : Error(result.reason(), result.message());
      };
    }
  }

  void AddHsmCalls() {
    calls_["HsmService.GetStatus"] = [this](const Caller& c, const std::string&) {
      return coordinator().GetStatus(c).status();
    };
    calls_["HsmService.DrainPartition"] = [this](const Caller& c, const std::string&) {
      return coordinator().DrainPartition(c, About<v1::PartitionRequest>("none")).status();
    };
    calls_["HsmService.ResumePartition"] = [this](const Caller& c, const std::string&) {
      return coordinator().ResumePartition(c, About<v1::PartitionRequest>("none")).status();
    };
    calls_["HsmService.ApprovePartition"] = [this](const Caller& c, const std::string&) {
      return coordinator().ApprovePartition(c, About<v1::ApprovePartitionRequest>("none")).status();
    };
    calls_["HsmService.ListAudit"] = [this](const Caller& c, const std::string&) {
      return coordinator().ListAudit(c, {}).status();
    };
  }

  // Requests that are refused once the right is there: nothing changes from one cell to the next.
  template <typename Request, typename Does>
  void AddAssignmentCall(const std::string& name, Does does) {
    calls_["RoleService." + name] = [does](const Caller& c, const std::string& key) {
      Request request;
      request.set_scope("/keys/" + key);
      return does(c, request);
    };
    calls_["RoleService." + name + ":HSM"] = [does](const Caller& c, const std::string&) {
      return does(c, Request());
    };
  }
  void AddRoleCalls() {
    Roles& roles = coordinator().roles();
    calls_["RoleService.ListRoleDefinitions"] = [&roles](const Caller& c, const std::string&) {
      return roles.ListDefinitions(c, {}).status();
    };
    calls_["RoleService.GetRoleDefinition"] = [&roles](const Caller& c, const std::string&) {
      return roles.GetDefinition(c, {}).status();
    };
    calls_["RoleService.PutRoleDefinition"] = [&roles](const Caller& c, const std::string&) {
      return roles.PutDefinition(c, {}).status();
    };
    calls_["RoleService.DeleteRoleDefinition"] = [&roles](const Caller& c, const std::string&) {
      return roles.DeleteDefinition(c, {}).status();
    };
    AddAssignmentCall<v1::ListRoleAssignmentsRequest>("ListRoleAssignments",
                                                      [&roles](const Caller& c, const auto& request) {
                                                        return roles.ListAssignments(c, request).status();
                                                      });
    AddAssignmentCall<v1::GetRoleAssignmentRequest>(
        "GetRoleAssignment",
        [&roles](const Caller& c, const auto& request) { return roles.GetAssignment(c, request).status(); });
    AddAssignmentCall<v1::PutRoleAssignmentRequest>(
        "PutRoleAssignment",
        [&roles](const Caller& c, const auto& request) { return roles.PutAssignment(c, request).status(); });
    AddAssignmentCall<v1::DeleteRoleAssignmentRequest>("DeleteRoleAssignment",
                                                       [&roles](const Caller& c, const auto& request) {
                                                         return roles.DeleteAssignment(c, request).status();
                                                       });
  }

  // Jobs of others are invisible rather than refused.
  static absl::Status Denied() { return Error(v1::REASON_PERMISSION_DENIED, "not visible"); }
  void AddJobCalls() {
    calls_["JobService.GetJob"] = [this](const Caller& c, const std::string&) {
      v1::GetJobRequest request;
      request.set_id(job_id_);
      absl::Status status = cluster_.jobs().GetJob(c, request).status();
      return ReasonOf(status) == v1::REASON_NOT_FOUND ? Denied() : status;
    };
    calls_["JobService.ListJobs"] = [this](const Caller& c, const std::string&) {
      absl::StatusOr<v1::ListJobsResponse> jobs = cluster_.jobs().ListJobs(c, {});
      return jobs.ok() && jobs->jobs().empty() ? Denied() : jobs.status();
    };
#define HSM_BACKUP_CALL(Method)                                                    \
  calls_["BackupService." #Method] = [this](const Caller& c, const std::string&) { \
    return cluster_.jobs().Method(c, {}).status();                                 \
  }
    HSM_BACKUP_CALL(PlanBackup);
    HSM_BACKUP_CALL(StartBackup);  // without a target: refused once the right is there
    HSM_BACKUP_CALL(ListBackups);
    HSM_BACKUP_CALL(VerifyBackup);
    HSM_BACKUP_CALL(StartRestore);
    HSM_BACKUP_CALL(RollbackRestore);
#undef HSM_BACKUP_CALL
  }
  void MakeBackupJob() {
    v1::StartBackupRequest request;
    request.mutable_target()->set_directory(::testing::TempDir() + "/qhsm-role-matrix");
    absl::StatusOr<v1::StartJobResponse> started = cluster_.jobs().StartBackup(cluster_.caller(), request);
    ASSERT_TRUE(started.ok()) << started.status();
    job_id_ = started->job_id();
    cluster_.Await(job_id_);
  }

  static bool Expected(char cell, const std::string& scope, const std::string& key) {
    const bool whole = scope == "/" || scope == "/keys";
    switch (cell) {
      case 'A':
        return true;
      case 'H':
        return whole;
      case 'K':
        return whole || scope == "/keys/" + key;
      default:
        EXPECT_EQ(cell, '-');
        return false;
    }
  }

  // One row at one state of the key. Refusals say the same whatever the state: `refusals` collects them.
  void CheckRow(const Row& row, const std::string& state, std::map<std::string, std::string>& refusals) {
    const std::string key = KeyName(state);
    const Call& call = calls_.at(row.call);
    auto check = [&](const std::string& who, const Caller& caller, bool expected) {
      Restore(state);
      absl::Status status = call(caller, key);
      v1::Reason reason = ReasonOf(status);
      ++checked_;
      EXPECT_NE(reason, v1::REASON_INTERNAL) << row.call << " by " << who << ": " << status;
      EXPECT_EQ(reason != v1::REASON_PERMISSION_DENIED, expected)
          << row.call << " of a key that is " << state << " by " << who << ": " << status;
      if (reason != v1::REASON_PERMISSION_DENIED) return;
      std::string text = DetailOf(status).message();
      for (size_t at; (at = text.find(key)) != std::string::npos;) text.replace(at, key.size(), "KEY");
      // Principals at the key's own scope differ from state to state.
      if (text.find(GuidText(caller.principal)) == 0) text.erase(0, 36);
      std::string& before = refusals.try_emplace(who, text).first->second;
      EXPECT_EQ(text, before) << row.call << " tells a key that is " << state << " from others";
    };
    for (const auto& [column, cell] : row.cells) {
      for (const std::string& scope : Scopes(key)) {
        const std::string at = scope == "/keys/" + key ? "its scope" : scope;
        check(column + " at " + at, CallerWith(column, scope), Expected(cell, scope, key));
      }
    }
    check("nobody", CallerWith("nobody", "/"), false);
  }

  LocalCluster cluster_;
  std::unique_ptr<Crypto> crypto_;
  std::map<std::string, Call> calls_;
  std::string job_id_;
  std::set<std::string> made_;  // keys that are to be gone again
  int checked_ = 0;
};

std::string CallOf(const std::string& row) { return row.substr(0, row.find(':')); }

TEST_F(RoleMatrixTest, EveryCallRoleScopeAndKeyState) {
  std::vector<Row> rows = ReadTable();
  std::set<std::string> in_table, rows_seen;
  for (const Row& row : rows) {
    EXPECT_TRUE(rows_seen.insert(row.call).second) << row.call << " is there twice";
    in_table.insert(CallOf(row.call));
    ASSERT_TRUE(calls_.contains(row.call)) << row.call << " is made by nobody here";
  }
  for (const CallPermission& call : CallPermissions()) {
    EXPECT_TRUE(in_table.contains(std::string(call.call))) << call.call << " has no line in role_matrix.txt";
  }
  for (const auto& [name, call] : calls_) EXPECT_TRUE(rows_seen.contains(name)) << name << " has no line";

  // A name that was once taken is never absent again: creating comes last.
  std::stable_partition(rows.begin(), rows.end(),
                        [](const Row& row) { return row.call != "KeyService.CreateKey"; });
  for (const Row& row : rows) {
    const CallPermission* call = FindCall(CallOf(row.call));
    ASSERT_NE(call, nullptr) << row.call;
    std::map<std::string, std::string> refusals;
    for (const char* state : kStates) {
      CheckRow(row, state, refusals);
      if (call->scope == CallScope::kHsm) break;  // it is about no key
    }
    if (HasFatalFailure()) return;
  }
  RecordProperty("cells", checked_);
}

}  // namespace
}  // namespace hsm::testing
