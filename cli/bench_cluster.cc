#include "cli/bench_cluster.h"

#include "common/error.h"
#include "common/log.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr uint64_t kMixedSlowEvery = 20;  // of the operations of "mixed"; RSA-4096
constexpr uint64_t kCheckEvery = 1000;

// Purged as well, where the caller may do that; otherwise its retention purges it.
absl::Status DeleteKey(Client& client, const std::string& name) {
  v1::DeleteKeyRequest request;
  request.set_name(name);
  HSM_RETURN_IF_ERROR(client.DeleteKey(request).status());
  v1::PurgeDeletedKeyRequest purge;
  purge.set_name(name);
  absl::Status purged = client.PurgeDeletedKey(purge).status();
  return ReasonOf(purged) == v1::REASON_PERMISSION_DENIED ? absl::OkStatus() : purged;
}

}  // namespace

v1::CreateKeyRequest NewBenchKey(BenchKey key, const std::string& name) {
  v1::CreateKeyRequest request;
  request.set_name(name);
  switch (key) {
    case BenchKey::kP256:
      request.set_type(v1::KEY_TYPE_EC_HSM);
      request.set_curve(v1::CURVE_P256);
      break;
    case BenchKey::kRsa2048:
    case BenchKey::kRsa4096:
      request.set_type(v1::KEY_TYPE_RSA_HSM);
      request.set_size_bits(key == BenchKey::kRsa2048 ? 2048 : 4096);
      break;
    case BenchKey::kHmac:
    case BenchKey::kAes256:
      request.set_type(v1::KEY_TYPE_OCT_HSM);
      request.set_size_bits(256);
      break;
  }
  return request;
}

const std::vector<BenchCase>& BenchCases() {
  static const std::vector<BenchCase> cases = {
      {"sign-p256", "sign", BenchKey::kP256},
      {"sign-rsa2048", "sign", BenchKey::kRsa2048},
      {"hmac", "sign", BenchKey::kHmac},
      {"gcm", "encrypt", BenchKey::kAes256},
      {"verify-p256", "verify", BenchKey::kP256, false},
      {"create-p256", "create", BenchKey::kP256, false},
      {"mixed", "mixed", BenchKey::kHmac, false},
      {"list-keys", "list", BenchKey::kP256, false, true},
      {"get-key", "get", BenchKey::kP256, false, true},
      {"full-backup", "backup", BenchKey::kP256, false, true},
      {"full-restore", "restore", BenchKey::kP256, false, true},
  };
  return cases;
}

absl::StatusOr<BenchCase> FindBenchCase(const std::string& name) {
  std::string known;
  for (const BenchCase& bench : BenchCases()) {
    if (bench.name == name) return bench;
    known += " " + bench.name;
  }
  return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("no case \"{}\"; there are{}", name, known));
}

v1::CryptoOp BenchOp(BenchKey key, const std::string& name) {
  v1::CryptoOp op;
  op.set_operation(key == BenchKey::kAes256 ? v1::CRYPTO_OPERATION_ENCRYPT : v1::CRYPTO_OPERATION_SIGN);
  op.set_key_name(name);
  bool bulk = key == BenchKey::kHmac || key == BenchKey::kAes256;
  op.set_data(ToString(SystemRandom().Draw(bulk ? kBenchDataBytes : 32)));
  op.set_algorithm(key == BenchKey::kP256     ? v1::ALGORITHM_ES256
                   : key == BenchKey::kHmac   ? v1::ALGORITHM_HS256
                   : key == BenchKey::kAes256 ? v1::ALGORITHM_A256GCM
                                              : v1::ALGORITHM_RS256);
  return op;
}

ClusterKeys::ClusterKeys(Client& client) : client_(client), run_(Hex(SystemRandom().Draw(4))) {}

