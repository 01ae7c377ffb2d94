#pragma once
// Owning attribute templates: the only place where CK_ATTRIBUTE arrays are built. Values are wiped on
// destruction, since a template may carry the value of a key that is being imported.
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "common/bytes.h"
#include "pkcs11/cryptoki.h"

namespace hsm::pkcs11 {

class Template {
 public:
  Template() = default;
  Template(const Template&) = default;
  Template(Template&&) = default;
  Template& operator=(const Template&) = default;
  Template& operator=(Template&&) = default;
  ~Template();

  // Each sets one attribute; the same attribute again replaces its value.
  Template& Bool(CK_ATTRIBUTE_TYPE type, bool value);
  Template& Ulong(CK_ATTRIBUTE_TYPE type, CK_ULONG value);
  Template& Data(CK_ATTRIBUTE_TYPE type, ByteView value);
  Template& Text(CK_ATTRIBUTE_TYPE type, std::string_view value) { return Data(type, View(value)); }
  Template& Mechanisms(std::span<const CK_MECHANISM_TYPE> allowed);  // CKA_ALLOWED_MECHANISMS
  Template& Nested(CK_ATTRIBUTE_TYPE type, Template value);          // CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE
  Template& Remove(CK_ATTRIBUTE_TYPE type);
  Template& Merge(const Template& other);  // the other's values win

  // Pointers into this object, valid until it changes. CKA_MODIFIABLE comes last, whenever it was set:
  // SoftHSM stops taking attributes once it has seen it.
  CK_ATTRIBUTE* data();
  CK_ULONG size() const { return entries_.size(); }

 private:
  struct Entry {
    CK_ATTRIBUTE_TYPE type;
    Bytes value;
    std::shared_ptr<Template> nested;
  };
  Entry& At(CK_ATTRIBUTE_TYPE type);

  std::vector<Entry> entries_;
  std::vector<CK_ATTRIBUTE> array_;
};

}  // namespace hsm::pkcs11
