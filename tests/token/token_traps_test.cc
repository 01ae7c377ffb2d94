// SoftHSM's traps and what the node does about them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "common/check.h"
#include "common/error.h"
#include "common/thread.h"
#include "node/domain_keys.h"
#include "node/kek_store.h"
#include "node/session_pool.h"
#include "node/token_templates.h"
#include "pkcs11/softhsm_files.h"
#include "pkcs11/token_login.h"
#include "tests/testing/eventually.h"
#include "tests/testing/softhsm.h"

namespace hsm {
namespace {

namespace fs = std::filesystem;

using testing::PauseFor;

std::string Name(const absl::Status& status) { return std::string(ReasonName(ReasonOf(status))); }

std::string Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
}
void Write(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
}

const KeySpec kOct{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};

// SoftHSM looks at its directory when it is initialised: what happens to a token between two starts of a node
// is tried in child processes.
int InChild(const std::function<int()>& body) {
  pid_t pid = fork();
  if (pid == 0) _exit(body());
  int state = 0;
  waitpid(pid, &state, 0);
  return WIFEXITED(state) ? WEXITSTATUS(state) : 1000 + WTERMSIG(state);
}

int OpenResult(const TokenConfig& config) {
  auto token = Pkcs11Token::Open(config);
  return token.ok() ? 0 : static_cast<int>(ReasonOf(token.status()));
}

class StartTraps : public ::testing::Test {
 protected:
  StartTraps() : config_(softhsm_.Config("traps")) {
    HSM_CHECK(InChild([&] {
                if (!ProvisionToken(config_).ok()) return 1;
                auto keys = DomainKeys::Open(config_);
                return (*keys)->Make(TestHsmId(), 1).ok() ? 0 : 2;
              }) == 0);
    for (const auto& entry : fs::directory_iterator(softhsm_.token_directory()))
      files_ = entry.path().string();
  }
  std::string TokenObject() const { return files_ + "/token.object"; }

