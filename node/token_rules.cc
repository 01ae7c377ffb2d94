#include "node/token_rules.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "node/key_encoding.h"

namespace hsm {
namespace {

absl::Status NotAllowed() {
  return Error(v1::REASON_OPERATION_NOT_ALLOWED, "the token object is not made for this");
}
absl::Status WrongType() { return Error(v1::REASON_ALGORITHM_MISMATCH, "the key's type cannot do this"); }
absl::Status Invalid(std::string_view what) { return Error(v1::REASON_DATA_INVALID, what); }

bool IsOct(const KeySpec& spec) { return spec.type == v1::KEY_TYPE_OCT_HSM; }

absl::Status CheckPolicyUse(TokenCall call, const KeySpec& spec, OperationSet operations) {
  auto need = [&](OperationSet any) { return (operations & any) != 0 ? absl::OkStatus() : NotAllowed(); };
  constexpr OperationSet kDecryptBits = Bit(v1::KEY_OPERATION_DECRYPT) | Bit(v1::KEY_OPERATION_UNWRAP_KEY);
  constexpr OperationSet kMacBits = Bit(v1::KEY_OPERATION_SIGN) | Bit(v1::KEY_OPERATION_VERIFY);
  switch (call) {
    case TokenCall::kWrap:
      return absl::OkStatus();
    case TokenCall::kSign:
      return need(IsOct(spec) ? kMacBits : Bit(v1::KEY_OPERATION_SIGN));
    case TokenCall::kRsaDecrypt:
      return spec.type == v1::KEY_TYPE_RSA_HSM ? need(kDecryptBits) : WrongType();
    case TokenCall::kGcmEncrypt:
    case TokenCall::kCbcEncrypt:
      return IsOct(spec) ? need(Bit(v1::KEY_OPERATION_ENCRYPT)) : WrongType();
    case TokenCall::kGcmDecrypt:
    case TokenCall::kCbcDecrypt:
      return IsOct(spec) ? need(Bit(v1::KEY_OPERATION_DECRYPT)) : WrongType();
    case TokenCall::kHmac:
      if (!IsOct(spec)) return WrongType();
      return spec.size_bits == 256 ? absl::OkStatus()
                                   : Error(v1::REASON_UNSUPPORTED, "HMAC proofs need 32-byte keys");
    case TokenCall::kCmac:
      return IsOct(spec) ? absl::OkStatus() : WrongType();
    case TokenCall::kKeyWrap:
    case TokenCall::kKeyUnwrap:
      return IsOct(spec) ? NotAllowed() : WrongType();
  }
  return NotAllowed();
}

}  // namespace

absl::Status CheckUse(TokenCall call, const KeySpec& spec, const ObjectPolicy& policy) {
  switch (policy.use) {
    case KeyUse::kPolicy:
      return CheckPolicyUse(call, spec, policy.operations);
    case KeyUse::kRecordMac:
      return call == TokenCall::kHmac || call == TokenCall::kWrap ? absl::OkStatus() : NotAllowed();
    case KeyUse::kManifest:
      return call == TokenCall::kSign || call == TokenCall::kWrap ? absl::OkStatus() : NotAllowed();
    case KeyUse::kTransit:
      return call == TokenCall::kWrap ? absl::OkStatus() : NotAllowed();
    case KeyUse::kKeyWrap:
      return call == TokenCall::kKeyWrap || call == TokenCall::kKeyUnwrap ? absl::OkStatus() : NotAllowed();
  }
  return NotAllowed();
}

absl::Status CheckPolicy(const KeySpec& spec, const ObjectPolicy& policy) {
  bool fits = true;
  if (policy.use == KeyUse::kRecordMac) fits = IsOct(spec) && spec.size_bits == 256;
  if (policy.use == KeyUse::kManifest)
    fits = spec.type == v1::KEY_TYPE_EC_HSM && spec.curve == v1::CURVE_P256;
  if (policy.use == KeyUse::kKeyWrap) fits = IsOct(spec);
  return fits ? absl::OkStatus() : WrongType();
}

absl::Status CheckSignInput(const KeySpec& spec, v1::Algorithm algorithm, ByteView data) {
  HSM_RETURN_IF_ERROR(CheckAlgorithm(spec, algorithm));
  switch (algorithm) {
    case v1::ALGORITHM_RS256:
    case v1::ALGORITHM_RS384:
    case v1::ALGORITHM_RS512:
    case v1::ALGORITHM_PS256:
    case v1::ALGORITHM_PS384:
    case v1::ALGORITHM_PS512:
    case v1::ALGORITHM_ES256:
    case v1::ALGORITHM_ES384:
    case v1::ALGORITHM_ES512:
    case v1::ALGORITHM_ES256K:
      if (data.size() != HashBytes(HashOf(algorithm))) return Invalid("the digest has the wrong length");
      return absl::OkStatus();
    case v1::ALGORITHM_HS256:
    case v1::ALGORITHM_HS384:
    case v1::ALGORITHM_HS512:
      return CheckMacInput(data, limits::kHmacDataBytesMax);
    default:
      return Error(v1::REASON_ALGORITHM_MISMATCH, "not a signature algorithm");
  }
}

absl::Status CheckRsaDecryptInput(const KeySpec& spec, v1::Algorithm algorithm, ByteView ciphertext) {
  if (algorithm != v1::ALGORITHM_RSA_OAEP && algorithm != v1::ALGORITHM_RSA_OAEP_256 &&
      algorithm != v1::ALGORITHM_RSA1_5)
    return Error(v1::REASON_ALGORITHM_MISMATCH, "not an RSA encryption algorithm");
  if (ciphertext.size() != spec.size_bits / 8) return Invalid("an RSA ciphertext is as long as the modulus");
  return absl::OkStatus();
}

absl::Status CheckGcmInput(ByteView iv, ByteView tag) {
  if (iv.size() != 12) return Invalid("the IV has 12 bytes");  // SoftHSM takes 0 bytes and uses a fixed IV
  if (tag.size() != 16) return Invalid("the tag has 16 bytes");
  return absl::OkStatus();
}

absl::Status CheckCbcInput(ByteView data, ByteView iv, bool pad, bool decrypt) {
  if (iv.size() != 16) return Invalid("the IV has 16 bytes");
  bool whole_blocks = !data.empty() && data.size() % 16 == 0;
  if ((!pad || decrypt) && !whole_blocks) return Invalid("the data is not a positive multiple of 16 bytes");
  return absl::OkStatus();
}

absl::Status CheckKeyWrapInput(ByteView plaintext_key) {
  if (plaintext_key.size() < 16 || plaintext_key.size() > 512 || plaintext_key.size() % 8 != 0)
    return Invalid("the key to wrap has 16 to 512 bytes, a multiple of 8");
  return absl::OkStatus();
}

absl::Status CheckKeyUnwrapInput(ByteView wrapped) {
  if (wrapped.size() < 24 || wrapped.size() > 520 || wrapped.size() % 8 != 0)
    return Invalid("a wrapped key has 24 to 520 bytes, a multiple of 8");
  return absl::OkStatus();
}

absl::Status CheckMacInput(ByteView data, size_t size_max) {
  return data.size() <= size_max ? absl::OkStatus() : Invalid("the data to authenticate is too long");
}

absl::Status CheckRandomSize(size_t size) {
  if (size == 0 || size > kTokenRandomBytesMax) return Invalid("random bytes are drawn 1 to 4096 at a time");
  return absl::OkStatus();
}

}  // namespace hsm
