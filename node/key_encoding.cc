#include "node/key_encoding.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "common/check.h"
#include "common/error.h"

namespace hsm {
namespace {

const EVP_MD* Md(Hash hash) {
  switch (hash) {
    case Hash::kSha1:
      return EVP_sha1();
    case Hash::kSha256:
      return EVP_sha256();
    case Hash::kSha384:
      return EVP_sha384();
    case Hash::kSha512:
      return EVP_sha512();
  }
  return nullptr;
}

void Append(Bytes& out, ByteView more) { out.insert(out.end(), more.begin(), more.end()); }

Bytes Der(uint8_t tag, ByteView content) {
  Bytes out = {tag};
  if (content.size() < 128) {
    out.push_back(static_cast<uint8_t>(content.size()));
  } else if (content.size() < 256) {
    out.push_back(0x81);
    out.push_back(static_cast<uint8_t>(content.size()));
  } else {
    HSM_CHECK(content.size() < 65536);
    out.push_back(0x82);
    out.push_back(static_cast<uint8_t>(content.size() >> 8));
    out.push_back(static_cast<uint8_t>(content.size()));
  }
  Append(out, content);
  return out;
}

Bytes Concat(std::initializer_list<ByteView> parts) {
  Bytes out;
  for (ByteView part : parts) Append(out, part);
  return out;
}

ByteView WithoutLeadingZeros(ByteView number) {
  while (number.size() > 1 && number[0] == 0) number = number.subspan(1);
  return number;
}

Bytes DerUnsigned(ByteView number) {
  number = WithoutLeadingZeros(number);
  Bytes content;
  if (number.empty() || (number[0] & 0x80)) content.push_back(0);
  Append(content, number);
  return Der(0x02, content);
}

Bytes BitString(ByteView content) { return Der(0x03, Concat({Bytes{0}, content})); }

constexpr uint8_t kRsaEncryption[] = {0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7,
                                      0x0d, 0x01, 0x01, 0x01, 0x05, 0x00};
constexpr uint8_t kEcPublicKey[] = {0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01};
constexpr uint8_t kEd25519Algorithm[] = {0x06, 0x03, 0x2b, 0x65, 0x70};

// Reads one element of type `tag` off the front of `in`; false if it is not there or not strict DER.
bool TakeDer(ByteView& in, uint8_t tag, ByteView& content) {
  if (in.size() < 2 || in[0] != tag) return false;
  size_t length = in[1];
  size_t header = 2;
  if (length == 0x81 && in.size() >= 3 && in[2] >= 0x80) {
    length = in[2];
    header = 3;
  } else if (length == 0x82 && in.size() >= 4 && in[2] != 0) {
    length = size_t{in[2]} << 8 | in[3];
    header = 4;
  } else if (length >= 0x80) {
    return false;
  }
  if (in.size() - header < length) return false;
  content = in.subspan(header, length);
  in = in.subspan(header + length);
  return true;
}

bool TakeUnsigned(ByteView& in, Bytes& number) {
  ByteView content;
  if (!TakeDer(in, 0x02, content) || content.empty() || (content[0] & 0x80)) return false;
  content = WithoutLeadingZeros(content);
  number.assign(content.begin(), content.end());
  return true;
}

// All ones if a == 0, else 0; without a branch.
uint32_t MaskIfZero(uint32_t a) { return ((a | (0u - a)) >> 31) - 1u; }

}  // namespace

size_t HashBytes(Hash hash) {
  switch (hash) {
    case Hash::kSha1:
      return 20;
    case Hash::kSha256:
      return 32;
    case Hash::kSha384:
      return 48;
    case Hash::kSha512:
      return 64;
  }
  return 0;
}

Bytes Digest(Hash hash, ByteView data) {
  Bytes out(HashBytes(hash));
  unsigned size = 0;
  HSM_CHECK(EVP_Digest(data.data(), data.size(), out.data(), &size, Md(hash), nullptr) == 1);
  return out;
}

Hash HashOf(v1::Algorithm algorithm) {
  switch (algorithm) {
    case v1::ALGORITHM_RS384:
    case v1::ALGORITHM_PS384:
    case v1::ALGORITHM_ES384:
    case v1::ALGORITHM_HS384:
      return Hash::kSha384;
    case v1::ALGORITHM_RS512:
    case v1::ALGORITHM_PS512:
    case v1::ALGORITHM_ES512:
    case v1::ALGORITHM_HS512:
      return Hash::kSha512;
    case v1::ALGORITHM_RSA_OAEP:
      return Hash::kSha1;
    default:
      return Hash::kSha256;
  }
}

v1::Algorithm SignAlgorithmFor(v1::Curve curve) {
  switch (curve) {
    case v1::CURVE_P256:
      return v1::ALGORITHM_ES256;
    case v1::CURVE_P384:
      return v1::ALGORITHM_ES384;
    case v1::CURVE_P521:
      return v1::ALGORITHM_ES512;
    case v1::CURVE_P256K:
      return v1::ALGORITHM_ES256K;
    default:
      return v1::ALGORITHM_RS256;
  }
}

size_t FieldBytes(v1::Curve curve) {
  switch (curve) {
    case v1::CURVE_P384:
      return 48;
    case v1::CURVE_P521:
      return 66;
    default:
      return 32;
  }
}

ByteView CurveParameters(v1::Curve curve) {
  static constexpr uint8_t kP256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
  static constexpr uint8_t kP384[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22};
  static constexpr uint8_t kP521[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23};
  static constexpr uint8_t kP256K[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a};
  static constexpr uint8_t kEdwards[] = {0x13, 0x0c, 'e', 'd', 'w', 'a', 'r',
                                         'd',  's',  '2', '5', '5', '1', '9'};
  switch (curve) {
    case v1::CURVE_P256:
      return kP256;
    case v1::CURVE_P384:
      return kP384;
    case v1::CURVE_P521:
      return kP521;
    case v1::CURVE_P256K:
      return kP256K;
    case v1::CURVE_ED25519:
      return kEdwards;
    default:
      return {};
  }
}

Bytes EcSpki(v1::Curve curve, ByteView point) {
  Bytes algorithm = curve == v1::CURVE_ED25519 ? Der(0x30, kEd25519Algorithm)
                                               : Der(0x30, Concat({kEcPublicKey, CurveParameters(curve)}));
  return Der(0x30, Concat({algorithm, BitString(point)}));
}

Bytes RsaSpki(ByteView modulus, ByteView exponent) {
  Bytes key = Der(0x30, Concat({DerUnsigned(modulus), DerUnsigned(exponent)}));
  return Der(0x30, Concat({Der(0x30, kRsaEncryption), BitString(key)}));
}

absl::StatusOr<RsaPublicParts> ParseRsaSpki(ByteView spki) {
  RsaPublicParts parts;
  ByteView outer, algorithm, bits, key;
  bool good = TakeDer(spki, 0x30, outer) && spki.empty() && TakeDer(outer, 0x30, algorithm) &&
              std::ranges::equal(algorithm, kRsaEncryption) && TakeDer(outer, 0x03, bits) && outer.empty() &&
              !bits.empty() && bits[0] == 0;
  if (good) {
    bits = bits.subspan(1);
    good = TakeDer(bits, 0x30, key) && bits.empty() && TakeUnsigned(key, parts.modulus) &&
           TakeUnsigned(key, parts.exponent) && key.empty();
  }
  if (!good) return Error(v1::REASON_DATA_INVALID, "not the SubjectPublicKeyInfo of an RSA key");
  return parts;
}

Bytes DigestInfo(Hash hash, ByteView digest) {
  HSM_CHECK(hash != Hash::kSha1 && digest.size() == HashBytes(hash));
  uint8_t last = hash == Hash::kSha256 ? 1 : hash == Hash::kSha384 ? 2 : 3;
  Bytes algorithm = {0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last, 0x05, 0x00};
  return Der(0x30, Concat({Der(0x30, algorithm), Der(0x04, digest)}));
}

Bytes Mgf1(Hash hash, ByteView seed, size_t size) {
  Bytes out;
  Bytes input(seed.begin(), seed.end());
  input.resize(seed.size() + 4);
  for (uint32_t counter = 0; out.size() < size; ++counter) {
    for (int i = 0; i < 4; ++i) input[seed.size() + i] = static_cast<uint8_t>(counter >> (24 - 8 * i));
    Append(out, Digest(hash, input));
  }
  out.resize(size);
  return out;
}

absl::StatusOr<SecretBytes> OaepDecode(Hash hash, ByteView encoded) {
  const size_t hash_size = HashBytes(hash);
  if (encoded.size() < 2 * hash_size + 2) return Error(v1::REASON_DECRYPTION_FAILED, "decryption failed");
  ByteView masked_seed = encoded.subspan(1, hash_size);
  ByteView masked_block = encoded.subspan(1 + hash_size);
  SecretBytes seed(Mgf1(hash, masked_block, hash_size));
  for (size_t i = 0; i < hash_size; ++i) seed.ExposeForWriting()[i] ^= masked_seed[i];
  SecretBytes block(Mgf1(hash, seed.Expose(), masked_block.size()));
  std::span<uint8_t> db = block.ExposeForWriting();
  for (size_t i = 0; i < db.size(); ++i) db[i] ^= masked_block[i];

  // DB = hash of the label || zeros || 01 || message. Every byte is looked at, whatever came before.
  const Bytes label_hash = Digest(hash, {});
  uint32_t wrong = encoded[0];
  for (size_t i = 0; i < hash_size; ++i) wrong |= db[i] ^ label_hash[i];
  uint32_t good = MaskIfZero(wrong);
  uint32_t found = 0;
  uint32_t at = 0;
  for (size_t i = hash_size; i < db.size(); ++i) {
    uint32_t is_one = MaskIfZero(db[i] ^ 1u);
    at |= static_cast<uint32_t>(i) & is_one & ~found;
    found |= is_one;
    good &= found | MaskIfZero(db[i]);
  }
  if ((good & found) == 0) return Error(v1::REASON_DECRYPTION_FAILED, "decryption failed");
  return SecretBytes(Bytes(db.begin() + at + 1, db.end()));
}

Bytes PssEncode(Hash hash, ByteView digest, ByteView salt, size_t modulus_bits) {
  const size_t size = (modulus_bits - 1 + 7) / 8;
  const size_t hash_size = HashBytes(hash);
  HSM_CHECK(size >= hash_size + salt.size() + 2);
  Bytes h = Digest(hash, Concat({Bytes(8, 0), digest, salt}));
  Bytes db(size - hash_size - 1);
  db[db.size() - salt.size() - 1] = 1;
  std::copy(salt.begin(), salt.end(), db.end() - static_cast<std::ptrdiff_t>(salt.size()));
  Bytes mask = Mgf1(hash, h, db.size());
  for (size_t i = 0; i < db.size(); ++i) db[i] ^= mask[i];
  db[0] &= static_cast<uint8_t>(0xff >> (8 * size - (modulus_bits - 1)));
  return Concat({db, h, Bytes{0xbc}});
}

}  // namespace hsm