  SoftHsm softhsm_;
  TokenConfig config_;
  std::string files_;
};

TEST_F(StartTraps, CutOffTokenObjectIsRestored) {
  ASSERT_EQ(InChild([&] { return OpenResult(config_); }), 0);
  const std::string whole = Read(TokenObject());
  for (size_t size : {size_t{0}, size_t{7}, whole.size() / 2, whole.size() - 1}) {
    Write(TokenObject(), whole.substr(0, size));
    EXPECT_EQ(InChild([&] { return OpenResult(config_); }), 0) << "cut to " << size;
    EXPECT_TRUE(pkcs11::IsCompleteTokenObject(Read(TokenObject())));
  }
}

TEST_F(StartTraps, WithoutACopyACutOffTokenIsGone) {
  const std::string whole = Read(TokenObject());
  fs::remove(files_ + "/token.object.kept");
  Write(TokenObject(), "");
  EXPECT_EQ(InChild([&] { return OpenResult(config_); }), v1::REASON_NOT_FOUND);
}

TEST_F(StartTraps, ACutOffFileNeverReplacesTheCopy) {
  ASSERT_EQ(InChild([&] { return OpenResult(config_); }), 0);
  const std::string kept = Read(files_ + "/token.object.kept");
  Write(TokenObject(), kept.substr(0, 100));
  EXPECT_TRUE(pkcs11::SoftHsmFiles(softhsm_.token_directory()).KeepCopies().ok());
  EXPECT_EQ(Read(files_ + "/token.object.kept"), kept);
}

// Kills a process in a loop of logins, at random moments, and starts a node after each.
TEST_F(StartTraps, KillsDuringLoginLoseNothing) {
  int cut_off = 0;
  for (int round = 0; round < 25; ++round) {
    pid_t pid = fork();
    if (pid == 0) {
      auto library = LoadModule(config_);
      auto info = pkcs11::FindToken(**library, "traps", "");
      auto pin = pkcs11::ReadPinFile(config_.pin_file);
      for (;;) {
        auto session = pkcs11::Session::Open(**library, info->slot);
        pkcs11::TokenLogin login(**library, info->slot);
        if (!login.Login(*session, CKU_USER, *pin).ok()) _exit(1);
        (void)login.Logout(*session);
      }
    }
    PauseFor(absl::Microseconds(20'000 + round * 1'700));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    if (!pkcs11::IsCompleteTokenObject(Read(TokenObject()))) ++cut_off;
    ASSERT_EQ(InChild([&] { return OpenResult(config_); }), 0) << "round " << round;
  }
  RecordProperty("cut_off", cut_off);
  std::printf("token.object was cut off by %d of 25 kills\n", cut_off);
}

TEST_F(StartTraps, GarbageIsRemovedAndKeksStay) {
  EXPECT_EQ(InChild([&] {
              auto library = LoadModule(config_);
              auto info = pkcs11::FindToken(**library, "traps", "");
              auto session = pkcs11::Session::Open(**library, info->slot);
              pkcs11::TokenLogin login(**library, info->slot);
              if (!login.Login(*session, CKU_USER, *pkcs11::ReadPinFile(config_.pin_file)).ok()) return 1;
              // A nameless key, as a kill in C_UnwrapKey leaves it, a probe object, and somebody's named key.
              auto attributes = [](const char* label) {
                pkcs11::Template out = pkcs11::Template()
                                           .Bool(CKA_TOKEN, true)
                                           .Bool(CKA_PRIVATE, true)
                                           .Ulong(CKA_VALUE_LEN, 32)
                                           .Text(CKA_LABEL, label);
                return out;
              };
              for (const char* label : {"", "qhsm:probe:x", "somebody's", "qhsm:kek:replication:half"})
                if (!session->GenerateKey(pkcs11::Mechanism::Plain(CKM_AES_KEY_GEN), attributes(label)).ok())
                  return 2;
              return 0;
            }),
            0);
  // A zero-length object file, as most kills leave one.
  Write(files_ + "/00000000-0000-0000-0000-000000000000.object", "");
  EXPECT_EQ(InChild([&] {
              auto token = Pkcs11Token::Open(config_);
              if (!token.ok()) return 1;
              if (!(*token)->HasKeks() || !(*token)->SelfTest().ok()) return 2;
              auto library = LoadModule(config_);
              auto info = pkcs11::FindToken(**library, "traps", "");
              auto session = pkcs11::Session::Open(**library, info->slot);
              auto left = session->Find(pkcs11::Template().Bool(CKA_TOKEN, true));
              return left.ok() && left->size() == 3 ? 0 : 10 + static_cast<int>(left->size());
            }),
            0);
}

TEST_F(StartTraps, WrongPinIsTriedOnceAndNamed) {
  Write(softhsm_.directory() + "/pin", "999999\n");
  EXPECT_EQ(InChild([&] { return OpenResult(config_); }), v1::REASON_PIN_INCORRECT);
  Write(softhsm_.directory() + "/pin", "");
  EXPECT_EQ(InChild([&] { return OpenResult(config_); }), v1::REASON_CONFIG_INVALID);
}

TEST_F(StartTraps, ExitNeedsNoFinalize) {
  // The token lives in a static, as the worst caller would have it; the process must end with its own exit
  // code.
  EXPECT_EQ(InChild([&] {
              static std::unique_ptr<Pkcs11Token> token;
              auto opened = Pkcs11Token::Open(config_);
              if (!opened.ok()) return 1;
              token = *std::move(opened);
              exit(7);
              return 0;
            }),
            7);
  EXPECT_EQ(InChild([&] {
              auto opened = Pkcs11Token::Open(config_);
              if (!opened.ok()) return 1;
              (*opened)->Shutdown();
              exit(8);
              return 0;
            }),
            8);
}

// --- while it runs ---

class RunTraps : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    domain_ = new SoftHsmDomain(*MakeSoftHsmDomain("running"));
    token_ = Pkcs11Token::Open(domain_->config)->release();
  }
  static SoftHsmDomain* domain_;
  static Pkcs11Token* token_;
};
SoftHsmDomain* RunTraps::domain_ = nullptr;
Pkcs11Token* RunTraps::token_ = nullptr;

TEST_F(RunTraps, PinIsNotTriedTwice) {
  auto library = LoadModule(domain_->config);
  auto info = pkcs11::FindToken(**library, "running", "");
  auto session = pkcs11::Session::Open(**library, info->slot);
  pkcs11::TokenLogin login(**library, info->slot);
  // The token is logged in, so it would not even check this PIN: that must not count as a login.
  EXPECT_EQ(Name(login.Login(*session, CKU_USER, SecretBytes(ToBytes("wrong")))), "CONFLICT");
  EXPECT_EQ(Name(login.Login(*session, CKU_USER, SecretBytes(ToBytes("271828")))), "PIN_INCORRECT");
}

TEST_F(RunTraps, PoisonedSessionIsNotPooled) {
  auto library = LoadModule(domain_->config);
  auto info = pkcs11::FindToken(**library, "running", "");
  SessionPool pool(**library, info->slot, 4);
  {
    auto lease = pool.Take();
    ASSERT_TRUE(lease.ok());
    EXPECT_FALSE((*lease)->Sign(pkcs11::Mechanism::Plain(CKM_ECDSA), 999999, View("x")).ok());
    EXPECT_TRUE((*lease)->poisoned());
  }
  EXPECT_EQ(pool.idle(), 0u);
  {
    auto lease = pool.Take();
  }
  EXPECT_EQ(pool.idle(), 1u);
}

