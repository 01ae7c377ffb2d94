#include "node/kek_store.h"

#include <fmt/format.h>

#include <map>

#include "common/error.h"
#include "common/status_macros.h"
#include "node/key_encoding.h"
#include "node/token_templates.h"
#include "pkcs11/softhsm_files.h"

namespace hsm {
namespace {

using pkcs11::Mechanism;
using pkcs11::Session;
using pkcs11::Template;

constexpr std::string_view kFingerprintConstant = "QuorumHSM KEK fingerprint, 32 by";  // 32 bytes, public
static_assert(kFingerprintConstant.size() == 32);

std::string LabelOf(Session& session, CK_OBJECT_HANDLE object) {
  auto label = session.Attribute(object, CKA_LABEL);
  return label.ok() ? ToString(*label) : "";
}

bool IsGarbage(Session& session, CK_OBJECT_HANDLE object, CK_MECHANISM_TYPE kwp) {
  auto klass = session.UlongAttribute(object, CKA_CLASS);
  if (!klass.ok()) return pkcs11::ClassOf(pkcs11::RvOf(klass.status())) != pkcs11::RvClass::kDevice;
  std::string label = LabelOf(session, object);
  if (label.starts_with(kProbeLabelPrefix)) return true;
  if (label.starts_with(kKekLabelPrefix)) return !KekFingerprintOf(session, object, kwp).ok();
  bool is_key = *klass == CKO_SECRET_KEY || *klass == CKO_PRIVATE_KEY || *klass == CKO_PUBLIC_KEY;
  auto id = session.Attribute(object, CKA_ID);
  return is_key && label.empty() && (!id.ok() || id->empty());
}

absl::StatusOr<std::vector<CK_OBJECT_HANDLE>> KekObjects(Session& session) {
  HSM_ASSIGN_OR_RETURN(auto keys,
                       session.Find(Template().Bool(CKA_TOKEN, true).Ulong(CKA_CLASS, CKO_SECRET_KEY)));
  std::erase_if(keys,
                [&](CK_OBJECT_HANDLE key) { return !LabelOf(session, key).starts_with(kKekLabelPrefix); });
  return keys;
}

}  // namespace

absl::StatusOr<TokenConfig> ResolveConfig(TokenConfig config) {
  if (config.uri.empty()) return config;
  HSM_ASSIGN_OR_RETURN(pkcs11::TokenUri uri, pkcs11::ParseTokenUri(config.uri));
  auto fill = [](std::string& field, const std::string& value) {
    if (field.empty()) field = value;
  };
  fill(config.module, uri.module_path);
  fill(config.label, uri.label);
  fill(config.serial, uri.serial);
  fill(config.pin_file, uri.pin_source);
  return config;
}

absl::StatusOr<std::unique_ptr<pkcs11::Library>> LoadModule(const TokenConfig& resolved) {
  for (const auto& [name, value] : resolved.environment) setenv(name.c_str(), value.c_str(), 1);
  HSM_RETURN_IF_ERROR(pkcs11::SoftHsmFiles::FromEnvironment().RestoreTruncated().status());
  return pkcs11::Library::Load({resolved.module, resolved.init_args, resolved.environment});
}

absl::StatusOr<int> RemoveGarbage(Session& session, CK_MECHANISM_TYPE kwp) {
  // Half objects may lack even CKA_TOKEN, so that a search for it does not find them: look at everything.
  // Nobody has made session objects yet.
  HSM_ASSIGN_OR_RETURN(auto objects, session.Find(Template()));
  int removed = 0;
  for (CK_OBJECT_HANDLE object : objects) {
    if (!IsGarbage(session, object, kwp)) continue;
    if (session.DestroyObject(object).ok()) ++removed;
  }
  return removed;
}

absl::StatusOr<std::optional<KekSet>> FindKeks(Session& session) {
  HSM_ASSIGN_OR_RETURN(auto keys, KekObjects(session));
  std::map<std::string, KekSet> by_tag;
  for (CK_OBJECT_HANDLE key : keys) {
    std::string label = LabelOf(session, key);
    for (Kek kek : {Kek::kReplication, Kek::kBackup}) {
      std::string prefix = KekLabel(kek, "");
      if (!label.starts_with(prefix)) continue;
      KekSet& set = by_tag[label.substr(prefix.size())];
      CK_OBJECT_HANDLE& handle = set.handles[static_cast<size_t>(kek)];
      if (handle != CK_INVALID_HANDLE)
        return Error(v1::REASON_CONFLICT, fmt::format("the token has two KEKs labelled {}", label));
      handle = key;
    }
  }
  std::optional<KekSet> found;
  for (auto& [tag, set] : by_tag) {
    if (set[Kek::kReplication] == CK_INVALID_HANDLE || set[Kek::kBackup] == CK_INVALID_HANDLE) continue;
    if (found) return Error(v1::REASON_CONFLICT, "the token holds the KEKs of several domains");
    set.domain_tag = tag;
    found = set;
  }
  return found;
}

absl::Status DestroyKeks(Session& session) {
  HSM_ASSIGN_OR_RETURN(auto keys, KekObjects(session));
  for (CK_OBJECT_HANDLE key : keys) HSM_RETURN_IF_ERROR(session.DestroyObject(key));
  return absl::OkStatus();
}

absl::StatusOr<Bytes> KekFingerprintOf(Session& session, CK_OBJECT_HANDLE kek, CK_MECHANISM_TYPE kwp) {
  Template constant =
      ObjectTemplate({v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256}, {KeyUse::kTransit, 0});
  constant.Remove(CKA_COPYABLE)
      .Ulong(CKA_CLASS, CKO_SECRET_KEY)
      .Ulong(CKA_KEY_TYPE, CKK_AES)
      .Text(CKA_LABEL, fmt::format("{}fingerprint", kProbeLabelPrefix))
      .Text(CKA_VALUE, kFingerprintConstant);
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE key, session.CreateObject(constant));
  auto wrapped = session.Wrap(Mechanism::Plain(kwp), kek, key);
  absl::Status destroyed = session.DestroyObject(key);
  HSM_RETURN_IF_ERROR(wrapped.status());
  HSM_RETURN_IF_ERROR(destroyed);
  return Digest(Hash::kSha256, *wrapped);
}

}  // namespace hsm