ClusterKeys::~ClusterKeys() {
  for (const auto& [key, name] : made_) {
    if (absl::Status gone = DeleteKey(client_, name); !gone.ok())
      LogWarning("left behind", {{"key", name}, {"why", gone}});
  }
  for (uint64_t i = 0; i < created_; ++i) {  // those that were refused are not there
    absl::Status gone = DeleteKey(client_, CreatedName(i));
    if (!gone.ok() && ReasonOf(gone) != v1::REASON_KEY_NOT_FOUND)
      LogWarning("left behind", {{"key", CreatedName(i)}});
  }
}

std::string ClusterKeys::CreatedName(uint64_t number) const {
  return fmt::format("bench-{}-{}", run_, number);
}

absl::StatusOr<std::string> ClusterKeys::Key(BenchKey key, const std::string& existing) {
  if (!existing.empty()) return existing;
  for (const auto& [kind, name] : made_) {
    if (kind == key) return name;
  }
  std::string name = fmt::format("bench-{}-{}", run_, BenchKeyName(key));
  HSM_RETURN_IF_ERROR(client_.CreateKey(NewBenchKey(key, name)).status());
  made_.emplace_back(key, name);
  return name;
}

absl::StatusOr<Operation> ClusterKeys::PrepareVerify(const std::string& name) {
  v1::CryptoOp sign = BenchOp(BenchKey::kP256, name);
  HSM_ASSIGN_OR_RETURN(v1::CryptoResult result, client_.Crypto(sign));
  v1::CryptoOp verify = sign;
  verify.set_operation(v1::CRYPTO_OPERATION_VERIFY);
  verify.set_signature(result.value());
  return [this, verify](uint32_t) -> absl::Status {
    HSM_ASSIGN_OR_RETURN(v1::CryptoResult answer, client_.Crypto(verify));
    return answer.valid() ? absl::OkStatus() : Error(v1::REASON_DATA_INVALID, "a good signature was refused");
  };
}

Operation ClusterKeys::PrepareCreate() {
  return [this](uint32_t) {
    return client_.CreateKey(NewBenchKey(BenchKey::kP256, CreatedName(created_++))).status();
  };
}

// 19 HMACs to one RSA-4096 signature; the HMACs are what is measured.
absl::StatusOr<Operation> ClusterKeys::PrepareMixed() {
  HSM_ASSIGN_OR_RETURN(std::string fast, Key(BenchKey::kHmac, ""));
  HSM_ASSIGN_OR_RETURN(std::string slow, Key(BenchKey::kRsa4096, ""));
  auto count = std::make_shared<std::atomic<uint64_t>>(0);
  return [this, count, cheap = BenchOp(BenchKey::kHmac, fast),
          dear = BenchOp(BenchKey::kRsa4096, slow)](uint32_t) {
    bool is_dear = count->fetch_add(1) % kMixedSlowEvery == 0;
    absl::Status status = client_.Crypto(is_dear ? dear : cheap).status();
    return status.ok() && is_dear ? Uncounted() : status;
  };
}

absl::StatusOr<Operation> ClusterKeys::Prepare(const BenchCase& bench, const std::string& existing) {
  if (bench.op == "create") return PrepareCreate();
  if (bench.op == "mixed") return PrepareMixed();
  HSM_ASSIGN_OR_RETURN(std::string name, Key(bench.key, existing));
  if (bench.op == "verify") return PrepareVerify(name);
  auto count = std::make_shared<std::atomic<uint64_t>>(0);
  bool checked = bench.key == BenchKey::kP256 || bench.key == BenchKey::kRsa2048;
  return [this, op = BenchOp(bench.key, name), count, checked](uint32_t) -> absl::Status {
    HSM_ASSIGN_OR_RETURN(v1::CryptoResult result, client_.Crypto(op));
    if (!checked || count->fetch_add(1) % kCheckEvery != 0) return absl::OkStatus();
    v1::CryptoOp verify = op;
    verify.set_operation(v1::CRYPTO_OPERATION_VERIFY);
    verify.set_signature(result.value());
    HSM_ASSIGN_OR_RETURN(v1::CryptoResult answer, client_.Crypto(verify));
    return answer.valid() ? absl::OkStatus() : Error(v1::REASON_DATA_INVALID, "a signature does not verify");
  };
}

}  // namespace hsm::cli
