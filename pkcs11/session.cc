#include "pkcs11/session.h"

#include <algorithm>

#include "common/error.h"
#include "common/status_macros.h"

namespace hsm::pkcs11 {
namespace {

constexpr size_t kSlackBytes = 1024;        // beyond the input: tags, padding, IVs that vendors append
constexpr size_t kWrappedBytesMax = 16384;  // RSA-4096 in PKCS#8 has about 2.4 KiB
constexpr size_t kAttributeBytesMax = 8192;

// PKCS#11 takes non-const pointers and never writes through these. SoftHSM leaves the operation active when
// empty input comes with a null pointer, so there is always something to point at.
CK_BYTE* In(ByteView bytes) {
  static CK_BYTE nothing = 0;
  return bytes.empty() ? &nothing : const_cast<CK_BYTE*>(bytes.data());
}

}  // namespace

absl::StatusOr<Session> Session::Open(const Library& library, CK_SLOT_ID slot) {
  CK_SESSION_HANDLE handle = CK_INVALID_HANDLE;
  HSM_RETURN_IF_ERROR(
      FromRv(library->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, nullptr, nullptr, &handle),
             "C_OpenSession"));
  return Session(&library, handle);
}

Session& Session::operator=(Session&& other) noexcept {
  if (this != &other) {
    Close();
    library_ = other.library_;
    handle_ = std::exchange(other.handle_, CK_INVALID_HANDLE);
    poisoned_ = other.poisoned_;
  }
  return *this;
}

Session::~Session() { Close(); }

void Session::Close() {
  if (handle_ != CK_INVALID_HANDLE && Library::Usable())
    (*library_)->C_CloseSession(handle_);  // nothing useful to do on failure
}

bool Session::Alive() const {
  CK_SESSION_INFO info = {};
  return (*library_)->C_GetSessionInfo(handle_, &info) == CKR_OK;
}

absl::Status Session::Checked(CK_RV rv, const char* function, Input input) {
  if (rv != CKR_OK) poisoned_ = true;
  return FromRv(rv, function, input);
}

absl::StatusOr<CK_OBJECT_HANDLE> Session::GenerateKey(Mechanism mechanism, Template attributes) {
  CK_OBJECT_HANDLE object = CK_INVALID_HANDLE;
  HSM_RETURN_IF_ERROR(FromRv(
      (*library_)->C_GenerateKey(handle_, mechanism.Get(), attributes.data(), attributes.size(), &object),
      "C_GenerateKey"));
  return object;
}

absl::StatusOr<KeyPair> Session::GenerateKeyPair(Mechanism mechanism, Template public_part,
                                                 Template private_part) {
  KeyPair pair;
  HSM_RETURN_IF_ERROR(
      FromRv((*library_)->C_GenerateKeyPair(handle_, mechanism.Get(), public_part.data(), public_part.size(),
                                            private_part.data(), private_part.size(), &pair.public_key,
                                            &pair.private_key),
             "C_GenerateKeyPair"));
  return pair;
}

absl::StatusOr<CK_OBJECT_HANDLE> Session::CreateObject(Template attributes) {
  CK_OBJECT_HANDLE object = CK_INVALID_HANDLE;
  HSM_RETURN_IF_ERROR(FromRv(
      (*library_)->C_CreateObject(handle_, attributes.data(), attributes.size(), &object), "C_CreateObject"));
  return object;
}

absl::StatusOr<CK_OBJECT_HANDLE> Session::CopyObject(CK_OBJECT_HANDLE object, Template changes) {
  CK_OBJECT_HANDLE copy = CK_INVALID_HANDLE;
  HSM_RETURN_IF_ERROR(FromRv(
      (*library_)->C_CopyObject(handle_, object, changes.data(), changes.size(), &copy), "C_CopyObject"));
  return copy;
}

absl::Status Session::DestroyObject(CK_OBJECT_HANDLE object) {
  return FromRv((*library_)->C_DestroyObject(handle_, object), "C_DestroyObject");
}

