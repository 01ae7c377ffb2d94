#include "common/record.h"

#include <algorithm>
#include <iterator>

#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr std::string_view kHeadMagic = "QHH1";
constexpr std::string_view kVersionMagic = "QHV1";

// Big-endian integers, byte strings with a 32-bit length. One spelling for each value.
class Writer {
 public:
  explicit Writer(std::string_view magic) : out_(magic.begin(), magic.end()) {}
  void U8(uint8_t v) { out_.push_back(v); }
  void U32(uint32_t v) { Big(v, 4); }
  void U64(uint64_t v) { Big(v, 8); }
  void Raw(ByteView bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  void String(ByteView bytes) {
    U32(static_cast<uint32_t>(bytes.size()));
    Raw(bytes);
  }
  void Time(const std::optional<int64_t>& time) {
    U8(time.has_value());
    if (time) U64(static_cast<uint64_t>(*time));
  }
  void Spec(const KeySpec& spec) {
    U8(static_cast<uint8_t>(spec.type));
    U8(static_cast<uint8_t>(spec.curve));
    U32(spec.size_bits);
  }
  Bytes Take() { return std::move(out_); }

 private:
  void Big(uint64_t v, int size) {
    for (int shift = (size - 1) * 8; shift >= 0; shift -= 8)
      out_.push_back(static_cast<uint8_t>(v >> shift & 255));
  }
  Bytes out_;
};

// Reads what Writer wrote. After a failure every read gives zeros and ok() is false.
class Reader {
 public:
  Reader(ByteView in, std::string_view magic) : in_(in) {
    if (in.size() < magic.size() || StringView(in.first(magic.size())) != magic)
      Fail();
    else
      in_ = in.subspan(magic.size());
  }
  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && in_.empty(); }
  uint8_t U8() { return static_cast<uint8_t>(Big(1)); }
  uint32_t U32() { return static_cast<uint32_t>(Big(4)); }
  uint64_t U64() { return Big(8); }
  bool Flag() {
    uint8_t v = U8();
    if (v > 1) Fail();
    return v == 1;
  }
  ByteView Raw(size_t size) {
    if (in_.size() < size) {
      Fail();
      return {};
    }
    ByteView out = in_.first(size);
    in_ = in_.subspan(size);
    return out;
  }
  ByteView String() { return Raw(U32()); }
  template <typename Id>
  Id ReadId() {
    return Id::From(StringView(Raw(16))).value_or(Id{});
  }
  std::optional<int64_t> Time() {
    if (!Flag()) return std::nullopt;
    return static_cast<int64_t>(U64());
  }
  KeySpec Spec() {
    KeySpec spec;
    uint8_t type = U8();
    uint8_t curve = U8();
    spec.size_bits = U32();
    if (!v1::KeyType_IsValid(type) || !v1::Curve_IsValid(curve)) Fail();
    spec.type = static_cast<v1::KeyType>(type);
    spec.curve = static_cast<v1::Curve>(curve);
    return spec;
  }
  void Fail() {
    ok_ = false;
    in_ = {};
  }

 private:
  uint64_t Big(size_t size) {
    uint64_t v = 0;
    for (uint8_t byte : Raw(size)) v = v << 8 | byte;
    return v;
  }
  ByteView in_;
  bool ok_ = true;
};

struct Name {
  int value;
  std::string_view name;
};
constexpr Name kCurves[] = {{v1::CURVE_P256, "P-256"},
                            {v1::CURVE_P384, "P-384"},
                            {v1::CURVE_P521, "P-521"},
                            {v1::CURVE_P256K, "P-256K"},
                            {v1::CURVE_ED25519, "Ed25519"}};
constexpr Name kTypes[] = {{v1::KEY_TYPE_RSA_HSM, "RSA-HSM"}, {v1::KEY_TYPE_EC_HSM, "EC-HSM"},
                           {v1::KEY_TYPE_OCT_HSM, "oct-HSM"}, {v1::KEY_TYPE_RSA_HSM, "RSA"},
                           {v1::KEY_TYPE_EC_HSM, "EC"},       {v1::KEY_TYPE_OCT_HSM, "oct"}};
