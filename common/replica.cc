#include "common/replica.h"

#include <algorithm>

#include "common/aead.h"

namespace hsm {
namespace {

void AppendBig(Bytes& out, uint64_t value, int size) {
  for (int shift = (size - 1) * 8; shift >= 0; shift -= 8)
    out.push_back(static_cast<uint8_t>(value >> shift & 255));
}
void AppendString(Bytes& out, ByteView text) {
  AppendBig(out, text.size(), 4);
  out.insert(out.end(), text.begin(), text.end());
}
template <typename Range>
void Append(Bytes& out, const Range& bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

}  // namespace

Bytes ProofMessage(const ProofSubject& subject, ByteView nonce) {
  Bytes in;
  Append(in, std::string_view("QHP1"));
  AppendString(in, View("prove"));
  Append(in, subject.hsm.value);
  Append(in, subject.uid.value);
  AppendBig(in, subject.incarnation, 4);
  Append(in, subject.version.value);
  AppendString(in, View(subject.node));
  AppendString(in, nonce);
  return Sha256(in);
}

uint32_t BucketOf(const KeyUid& uid) { return Sha256(uid.value)[0]; }

Bytes BucketDigest(std::vector<DigestItem> items) {
  std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.uid < b.uid; });
  Bytes in;
  for (DigestItem& item : items) {
    Append(in, item.uid.value);
    AppendBig(in, item.incarnation, 4);
    AppendBig(in, item.revision, 8);
    AppendString(in, View(item.head_mac));
    AppendBig(in, item.versions.size(), 4);
    std::sort(item.versions.begin(), item.versions.end());
    for (const KeyVersion& version : item.versions) Append(in, version.value);
  }
  return Sha256(in);
}

Bytes TotalDigest(const std::vector<Bytes>& buckets) {
  Bytes in;
  for (const Bytes& bucket : buckets) Append(in, bucket);
  return Sha256(in);
}

v1::KeyOperation NeededOperation(v1::CryptoOperation operation) {
  switch (operation) {
    case v1::CRYPTO_OPERATION_SIGN:
      return v1::KEY_OPERATION_SIGN;
    case v1::CRYPTO_OPERATION_VERIFY:
      return v1::KEY_OPERATION_VERIFY;
    case v1::CRYPTO_OPERATION_ENCRYPT:
      return v1::KEY_OPERATION_ENCRYPT;
    case v1::CRYPTO_OPERATION_DECRYPT:
      return v1::KEY_OPERATION_DECRYPT;
    case v1::CRYPTO_OPERATION_WRAP_KEY:
      return v1::KEY_OPERATION_WRAP_KEY;
    case v1::CRYPTO_OPERATION_UNWRAP_KEY:
      return v1::KEY_OPERATION_UNWRAP_KEY;
    default:
      return v1::KEY_OPERATION_UNSPECIFIED;
  }
}

}  // namespace hsm