absl::Status Session::SetAttributes(CK_OBJECT_HANDLE object, Template attributes) {
  return FromRv((*library_)->C_SetAttributeValue(handle_, object, attributes.data(), attributes.size()),
                "C_SetAttributeValue");
}

absl::StatusOr<CK_OBJECT_HANDLE> Session::Unwrap(Mechanism mechanism, CK_OBJECT_HANDLE key, ByteView wrapped,
                                                 Template attributes) {
  CK_OBJECT_HANDLE object = CK_INVALID_HANDLE;
  HSM_RETURN_IF_ERROR(
      FromRv((*library_)->C_UnwrapKey(handle_, mechanism.Get(), key, In(wrapped), wrapped.size(),
                                      attributes.data(), attributes.size(), &object),
             "C_UnwrapKey", Input::kWrappedKey));
  return object;
}

absl::StatusOr<Bytes> Session::Wrap(Mechanism mechanism, CK_OBJECT_HANDLE key, CK_OBJECT_HANDLE target) {
  Bytes out(kWrappedBytesMax);
  CK_ULONG size = out.size();
  HSM_RETURN_IF_ERROR(
      FromRv((*library_)->C_WrapKey(handle_, mechanism.Get(), key, target, out.data(), &size), "C_WrapKey"));
  if (size > out.size()) return Error(v1::REASON_TOKEN_FAILED, "C_WrapKey gave an impossible length");
  out.resize(size);
  out.shrink_to_fit();
  return out;
}

absl::StatusOr<std::vector<CK_OBJECT_HANDLE>> Session::Find(Template attributes) {
  constexpr size_t kFoundMax = 100'000;
  HSM_RETURN_IF_ERROR(FromRv((*library_)->C_FindObjectsInit(handle_, attributes.data(), attributes.size()),
                             "C_FindObjectsInit"));
  std::vector<CK_OBJECT_HANDLE> found;
  CK_OBJECT_HANDLE page[256];
  absl::Status status;
  while (found.size() < kFoundMax) {
    CK_ULONG count = 0;
    status = Checked((*library_)->C_FindObjects(handle_, page, std::size(page), &count), "C_FindObjects");
    if (!status.ok() || count == 0) break;
    found.insert(found.end(), page, page + count);
  }
  absl::Status end = Checked((*library_)->C_FindObjectsFinal(handle_), "C_FindObjectsFinal");
  HSM_RETURN_IF_ERROR(status);
  HSM_RETURN_IF_ERROR(end);
  return found;
}

absl::StatusOr<Bytes> Session::Attribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
  Bytes value(kAttributeBytesMax);
  CK_ATTRIBUTE attribute = {type, value.data(), value.size()};
  HSM_RETURN_IF_ERROR(
      FromRv((*library_)->C_GetAttributeValue(handle_, object, &attribute, 1), "C_GetAttributeValue"));
  if (attribute.ulValueLen > value.size())
    return Error(v1::REASON_TOKEN_FAILED, "C_GetAttributeValue gave an impossible length");
  value.resize(attribute.ulValueLen);
  return value;
}

absl::StatusOr<std::vector<std::optional<Bytes>>> Session::Attributes(
    CK_OBJECT_HANDLE object, std::span<const CK_ATTRIBUTE_TYPE> types) {
  constexpr size_t kBytesEach = 512;  // RSA-4096's modulus
  Bytes values(types.size() * kBytesEach);
  std::vector<CK_ATTRIBUTE> wanted;
  for (size_t i = 0; i < types.size(); ++i)
    wanted.push_back({types[i], values.data() + i * kBytesEach, kBytesEach});
  const CK_RV rv = (*library_)->C_GetAttributeValue(handle_, object, wanted.data(), wanted.size());
  if (rv != CKR_ATTRIBUTE_SENSITIVE && rv != CKR_ATTRIBUTE_TYPE_INVALID)
    HSM_RETURN_IF_ERROR(FromRv(rv, "C_GetAttributeValue"));
  std::vector<std::optional<Bytes>> out(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    const auto* value = static_cast<const uint8_t*>(wanted[i].pValue);
    if (wanted[i].ulValueLen <= kBytesEach) out[i].emplace(value, value + wanted[i].ulValueLen);
  }
  return out;
}