constexpr Name kAlgorithms[] = {{v1::ALGORITHM_RS256, "RS256"},
                                {v1::ALGORITHM_RS384, "RS384"},
                                {v1::ALGORITHM_RS512, "RS512"},
                                {v1::ALGORITHM_PS256, "PS256"},
                                {v1::ALGORITHM_PS384, "PS384"},
                                {v1::ALGORITHM_PS512, "PS512"},
                                {v1::ALGORITHM_ES256, "ES256"},
                                {v1::ALGORITHM_ES384, "ES384"},
                                {v1::ALGORITHM_ES512, "ES512"},
                                {v1::ALGORITHM_ES256K, "ES256K"},
                                {v1::ALGORITHM_HS256, "HS256"},
                                {v1::ALGORITHM_HS384, "HS384"},
                                {v1::ALGORITHM_HS512, "HS512"},
                                {v1::ALGORITHM_RSA_OAEP, "RSA-OAEP"},
                                {v1::ALGORITHM_RSA_OAEP_256, "RSA-OAEP-256"},
                                {v1::ALGORITHM_RSA1_5, "RSA1_5"},
                                {v1::ALGORITHM_A128GCM, "A128GCM"},
                                {v1::ALGORITHM_A192GCM, "A192GCM"},
                                {v1::ALGORITHM_A256GCM, "A256GCM"},
                                {v1::ALGORITHM_A128CBC, "A128CBC"},
                                {v1::ALGORITHM_A192CBC, "A192CBC"},
                                {v1::ALGORITHM_A256CBC, "A256CBC"},
                                {v1::ALGORITHM_A128CBCPAD, "A128CBCPAD"},
                                {v1::ALGORITHM_A192CBCPAD, "A192CBCPAD"},
                                {v1::ALGORITHM_A256CBCPAD, "A256CBCPAD"},
                                {v1::ALGORITHM_A128KW, "A128KW"},
                                {v1::ALGORITHM_A192KW, "A192KW"},
                                {v1::ALGORITHM_A256KW, "A256KW"}};
constexpr Name kOperations[] = {
    {v1::KEY_OPERATION_ENCRYPT, "encrypt"},  {v1::KEY_OPERATION_DECRYPT, "decrypt"},
    {v1::KEY_OPERATION_SIGN, "sign"},        {v1::KEY_OPERATION_VERIFY, "verify"},
    {v1::KEY_OPERATION_WRAP_KEY, "wrapKey"}, {v1::KEY_OPERATION_UNWRAP_KEY, "unwrapKey"}};

template <size_t N>
std::string NameOf(const Name (&table)[N], int value) {
  for (const Name& row : table) {
    if (row.value == value) return std::string(row.name);
  }
  return "unknown";
}
template <typename Enum, size_t N>
std::optional<Enum> Parse(const Name (&table)[N], std::string_view name) {
  for (const Name& row : table) {
    if (row.name == name) return static_cast<Enum>(row.value);
  }
  return std::nullopt;
}

absl::Status Corrupt(std::string_view what) { return Error(v1::REASON_RECORD_CORRUPT, what); }

}  // namespace

Bytes Encode(const KeyHead& head) {
  Writer w(kHeadMagic);
  w.Raw(head.hsm.value);
  w.U64(head.data_set);
  w.Raw(head.uid.value);
  w.U32(head.incarnation);
  w.String(View(head.name));
  w.Spec(head.spec);
  w.U8(static_cast<uint8_t>(head.state));
  w.U8(head.enabled);
  w.Time(head.not_before);
  w.Time(head.expires);
  w.U32(head.operations);
  w.U32(static_cast<uint32_t>(head.tags.size()));
  for (const auto& [name, value] : head.tags) {
    w.String(View(name));
    w.String(View(value));
  }
  w.Time(head.deleted);
  w.Time(head.scheduled_purge);
  w.U8(head.purge_protection);
  w.Raw(head.latest.value);
  w.U32(head.version_count);
  w.U64(head.revision);
  w.U64(static_cast<uint64_t>(head.created));
  w.U64(static_cast<uint64_t>(head.updated));
  return w.Take();
}

absl::StatusOr<KeyHead> DecodeHead(ByteView body) {
  Reader r(body, kHeadMagic);
  KeyHead head;
  head.hsm = r.ReadId<HsmId>();
  head.data_set = r.U64();
  head.uid = r.ReadId<KeyUid>();
  head.incarnation = r.U32();
  head.name = ToString(r.String());
  head.spec = r.Spec();
  uint8_t state = r.U8();
  if (state < 1 || state > 3) r.Fail();
  head.state = static_cast<KeyState>(state);
  head.enabled = r.Flag();
  head.not_before = r.Time();
  head.expires = r.Time();
  head.operations = r.U32();
  uint32_t tags = r.U32();
  if (tags > limits::kTagsMax) r.Fail();
  for (uint32_t i = 0; i < tags && r.ok(); ++i) {
    std::string name = ToString(r.String());
    std::string value = ToString(r.String());
    if (!head.tags.empty() && name <= head.tags.rbegin()->first) r.Fail();
    head.tags.emplace_hint(head.tags.end(), std::move(name), std::move(value));
  }
  head.deleted = r.Time();
  head.scheduled_purge = r.Time();
  head.purge_protection = r.Flag();
  head.latest = r.ReadId<KeyVersion>();
  head.version_count = r.U32();
  head.revision = r.U64();
  head.created = static_cast<int64_t>(r.U64());
  head.updated = static_cast<int64_t>(r.U64());
  if (!r.AtEnd() || !CheckKeyName(head.name).ok()) return Corrupt("a key head is not in canonical form");
  return head;
}

