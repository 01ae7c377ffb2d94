#include "pkcs11/attributes.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cstring>

namespace hsm::pkcs11 {

Template::~Template() {
  for (Entry& entry : entries_)
    if (!entry.value.empty()) OPENSSL_cleanse(entry.value.data(), entry.value.size());
}

Template::Entry& Template::At(CK_ATTRIBUTE_TYPE type) {
  for (Entry& entry : entries_)
    if (entry.type == type) return entry;
  return entries_.emplace_back(Entry{type, {}, nullptr});
}

Template& Template::Bool(CK_ATTRIBUTE_TYPE type, bool value) {
  At(type).value = {static_cast<uint8_t>(value ? CK_TRUE : CK_FALSE)};
  return *this;
}

Template& Template::Ulong(CK_ATTRIBUTE_TYPE type, CK_ULONG value) {
  Bytes bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  At(type).value = std::move(bytes);
  return *this;
}

Template& Template::Data(CK_ATTRIBUTE_TYPE type, ByteView value) {
  At(type).value.assign(value.begin(), value.end());
  return *this;
}

Template& Template::Mechanisms(std::span<const CK_MECHANISM_TYPE> allowed) {
  return Data(CKA_ALLOWED_MECHANISMS,
              {reinterpret_cast<const uint8_t*>(allowed.data()), allowed.size_bytes()});
}

Template& Template::Nested(CK_ATTRIBUTE_TYPE type, Template value) {
  At(type).nested = std::make_shared<Template>(std::move(value));
  return *this;
}

Template& Template::Remove(CK_ATTRIBUTE_TYPE type) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.type == type; });
  return *this;
}

Template& Template::Merge(const Template& other) {
  for (const Entry& entry : other.entries_) At(entry.type) = entry;
  return *this;
}

CK_ATTRIBUTE* Template::data() {
  auto modifiable = std::find_if(entries_.begin(), entries_.end(),
                                 [](const Entry& entry) { return entry.type == CKA_MODIFIABLE; });
  if (modifiable != entries_.end()) std::rotate(modifiable, modifiable + 1, entries_.end());
  array_.clear();
  for (Entry& entry : entries_) {
    if (entry.nested != nullptr) {
      array_.push_back({entry.type, entry.nested->data(), entry.nested->size() * sizeof(CK_ATTRIBUTE)});
    } else {
      array_.push_back({entry.type, entry.value.data(), entry.value.size()});
    }
  }
  return array_.data();
}

}  // namespace hsm::pkcs11
