#pragma once
// What a Token answers before it asks the device: policy, fit of algorithm and key, lengths. Shared by every
// Token, so that the fake and the real one refuse the same calls with the same reasons.
#include "absl/status/status.h"
#include "node/token.h"

namespace hsm {

enum class TokenCall {
  kSign,
  kRsaDecrypt,
  kGcmEncrypt,
  kGcmDecrypt,
  kCbcEncrypt,
  kCbcDecrypt,
  kKeyWrap,
  kKeyUnwrap,
  kHmac,
  kCmac,
  kWrap,
};

// OPERATION_NOT_ALLOWED unless an object made for `policy` may serve the call; ALGORITHM_MISMATCH if its type
// cannot.
absl::Status CheckUse(TokenCall call, const KeySpec& spec, const ObjectPolicy& policy);

// DATA_INVALID or ALGORITHM_MISMATCH.
absl::Status CheckSignInput(const KeySpec& spec, v1::Algorithm algorithm, ByteView data);
absl::Status CheckRsaDecryptInput(const KeySpec& spec, v1::Algorithm algorithm, ByteView ciphertext);
absl::Status CheckGcmInput(ByteView iv, ByteView tag);
absl::Status CheckCbcInput(ByteView data, ByteView iv, bool pad, bool decrypt);
absl::Status CheckKeyWrapInput(ByteView plaintext_key);
absl::Status CheckKeyUnwrapInput(ByteView wrapped);
absl::Status CheckMacInput(ByteView data, size_t size_max);
absl::Status CheckRandomSize(size_t size);  // 1..4096

// Which specs a policy may be made for: domain keys have one type each.
absl::Status CheckPolicy(const KeySpec& spec, const ObjectPolicy& policy);

inline constexpr size_t kTokenRandomBytesMax = 4096;
inline constexpr size_t kHmacBytesMax = 1024 * 1024;
inline constexpr size_t kCmacBytesMax = 1024;

}  // namespace hsm