Bytes Encode(const VersionRecord& version) {
  Writer w(kVersionMagic);
  w.Raw(version.hsm.value);
  w.Raw(version.uid.value);
  w.U32(version.incarnation);
  w.Raw(version.version.value);
  w.U32(version.ordinal);
  w.Spec(version.spec);
  w.String(version.spki);
  w.U32(version.kek_generation);
  w.String(version.wrapped);
  w.U64(static_cast<uint64_t>(version.created));
  return w.Take();
}

absl::StatusOr<VersionRecord> DecodeVersion(ByteView body) {
  Reader r(body, kVersionMagic);
  VersionRecord version;
  version.hsm = r.ReadId<HsmId>();
  version.uid = r.ReadId<KeyUid>();
  version.incarnation = r.U32();
  version.version = r.ReadId<KeyVersion>();
  version.ordinal = r.U32();
  version.spec = r.Spec();
  ByteView spki = r.String();
  version.spki.assign(spki.begin(), spki.end());
  version.kek_generation = r.U32();
  ByteView wrapped = r.String();
  version.wrapped.assign(wrapped.begin(), wrapped.end());
  version.created = static_cast<int64_t>(r.U64());
  if (!r.AtEnd()) return Corrupt("a version record is not in canonical form");
  return version;
}

KeyHead Narrowed(KeyHead head, const KeyHead& later) {
  head.enabled = head.enabled && later.enabled;
  head.operations &= later.operations;
  if (later.not_before && (!head.not_before || *later.not_before > *head.not_before)) {
    head.not_before = later.not_before;
  }
  if (later.expires && (!head.expires || *later.expires < *head.expires)) head.expires = later.expires;
  head.purge_protection = head.purge_protection || later.purge_protection;
  return head;
}

Bytes MacInput(std::string_view purpose, const HsmId& hsm, uint32_t mac_generation, ByteView body) {
  Writer w("QHM1");
  w.String(View(purpose));
  w.Raw(hsm.value);
  w.U32(mac_generation);
  w.Raw(body);
  return w.Take();
}

absl::StatusOr<KeySpec> CheckSpec(v1::KeyType type, v1::Curve curve, uint32_t size_bits) {
  KeySpec spec{type, v1::CURVE_UNSPECIFIED, size_bits};
  switch (type) {
    case v1::KEY_TYPE_RSA_HSM:
      if (size_bits == 0) spec.size_bits = 2048;
      if (curve != v1::CURVE_UNSPECIFIED)
        return Error(v1::REASON_INVALID_ARGUMENT, "an RSA key has no curve");
      if (spec.size_bits != 2048 && spec.size_bits != 3072 && spec.size_bits != 4096) {
        return Error(v1::REASON_INVALID_ARGUMENT, "RSA keys have 2048, 3072 or 4096 bits");
      }
      return spec;
    case v1::KEY_TYPE_EC_HSM: {
      spec.curve = curve == v1::CURVE_UNSPECIFIED ? v1::CURVE_P256 : curve;
      uint32_t field = spec.curve == v1::CURVE_P384 ? 384 : spec.curve == v1::CURVE_P521 ? 521 : 256;
      if (size_bits != 0 && size_bits != field) {
        return Error(v1::REASON_INVALID_ARGUMENT,
                     "an EC key's size follows from its curve: give the curve only");
      }
      spec.size_bits = field;
      return spec;
    }
    case v1::KEY_TYPE_OCT_HSM:
      if (size_bits == 0) spec.size_bits = 256;
      if (curve != v1::CURVE_UNSPECIFIED)
        return Error(v1::REASON_INVALID_ARGUMENT, "an oct key has no curve");
      if (spec.size_bits != 128 && spec.size_bits != 192 && spec.size_bits != 256) {
        return Error(v1::REASON_INVALID_ARGUMENT, "oct keys have 128, 192 or 256 bits");
      }
      return spec;
    default:
      return Error(v1::REASON_INVALID_ARGUMENT, "key type must be RSA-HSM, EC-HSM or oct-HSM");
  }
}

OperationSet OperationsThatFit(const KeySpec& spec) {
  OperationSet all = 0;
  for (const Name& row : kOperations) all |= 1u << row.value;
  if (spec.type == v1::KEY_TYPE_EC_HSM) return Bit(v1::KEY_OPERATION_SIGN) | Bit(v1::KEY_OPERATION_VERIFY);
  return all;
}

