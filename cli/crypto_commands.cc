#include <openssl/evp.h>

#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/record.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr size_t kDataFileBytesMax = size_t{1} << 30;

struct CryptoArguments {
  std::string name, version, algorithm;
  std::optional<std::string> digest, data_file, signature, value, iv, aad, tag;
  uint32_t count = 32;
};
using Arguments = std::shared_ptr<CryptoArguments>;

absl::StatusOr<v1::CryptoOp> MakeOp(const CryptoArguments& a, v1::CryptoOperation operation) {
  v1::CryptoOp op;
  op.set_operation(operation);
  op.set_key_name(a.name);
  auto algorithm = ParseAlgorithm(a.algorithm);
  if (!algorithm) return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("no algorithm \"{}\"", a.algorithm));
  op.set_algorithm(*algorithm);
  if (!a.version.empty()) {
    auto version = KeyVersion::FromHexText(a.version);
    if (!version) return Error(v1::REASON_INVALID_ARGUMENT, "--version takes 32 hex digits");
    op.set_version(version->Raw());
  }
  return op;
}

// The hash a signature algorithm takes its digest from; null for HS*, which takes the data.
const EVP_MD* HashOf(v1::Algorithm algorithm) {
  switch (algorithm) {
    case v1::ALGORITHM_RS256:
    case v1::ALGORITHM_PS256:
    case v1::ALGORITHM_ES256:
    case v1::ALGORITHM_ES256K:
      return EVP_sha256();
    case v1::ALGORITHM_RS384:
    case v1::ALGORITHM_PS384:
    case v1::ALGORITHM_ES384:
      return EVP_sha384();
    case v1::ALGORITHM_RS512:
    case v1::ALGORITHM_PS512:
    case v1::ALGORITHM_ES512:
      return EVP_sha512();
    default:
      return nullptr;
  }
}

absl::StatusOr<std::string> SignedData(const CryptoArguments& a, v1::Algorithm algorithm) {
  if (a.digest.has_value() == a.data_file.has_value()) {
    return Error(v1::REASON_INVALID_ARGUMENT, "give either --digest or --data-file");
  }
  if (a.digest) return ParseBytesOption("--digest", *a.digest);
  HSM_ASSIGN_OR_RETURN(Bytes data, ReadFile(*a.data_file, kDataFileBytesMax));
  const EVP_MD* hash = HashOf(algorithm);
  if (hash == nullptr) return ToString(data);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(data.data(), data.size(), digest, &size, hash, nullptr) != 1) {
    return Error(v1::REASON_INTERNAL, "the data could not be hashed");
  }
  return std::string(reinterpret_cast<char*>(digest), size);
}

Json Base(const CryptoArguments& a, const v1::CryptoResult& result) {
  return Json::Object(
      {{"name", a.name}, {"version", Hex(View(result.version()))}, {"algorithm", a.algorithm}});
}

absl::Status Sign(const CryptoArguments& a) {
  HSM_ASSIGN_OR_RETURN(v1::CryptoOp op, MakeOp(a, v1::CRYPTO_OPERATION_SIGN));
  HSM_ASSIGN_OR_RETURN(*op.mutable_data(), SignedData(a, op.algorithm()));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::CryptoResult result, client->Crypto(op));
  Json out = Base(a, result);
  std::string value = Base64Url(View(result.value()));
  out.Add("value", value);
  Print(out, value);
  return absl::OkStatus();
}

absl::Status Verify(const CryptoArguments& a) {
  HSM_ASSIGN_OR_RETURN(v1::CryptoOp op, MakeOp(a, v1::CRYPTO_OPERATION_VERIFY));
  HSM_ASSIGN_OR_RETURN(*op.mutable_data(), SignedData(a, op.algorithm()));
  HSM_ASSIGN_OR_RETURN(*op.mutable_signature(), ParseBytesOption("--signature", a.signature.value_or("")));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::CryptoResult result, client->Crypto(op));
  Json out = Base(a, result);
  out.Add("valid", result.valid());
  Print(out, result.valid() ? "valid" : "NOT valid");
  return result.valid() ? absl::OkStatus() : AlreadyReported();
}

// encrypt, decrypt, wrap and unwrap differ only in which options they have.
absl::Status Transform(const CryptoArguments& a, v1::CryptoOperation operation) {
  HSM_ASSIGN_OR_RETURN(v1::CryptoOp op, MakeOp(a, operation));
  if (a.value.has_value() == a.data_file.has_value()) {
    return Error(v1::REASON_INVALID_ARGUMENT, "give either --value or --data-file");
  }
  if (a.value) {
    HSM_ASSIGN_OR_RETURN(*op.mutable_data(), ParseBytesOption("--value", *a.value));
  } else {
    HSM_ASSIGN_OR_RETURN(Bytes data, ReadFile(*a.data_file, limits::kCryptoDataBytesMax));
    op.set_data(ToString(data));
  }
  HSM_ASSIGN_OR_RETURN(*op.mutable_iv(), ParseBytesOption("--iv", a.iv.value_or("")));
  HSM_ASSIGN_OR_RETURN(*op.mutable_aad(), ParseBytesOption("--aad", a.aad.value_or("")));
  HSM_ASSIGN_OR_RETURN(*op.mutable_tag(), ParseBytesOption("--tag", a.tag.value_or("")));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::CryptoResult result, client->Crypto(op));
  Json out = Base(a, result);
  std::vector<std::pair<std::string, std::string>> fields = {{"value", Base64Url(View(result.value()))}};
  if (!result.iv().empty()) fields.emplace_back("iv", Base64Url(View(result.iv())));
  if (!result.tag().empty()) fields.emplace_back("tag", Base64Url(View(result.tag())));
  for (const auto& [name, value] : fields) out.Add(name, value);
  Print(out, fields.size() == 1 ? fields[0].second : Fields(fields));
  return absl::OkStatus();
}

