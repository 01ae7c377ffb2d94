#include "cli/bench_token.h"

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include "common/error.h"
#include "common/file.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "fmt/format.h"
#include "pkcs11/session.h"
#include "pkcs11/slot.h"

namespace hsm::cli {
namespace {

using pkcs11::KeyPair;
using pkcs11::Mechanism;
using pkcs11::Template;

constexpr uint8_t kP256Parameters[] = {0x06, 0x08, 0x2a, 0x86, 0x48,
                                       0xce, 0x3d, 0x03, 0x01, 0x07};  // OID, DER
constexpr uint8_t kPublicExponent[] = {0x01, 0x00, 0x01};
// DigestInfo of SHA-256 (RFC 8017, section 9.2): CKM_RSA_PKCS signs what we give it.
constexpr uint8_t kSha256Info[] = {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                   0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20};

Bytes RsaInput() {
  Bytes input(std::begin(kSha256Info), std::end(kSha256Info));
  Bytes digest = SystemRandom().Draw(32);
  input.insert(input.end(), digest.begin(), digest.end());
  return input;
}

Template Private(bool token_object) {
  Template t;
  t.Bool(CKA_TOKEN, token_object).Bool(CKA_PRIVATE, true).Bool(CKA_SENSITIVE, true).Bool(CKA_SIGN, true);
  return t;
}

}  // namespace

std::string BenchKeyName(BenchKey key) {
  switch (key) {
    case BenchKey::kP256:
      return "P-256";
    case BenchKey::kRsa2048:
      return "RSA-2048";
    case BenchKey::kRsa4096:
      return "RSA-4096";
    case BenchKey::kHmac:
      return "HMAC-256";
    case BenchKey::kAes256:
      return "AES-256";
  }
  return "?";
}

struct BareToken::State {
  std::string directory;
  std::unique_ptr<pkcs11::Library> library;
  std::optional<pkcs11::Session> session;
};

BareToken::BareToken(std::unique_ptr<State> state) : state_(std::move(state)) {}

BareToken::~BareToken() {
  state_->session.reset();
  if (state_->library != nullptr) state_->library->Finalize();
  std::error_code ignored;  // a leftover in the temporary directory harms nobody
  std::filesystem::remove_all(state_->directory, ignored);
}

absl::StatusOr<std::unique_ptr<BareToken>> BareToken::Make(const std::string& module) {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = fmt::format("{}/qhsm-bench.XXXXXX", base == nullptr ? "/tmp" : base);
  if (mkdtemp(pattern.data()) == nullptr) return Error(v1::REASON_STORE_FAILED, "no temporary directory");
  auto token = std::unique_ptr<BareToken>(new BareToken(std::make_unique<State>()));
  State& state = *token->state_;
  state.directory = pattern;
  HSM_RETURN_IF_ERROR(MakeDirectories(pattern + "/tokens"));
  std::string config = pattern + "/softhsm2.conf";
  HSM_RETURN_IF_ERROR(WriteFileAtomic(
      config,
      View(fmt::format("directories.tokendir = {}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
                       pattern))));
  HSM_ASSIGN_OR_RETURN(state.library,
                       pkcs11::Library::Load({.path = module, .environment = {{"SOFTHSM2_CONF", config}}}));
  HSM_ASSIGN_OR_RETURN(CK_SLOT_ID slot, pkcs11::FindUninitializedSlot(*state.library));
  Bytes pin = ToBytes(Hex(SystemRandom().Draw(8)));
  Bytes label = ToBytes("bench                           ");  // 32 characters, padded
  pkcs11::Library& library = *state.library;
  HSM_RETURN_IF_ERROR(
      pkcs11::FromRv(library->C_InitToken(slot, pin.data(), pin.size(), label.data()), "C_InitToken"));
  HSM_ASSIGN_OR_RETURN(pkcs11::TokenInfo info, pkcs11::FindToken(library, "bench", ""));
  HSM_ASSIGN_OR_RETURN(pkcs11::Session session, pkcs11::Session::Open(library, info.slot));
  state.session.emplace(std::move(session));
  CK_SESSION_HANDLE handle = state.session->handle();
  HSM_RETURN_IF_ERROR(pkcs11::FromRv(library->C_Login(handle, CKU_SO, pin.data(), pin.size()), "C_Login"));
  HSM_RETURN_IF_ERROR(pkcs11::FromRv(library->C_InitPIN(handle, pin.data(), pin.size()), "C_InitPIN"));
  HSM_RETURN_IF_ERROR(pkcs11::FromRv(library->C_Logout(handle), "C_Logout"));
  HSM_RETURN_IF_ERROR(pkcs11::FromRv(library->C_Login(handle, CKU_USER, pin.data(), pin.size()), "C_Login"));
  return token;
}

absl::StatusOr<Operation> BareToken::Prepare(BenchKey key, bool token_object) {
  pkcs11::Session& session = *state_->session;
  Template secret = Private(token_object), opening;
  opening.Bool(CKA_TOKEN, token_object).Bool(CKA_VERIFY, true);
  auto sign = [&session](CK_MECHANISM_TYPE mechanism, CK_OBJECT_HANDLE handle, Bytes input) -> Operation {
    return [&session, mechanism, handle, input = std::move(input)](uint32_t) {
      return session.Sign(Mechanism::Plain(mechanism), handle, input).status();
    };
  };
  switch (key) {
    case BenchKey::kP256: {
      opening.Data(CKA_EC_PARAMS, kP256Parameters);
      HSM_ASSIGN_OR_RETURN(KeyPair pair,
                           session.GenerateKeyPair(Mechanism::Plain(CKM_EC_KEY_PAIR_GEN), opening, secret));
      return sign(CKM_ECDSA, pair.private_key, SystemRandom().Draw(32));
    }
    case BenchKey::kRsa2048:
    case BenchKey::kRsa4096: {
      opening.Ulong(CKA_MODULUS_BITS, key == BenchKey::kRsa2048 ? 2048 : 4096)
          .Data(CKA_PUBLIC_EXPONENT, kPublicExponent);
      HSM_ASSIGN_OR_RETURN(KeyPair pair, session.GenerateKeyPair(Mechanism::Plain(CKM_RSA_PKCS_KEY_PAIR_GEN),
                                                                 opening, secret));
      return sign(CKM_RSA_PKCS, pair.private_key, RsaInput());
    }
    case BenchKey::kHmac: {
      secret.Ulong(CKA_VALUE_LEN, 32);
      HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE handle,
                           session.GenerateKey(Mechanism::Plain(CKM_GENERIC_SECRET_KEY_GEN), secret));
      return sign(CKM_SHA256_HMAC, handle, SystemRandom().Draw(kBenchDataBytes));
    }
    case BenchKey::kAes256: {
      secret.Ulong(CKA_VALUE_LEN, 32).Bool(CKA_ENCRYPT, true).Remove(CKA_SIGN);
      HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE handle,
                           session.GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), secret));
      return [&session, handle, iv = SystemRandom().Draw(12),
              input = SystemRandom().Draw(kBenchDataBytes)](uint32_t) {
        Mechanism mechanism = Mechanism::Gcm(iv, {}, 128);
        return session.Encrypt(mechanism, handle, input).status();
      };
    }
  }
  return Error(v1::REASON_UNSUPPORTED, "no such key");
}

}  // namespace hsm::cli
