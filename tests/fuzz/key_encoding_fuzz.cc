// Public keys of sealed records and what a token answers: SubjectPublicKeyInfo, OAEP blocks, signatures. The
// first byte chooses the key type.
#include "common/check.h"
#include "node/key_encoding.h"
#include "node/public_part.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {
namespace {

constexpr KeySpec kSpecs[] = {
    {v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048}, {v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 4096},
    {v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256},          {v1::KEY_TYPE_EC_HSM, v1::CURVE_P384, 384},
    {v1::KEY_TYPE_EC_HSM, v1::CURVE_P521, 521},          {v1::KEY_TYPE_EC_HSM, v1::CURVE_P256K, 256},
};

}  // namespace

void KeyEncoding(ByteView input) {
  if (input.empty()) return;
  const KeySpec& spec = kSpecs[input[0] % std::size(kSpecs)];
  const ByteView rest = input.subspan(1);
  if (auto parts = ParseRsaSpki(rest); parts.ok()) (void)RsaSpki(parts->modulus, parts->exponent);
  (void)OaepDecode(Hash::kSha1, rest);
  (void)OaepDecode(Hash::kSha256, rest);
  auto key = PublicPart::Parse(spec, rest);
  if (!key.ok()) return;
  const Bytes digest(32, 1);
  const bool rsa = spec.type == v1::KEY_TYPE_RSA_HSM;
  (void)key->Verify(rsa ? v1::ALGORITHM_RS256 : SignAlgorithmFor(spec.curve), digest, rest);
  if (rsa) (void)key->Encrypt(v1::ALGORITHM_RSA_OAEP, digest);
}

}  // namespace hsm::fuzz