absl::StatusOr<CK_ULONG> Session::UlongAttribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
  CK_ULONG number = 0;
  CK_ATTRIBUTE attribute = {type, &number, sizeof number};
  HSM_RETURN_IF_ERROR(
      FromRv((*library_)->C_GetAttributeValue(handle_, object, &attribute, 1), "C_GetAttributeValue"));
  if (attribute.ulValueLen != sizeof number)
    return Error(v1::REASON_TOKEN_FAILED, "an attribute is not a number");
  return number;
}

absl::StatusOr<bool> Session::BoolAttribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
  CK_BBOOL value = CK_FALSE;
  CK_ATTRIBUTE attribute = {type, &value, sizeof value};
  HSM_RETURN_IF_ERROR(
      FromRv((*library_)->C_GetAttributeValue(handle_, object, &attribute, 1), "C_GetAttributeValue"));
  if (attribute.ulValueLen != sizeof value)
    return Error(v1::REASON_TOKEN_FAILED, "an attribute is not a truth value");
  return value != CK_FALSE;
}

absl::StatusOr<Bytes> Session::Sign(Mechanism mechanism, CK_OBJECT_HANDLE key, ByteView data) {
  HSM_RETURN_IF_ERROR(Checked((*library_)->C_SignInit(handle_, mechanism.Get(), key), "C_SignInit"));
  CK_BYTE out[2048];  // RSA-16384
  CK_ULONG size = sizeof out;
  HSM_RETURN_IF_ERROR(Checked((*library_)->C_Sign(handle_, In(data), data.size(), out, &size), "C_Sign"));
  if (size > sizeof out) return Error(v1::REASON_TOKEN_FAILED, "C_Sign gave an impossible length");
  return Bytes(out, out + size);
}

absl::StatusOr<Bytes> Session::Encrypt(Mechanism& mechanism, CK_OBJECT_HANDLE key, ByteView plaintext) {
  HSM_RETURN_IF_ERROR(Checked((*library_)->C_EncryptInit(handle_, mechanism.Get(), key), "C_EncryptInit"));
  Bytes out(plaintext.size() + kSlackBytes);
  CK_ULONG size = out.size();
  HSM_RETURN_IF_ERROR(Checked(
      (*library_)->C_Encrypt(handle_, In(plaintext), plaintext.size(), out.data(), &size), "C_Encrypt"));
  if (size > out.size()) return Error(v1::REASON_TOKEN_FAILED, "C_Encrypt gave an impossible length");
  out.resize(size);
  return out;
}

absl::StatusOr<SecretBytes> Session::Decrypt(Mechanism mechanism, CK_OBJECT_HANDLE key, ByteView ciphertext,
                                             bool* refused_at_init) {
  CK_RV rv = (*library_)->C_DecryptInit(handle_, mechanism.Get(), key);
  if (refused_at_init != nullptr) *refused_at_init = rv != CKR_OK;
  HSM_RETURN_IF_ERROR(Checked(rv, "C_DecryptInit"));
  SecretBytes out(ciphertext.size() + kSlackBytes);
  CK_ULONG size = out.size();
  HSM_RETURN_IF_ERROR(Checked((*library_)->C_Decrypt(handle_, In(ciphertext), ciphertext.size(),
                                                     out.ExposeForWriting().data(), &size),
                              "C_Decrypt", Input::kCiphertext));
  if (size > out.size()) return Error(v1::REASON_TOKEN_FAILED, "C_Decrypt gave an impossible length");
  ByteView whole = out.Expose();
  return SecretBytes(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
}

absl::StatusOr<Bytes> Session::Random(size_t size) {
  Bytes out(size);
  HSM_RETURN_IF_ERROR(
      FromRv((*library_)->C_GenerateRandom(handle_, out.data(), out.size()), "C_GenerateRandom"));
  return out;
}

}  // namespace hsm::pkcs11