TEST_F(RunTraps, LostHandleIsRepairedOnce) {
  auto made = token_->Generate(kOct, {KeyUse::kTransit, 0});
  auto blob = token_->Wrap(Kek::kReplication, made->key);
  ObjectPolicy crypt{KeyUse::kPolicy, Bit(v1::KEY_OPERATION_ENCRYPT) | Bit(v1::KEY_OPERATION_SIGN)};
  auto key = token_->Unwrap(Kek::kReplication, kOct, crypt, *blob);
  ASSERT_TRUE(key.ok());
  auto before = token_->Cmac(*key, View("x"));
  auto mac_before = token_->Hmac(*key, View("x"));
  // Somebody destroys all session objects that can sign behind the token's back.
  auto library = LoadModule(domain_->config);
  auto info = pkcs11::FindToken(**library, "running", "");
  auto session = pkcs11::Session::Open(**library, info->slot);
  auto objects = session->Find(
      pkcs11::Template().Bool(CKA_TOKEN, false).Bool(CKA_SIGN, true).Ulong(CKA_CLASS, CKO_SECRET_KEY));
  ASSERT_TRUE(objects.ok());
  int destroyed = 0;
  for (CK_OBJECT_HANDLE object : *objects) {
    auto label = session->Attribute(object, CKA_LABEL);
    if (label.ok() && !label->empty()) continue;  // not the health key
    destroyed += session->DestroyObject(object).ok();
  }
  EXPECT_GE(destroyed, 2);
  EXPECT_EQ(*token_->Cmac(*key, View("x")), *before);
  EXPECT_EQ(*token_->Hmac(*key, View("x")), *mac_before);
  EXPECT_TRUE(token_->GcmEncrypt(*key, View("x"), {}).ok());
  token_->Destroy(*key);
  token_->Destroy(made->key);
}

TEST_F(RunTraps, RefusedBlobsLeaveNothingBehind) {
  auto made = token_->Generate(kOct, {KeyUse::kTransit, 0});
  auto blob = token_->Wrap(Kek::kReplication, made->key);
  auto library = LoadModule(domain_->config);
  auto info = pkcs11::FindToken(**library, "running", "");
  auto session = pkcs11::Session::Open(**library, info->slot);
  auto count = [&] { return session->Find(pkcs11::Template())->size(); };
  size_t before = count();
  KeySpec ec{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256},
      rsa{v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048};
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(token_->Unwrap(Kek::kReplication, ec, {KeyUse::kTransit, 0}, *blob).ok());
    EXPECT_FALSE(token_->Unwrap(Kek::kReplication, rsa, {KeyUse::kTransit, 0}, *blob).ok());
    EXPECT_FALSE(token_->Unwrap(Kek::kBackup, kOct, {KeyUse::kTransit, 0}, *blob).ok());
  }
  EXPECT_TRUE(token_->SelfTest().ok());
  EXPECT_EQ(count(), before);
}

TEST_F(RunTraps, DestroyedKeysAreGoneFromTheToken) {
  auto library = LoadModule(domain_->config);
  auto info = pkcs11::FindToken(**library, "running", "");
  auto session = pkcs11::Session::Open(**library, info->slot);
  auto count = [&] { return session->Find(pkcs11::Template())->size(); };
  size_t before = count();
  auto key = token_->Generate(kOct, {KeyUse::kPolicy, Bit(v1::KEY_OPERATION_SIGN)});
  ASSERT_TRUE(token_->Sign(key->key, kOct, v1::ALGORITHM_HS256, View("x")).ok());
  EXPECT_EQ(count(), before + 2);  // the AES object and its HMAC twin
  token_->Destroy(key->key);
  EXPECT_EQ(count(), before);
}

// Eight threads make, use and destroy keys on one token: no spurious error.
TEST_F(RunTraps, ManyThreadsShareTheToken) {
  std::atomic<int> failures{0};
  {
    std::vector<Thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back("worker", [&, i] {
        KeySpec ec{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
        ObjectPolicy sign{KeyUse::kPolicy, Bit(v1::KEY_OPERATION_SIGN)};
        for (int round = 0; round < 25; ++round) {
          auto key = token_->Generate(i % 2 ? ec : kOct, sign);
          if (!key.ok()) {
            ++failures;
            continue;
          }
          auto signature = i % 2 ? token_->Sign(key->key, ec, v1::ALGORITHM_ES256, Bytes(32, 1))
                                 : token_->Sign(key->key, kOct, v1::ALGORITHM_HS256, Bytes(32, 1));
          if (!signature.ok() || !token_->Wrap(Kek::kReplication, key->key).ok()) ++failures;
          token_->Destroy(key->key);
        }
      });
    }
  }
  EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace hsm