absl::Status RandomBytes(const CryptoArguments& a) {
  v1::CryptoOp op;
  op.set_operation(v1::CRYPTO_OPERATION_RANDOM);
  op.set_count(a.count);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::CryptoResult result, client->Crypto(op));
  std::string value = Base64Url(View(result.value()));
  Print(Json::Object({{"value", value}}), value);
  return absl::OkStatus();
}

void KeyOptions(Command& verb, const Arguments& a, const std::string& algorithms) {
  verb.Text("-n,--name", a->name, "name of the key").Required();
  verb.Text("--version", a->version, "32 hex digits; the latest if left out");
  verb.Text("-a,--algorithm", a->algorithm, algorithms).Required();
}
void DigestOptions(Command& verb, const Arguments& a) {
  verb.Text("--digest", a->digest, "base64url; of the hash's length (HS*: the data itself)");
  verb.Text("--data-file", a->data_file, "a file, hashed here");
}
void ValueOptions(Command& verb, const Arguments& a, const std::string& what) {
  verb.Text("--value", a->value, what + ", base64url");
  verb.Text("--data-file", a->data_file, "or a file with it");
}

constexpr char kSignatures[] =
    "ES256 ES384 ES512 ES256K RS256 RS384 RS512 PS256 PS384 PS512 HS256 HS384 HS512";
constexpr char kCiphers[] = "RSA-OAEP RSA-OAEP-256 RSA1_5 A128GCM A192GCM A256GCM A128CBC .. A256CBCPAD";
constexpr char kWraps[] = "A128KW A192KW A256KW RSA-OAEP RSA-OAEP-256";

}  // namespace

void AddCryptoCommands(Command& key, Command& root) {
  auto a = std::make_shared<CryptoArguments>();

  Command sign = key.Sub("sign", "Sign a digest");
  KeyOptions(sign, a, kSignatures);
  DigestOptions(sign, a);
  sign.Does([a] { return Sign(*a); });
  sign.Example("qhsm key sign --name invoices --algorithm ES256 --data-file invoice.pdf");
  sign.Example(
      "qhsm key sign --name invoices --algorithm ES256 --digest $(openssl dgst -sha256 -binary f | basenc "
      "--base64url)");

  Command verify = key.Sub("verify", "Check a signature; exit code 1 if it is not valid");
  KeyOptions(verify, a, kSignatures);
  DigestOptions(verify, a);
  verify.Text("--signature", a->signature, "base64url").Required();
  verify.Does([a] { return Verify(*a); });

  Command encrypt = key.Sub("encrypt", "Encrypt; for AES-GCM the HSM makes the IV");
  KeyOptions(encrypt, a, kCiphers);
  ValueOptions(encrypt, a, "plaintext");
  encrypt.Text("--iv", a->iv, "CBC: 16 bytes, base64url");
  encrypt.Text("--aad", a->aad, "GCM: additional data, base64url");
  encrypt.Does([a] { return Transform(*a, v1::CRYPTO_OPERATION_ENCRYPT); });
  encrypt.Example("qhsm key encrypt --name session --algorithm A256GCM --value aGVsbG8 -o json");

  Command decrypt = key.Sub("decrypt", "Decrypt");
  KeyOptions(decrypt, a, kCiphers);
  ValueOptions(decrypt, a, "ciphertext");
  decrypt.Text("--iv", a->iv, "GCM: 12 bytes, CBC: 16 bytes, base64url");
  decrypt.Text("--tag", a->tag, "GCM: 16 bytes, base64url");
  decrypt.Text("--aad", a->aad, "GCM: additional data, base64url");
  decrypt.Does([a] { return Transform(*a, v1::CRYPTO_OPERATION_DECRYPT); });

  Command wrap = key.Sub("wrap", "Wrap key bytes under a key");
  KeyOptions(wrap, a, kWraps);
  ValueOptions(wrap, a, "the key bytes");
  wrap.Does([a] { return Transform(*a, v1::CRYPTO_OPERATION_WRAP_KEY); });

  Command unwrap = key.Sub("unwrap", "Unwrap key bytes");
  KeyOptions(unwrap, a, kWraps);
  ValueOptions(unwrap, a, "the wrapped key");
  unwrap.Does([a] { return Transform(*a, v1::CRYPTO_OPERATION_UNWRAP_KEY); });

  Command random = root.Sub("random", "Random bytes from a partition");
  random.Number("--count", a->count, "1 to 128 bytes");
  random.Does([a] { return RandomBytes(*a); });
  random.Example("qhsm random --count 32");
}

}  // namespace hsm::cli