absl::Status CheckAlgorithm(const KeySpec& spec, v1::Algorithm algorithm) {
  bool fits = false;
  switch (algorithm) {
    case v1::ALGORITHM_RS256:
    case v1::ALGORITHM_RS384:
    case v1::ALGORITHM_RS512:
    case v1::ALGORITHM_PS256:
    case v1::ALGORITHM_PS384:
    case v1::ALGORITHM_PS512:
    case v1::ALGORITHM_RSA_OAEP:
    case v1::ALGORITHM_RSA_OAEP_256:
    case v1::ALGORITHM_RSA1_5:
      fits = spec.type == v1::KEY_TYPE_RSA_HSM;
      break;
    case v1::ALGORITHM_ES256:
      fits = spec.type == v1::KEY_TYPE_EC_HSM && spec.curve == v1::CURVE_P256;
      break;
    case v1::ALGORITHM_ES384:
      fits = spec.type == v1::KEY_TYPE_EC_HSM && spec.curve == v1::CURVE_P384;
      break;
    case v1::ALGORITHM_ES512:
      fits = spec.type == v1::KEY_TYPE_EC_HSM && spec.curve == v1::CURVE_P521;
      break;
    case v1::ALGORITHM_ES256K:
      fits = spec.type == v1::KEY_TYPE_EC_HSM && spec.curve == v1::CURVE_P256K;
      break;
    case v1::ALGORITHM_HS256:
    case v1::ALGORITHM_HS384:
    case v1::ALGORITHM_HS512:
      fits = spec.type == v1::KEY_TYPE_OCT_HSM;
      break;
    case v1::ALGORITHM_A128GCM:
    case v1::ALGORITHM_A128CBC:
    case v1::ALGORITHM_A128CBCPAD:
    case v1::ALGORITHM_A128KW:
      fits = spec.type == v1::KEY_TYPE_OCT_HSM && spec.size_bits == 128;
      break;
    case v1::ALGORITHM_A192GCM:
    case v1::ALGORITHM_A192CBC:
    case v1::ALGORITHM_A192CBCPAD:
    case v1::ALGORITHM_A192KW:
      fits = spec.type == v1::KEY_TYPE_OCT_HSM && spec.size_bits == 192;
      break;
    case v1::ALGORITHM_A256GCM:
    case v1::ALGORITHM_A256CBC:
    case v1::ALGORITHM_A256CBCPAD:
    case v1::ALGORITHM_A256KW:
      fits = spec.type == v1::KEY_TYPE_OCT_HSM && spec.size_bits == 256;
      break;
    default:
      return Error(v1::REASON_INVALID_ARGUMENT, "no algorithm given");
  }
  if (fits) return absl::OkStatus();
  return Error(v1::REASON_ALGORITHM_MISMATCH,
               AlgorithmName(algorithm) + " does not fit a key of type " + KeyTypeName(spec.type) + ", " +
                   (spec.curve != v1::CURVE_UNSPECIFIED ? "curve " + CurveName(spec.curve)
                                                        : std::to_string(spec.size_bits) + " bits"));
}

std::string CurveName(v1::Curve curve) { return NameOf(kCurves, curve); }
std::string KeyTypeName(v1::KeyType type) { return NameOf(kTypes, type); }
std::string AlgorithmName(v1::Algorithm algorithm) { return NameOf(kAlgorithms, algorithm); }
std::string OperationName(v1::KeyOperation operation) { return NameOf(kOperations, operation); }
std::optional<v1::Curve> ParseCurve(std::string_view name) { return Parse<v1::Curve>(kCurves, name); }
std::optional<v1::KeyType> ParseKeyType(std::string_view name) { return Parse<v1::KeyType>(kTypes, name); }
std::optional<v1::Algorithm> ParseAlgorithm(std::string_view name) {
  return Parse<v1::Algorithm>(kAlgorithms, name);
}
std::optional<v1::KeyOperation> ParseOperation(std::string_view name) {
  return Parse<v1::KeyOperation>(kOperations, name);
}

absl::Status CheckKeyName(std::string_view name) {
  bool good = !name.empty() && name.size() <= limits::kKeyNameBytesMax &&
              std::all_of(name.begin(), name.end(), [](char c) {
                return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
              });
  if (good) return absl::OkStatus();
  return Error(v1::REASON_INVALID_ARGUMENT, "a key name has 1 to 127 characters of 0-9, a-z, A-Z and -");
}

absl::Status CheckTags(const std::map<std::string, std::string>& tags) {
  if (tags.size() > limits::kTagsMax) return Error(v1::REASON_LIMIT_EXCEEDED, "a key has at most 15 tags");
  for (const auto& [name, value] : tags) {
    if (name.empty() || name.size() > limits::kTagBytesMax || value.size() > limits::kTagBytesMax) {
      return Error(v1::REASON_LIMIT_EXCEEDED, "a tag's name has 1 to 256 bytes, its value at most 256");
    }
  }
  return absl::OkStatus();
}

}  // namespace hsm
