#include "common/security_domain_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/error.h"
#include "common/json.h"
#include "common/shamir.h"
#include "common/sp800_108.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr size_t kMasterBytes = 32, kThumbprintBytes = 32;
constexpr std::string_view kKdf = "sp108_kdf", kSharing = "shamir_share";

absl::Status Wrong(std::string_view what) { return Error(v1::REASON_INVALID_ARGUMENT, what); }

SecretBytes ItemKey(const SecretBytes& master, std::string_view tag) {
  return DeriveSp800108(master, tag, "", kJweKeyBytes);
}

absl::Status CheckRsa(const Certificate& certificate, std::string_view whose) {
  const int bits = RsaBits(certificate.Spki());
  if (bits >= kOfficerRsaBitsMin && bits <= kOfficerRsaBitsMax) return absl::OkStatus();
  return Wrong(
      fmt::format("{} needs an RSA key of {} to {} bits", whose, kOfficerRsaBitsMin, kOfficerRsaBitsMax));
}

absl::Status CheckOfficers(std::span<const Certificate> officers, int quorum) {
  const auto count = static_cast<int>(officers.size());
  if (count < kOfficersMin || count > kOfficersMax) {
    return Wrong(
        fmt::format("{} certificates: there are {} to {} officers", count, kOfficersMin, kOfficersMax));
  }
  if (quorum < kDomainQuorumMin || quorum > count) {
    return Wrong(fmt::format("a quorum of {}: it is {} to the number of officers, {}", quorum,
                             kDomainQuorumMin, count));
  }
  std::set<Bytes> keys;
  for (size_t i = 0; i < officers.size(); ++i) {
    HSM_RETURN_IF_ERROR(
        CheckRsa(officers[i], fmt::format("certificate {} ({})", i + 1, officers[i].CommonName())));
    // Two certificates for one key are one officer who counts twice.
    if (!keys.insert(officers[i].Spki()).second) {
      return Wrong(fmt::format("certificate {} ({}) has a key that was given before", i + 1,
                               officers[i].CommonName()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckItems(std::span<const DomainItem> items) {
  if (items.empty() || items.size() > kDomainItemsMax) {
    return Wrong(fmt::format("a security domain has 1 to {} items", kDomainItemsMax));
  }
  std::set<std::string_view> tags;
  for (const DomainItem& item : items) {
    if (!tags.insert(item.tag).second) return Wrong(fmt::format("two items are called '{}'", item.tag));
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> SealItems(std::span<const DomainItem> items, const SecretBytes& master, Random& random) {
  Json data = Json::Array();
  for (const DomainItem& item : items) {
    HSM_ASSIGN_OR_RETURN(std::string jwe, JweSeal(ItemKey(master, item.tag), item.tag, item.value, random));
    data.Add(Json::Object({{"compact_jwe", std::move(jwe)}, {"tag", item.tag}}));
  }
  return Json::Object({{"data", std::move(data)}, {"kdf", kKdf}});
}

// Exactly these members.
absl::Status CheckMembers(const Json* value, std::initializer_list<std::string_view> names,
                          std::string_view what) {
  if (value == nullptr || !value->IsObject() || value->members().size() != names.size()) {
    return Wrong(fmt::format("{} is missing, or has other members than it should", what));
  }
  for (std::string_view name : names) {
    if (value->Find(name) == nullptr) return Wrong(fmt::format("{} has no {}", what, name));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TextAt(const Json& object, std::string_view name) {
  std::optional<std::string> text = object.Find(name)->AsString();
  if (!text) return Wrong(fmt::format("{} is not a text", name));
  return *std::move(text);
}

absl::StatusOr<Bytes> ThumbprintAt(const Json& object) {
  HSM_ASSIGN_OR_RETURN(const std::string text, TextAt(object, "x5t_256"));
  std::optional<Bytes> bytes = FromBase64Url(text);
  if (!bytes || bytes->size() != kThumbprintBytes) return Wrong("an x5t_256 is not a SHA-256 in base64url");
  return *std::move(bytes);
}

absl::StatusOr<Json> ParseDocument(std::string_view text) {
  if (text.size() > kDomainFileBytesMax) return Wrong("the security domain file is larger than 1 MiB");
  absl::StatusOr<Json> document = Json::Parse(text, 8);
  if (!document.ok()) return Wrong("the security domain file is not JSON");
  return document;
}

}  // namespace

absl::StatusOr<std::string> MakeSecurityDomainFile(std::span<const DomainItem> items,
                                                   std::span<const Certificate> officers, int quorum,
                                                   Random& random) {
  HSM_RETURN_IF_ERROR(CheckOfficers(officers, quorum));
  HSM_RETURN_IF_ERROR(CheckItems(items));
  const SecretBytes master(random.Draw(kMasterBytes));
  HSM_ASSIGN_OR_RETURN(const std::vector<SecretBytes> shares,
                       SplitSecret(master, quorum, static_cast<int>(officers.size()), random));
  Json sealed_shares = Json::Array();
  for (size_t i = 0; i < officers.size(); ++i) {
    HSM_ASSIGN_OR_RETURN(std::string jwe, JweSealTo(officers[i].Spki(), shares[i], random));
    sealed_shares.Add(
        Json::Object({{"enc_key", std::move(jwe)}, {"x5t_256", Base64Url(officers[i].Fingerprint())}}));
  }
  HSM_ASSIGN_OR_RETURN(Json data, SealItems(items, master, random));
  return Json::Object({{"EncData", std::move(data)},
                       {"SharedKeys", Json::Object({{"enc_shares", std::move(sealed_shares)},
                                                    {"key_algorithm", kSharing},
                                                    {"required", quorum}})}})
      .Dump();
}

absl::StatusOr<std::vector<SecurityDomainFile::SealedItem>> SecurityDomainFile::ParseItems(
    const Json& document) {
  const Json* data = document.Find("EncData");
  HSM_RETURN_IF_ERROR(CheckMembers(data, {"data", "kdf"}, "EncData"));
  HSM_ASSIGN_OR_RETURN(const std::string kdf, TextAt(*data, "kdf"));
  if (kdf != kKdf) return Wrong("EncData.kdf is not sp108_kdf");
  const std::vector<Json>& items = data->Find("data")->items();
  if (items.empty() || items.size() > kDomainItemsMax) return Wrong("EncData.data has no items, or too many");
  std::vector<SealedItem> out;
  std::set<std::string> tags;
  for (const Json& item : items) {
    HSM_RETURN_IF_ERROR(CheckMembers(&item, {"compact_jwe", "tag"}, "an item of EncData.data"));
    SealedItem sealed;
    HSM_ASSIGN_OR_RETURN(sealed.tag, TextAt(item, "tag"));
    HSM_ASSIGN_OR_RETURN(sealed.jwe, TextAt(item, "compact_jwe"));
    if (!tags.insert(sealed.tag).second) return Wrong("two items have the same tag");
    out.push_back(std::move(sealed));
  }
  return out;
}

absl::StatusOr<SecurityDomainFile> SecurityDomainFile::Parse(std::string_view text) {
  HSM_ASSIGN_OR_RETURN(const Json document, ParseDocument(text));
  HSM_RETURN_IF_ERROR(CheckMembers(&document, {"EncData", "SharedKeys"}, "the security domain file"));
  SecurityDomainFile file;
  HSM_ASSIGN_OR_RETURN(file.items_, ParseItems(document));
  const Json* shared = document.Find("SharedKeys");
  HSM_RETURN_IF_ERROR(CheckMembers(shared, {"enc_shares", "key_algorithm", "required"}, "SharedKeys"));
  HSM_ASSIGN_OR_RETURN(const std::string algorithm, TextAt(*shared, "key_algorithm"));
  if (algorithm != kSharing) return Wrong("SharedKeys.key_algorithm is not shamir_share");
  const std::vector<Json>& shares = shared->Find("enc_shares")->items();
  const auto count = static_cast<int64_t>(shares.size());
  const int64_t required = shared->Find("required")->AsInteger().value_or(0);
  if (count < kOfficersMin || count > kOfficersMax)
    return Wrong("SharedKeys.enc_shares has not 3 to 10 shares");
  if (required < kDomainQuorumMin || required > count)
    return Wrong("SharedKeys.required is not 2 to the shares' number");
  file.quorum_ = static_cast<int>(required);
  std::set<Bytes> thumbprints;
  for (const Json& share : shares) {
    HSM_RETURN_IF_ERROR(CheckMembers(&share, {"enc_key", "x5t_256"}, "a share"));
    Share out;
    HSM_ASSIGN_OR_RETURN(out.thumbprint, ThumbprintAt(share));
    HSM_ASSIGN_OR_RETURN(out.jwe, TextAt(share, "enc_key"));
    if (!thumbprints.insert(out.thumbprint).second) return Wrong("two shares are for one certificate");
    file.shares_.push_back(std::move(out));
  }
  return file;
}

std::vector<std::string> SecurityDomainFile::Officers() const {
  std::vector<std::string> out;
  for (const Share& share : shares_) out.push_back(Hex(share.thumbprint));
  return out;
}

absl::StatusOr<std::vector<DomainItem>> SecurityDomainFile::OpenItems(const std::vector<SealedItem>& items,
                                                                      const SecretBytes& master) {
  std::vector<DomainItem> out;
  for (const SealedItem& item : items) {
    HSM_ASSIGN_OR_RETURN(SecretBytes value, JweOpen(item.jwe, ItemKey(master, item.tag), item.tag));
    out.push_back({item.tag, std::move(value)});
  }
  return out;
}

absl::StatusOr<std::vector<DomainItem>> SecurityDomainFile::Open(std::span<const OfficerKey> officers) const {
  if (officers.size() < static_cast<size_t>(quorum_)) {
    return Wrong(fmt::format("{} private keys are needed, {} were given", quorum_, officers.size()));
  }
  std::vector<SecretBytes> shares;
  std::set<Bytes> seen;
  for (const OfficerKey& officer : officers) {
    const Bytes thumbprint = officer.certificate.Fingerprint();
    const std::string who =
        fmt::format("{} ({})", officer.certificate.CommonName(), Hex(thumbprint).substr(0, 16));
    if (!seen.insert(thumbprint).second) return Wrong(who + " was given twice");
    const auto share = std::find_if(shares_.begin(), shares_.end(),
                                    [&](const Share& each) { return each.thumbprint == thumbprint; });
    if (share == shares_.end()) return Wrong(who + " holds no share of this security domain");
    if (officer.key.Spki() != officer.certificate.Spki())
      return Wrong(who + ": the private key is not the certificate's");
    absl::StatusOr<SecretBytes> opened =
        JweOpenWith(share->jwe, [&](ByteView encrypted) { return officer.key.Decrypt(encrypted); });
    if (!opened.ok())
      return Error(v1::REASON_DECRYPTION_FAILED, who + ": the share in this file does not open");
    if (opened->size() != 2 * kMasterBytes)
      return Error(v1::REASON_DECRYPTION_FAILED, who + ": no share of a master");
    shares.push_back(*std::move(opened));
  }
  HSM_ASSIGN_OR_RETURN(const SecretBytes master, JoinShares(shares, quorum_));
  return OpenItems(items_, master);
}

absl::StatusOr<std::string> MakeRestoreBlob(std::span<const DomainItem> items, const Certificate& exchange,
                                            Random& random) {
  HSM_RETURN_IF_ERROR(CheckItems(items));
  HSM_RETURN_IF_ERROR(CheckRsa(exchange, "the exchange certificate"));
  const SecretBytes master(random.Draw(kMasterBytes));
  HSM_ASSIGN_OR_RETURN(std::string wrapped, JweSealTo(exchange.Spki(), master, random));
  HSM_ASSIGN_OR_RETURN(Json data, SealItems(items, master, random));
  return Json::Object({{"EncData", std::move(data)},
                       {"WrappedKey", Json::Object({{"enc_key", std::move(wrapped)},
                                                    {"x5t_256", Base64Url(exchange.Fingerprint())}})}})
      .Dump();
}

absl::StatusOr<std::vector<DomainItem>> OpenRestoreBlob(std::string_view text, const Certificate& exchange,
                                                        const JweUnwrap& unwrap) {
  HSM_ASSIGN_OR_RETURN(const Json document, ParseDocument(text));
  HSM_RETURN_IF_ERROR(CheckMembers(&document, {"EncData", "WrappedKey"}, "the restore blob"));
  HSM_ASSIGN_OR_RETURN(const auto items, SecurityDomainFile::ParseItems(document));
  const Json* wrapped = document.Find("WrappedKey");
  HSM_RETURN_IF_ERROR(CheckMembers(wrapped, {"enc_key", "x5t_256"}, "WrappedKey"));
  HSM_ASSIGN_OR_RETURN(const Bytes thumbprint, ThumbprintAt(*wrapped));
  if (thumbprint != exchange.Fingerprint()) {
    return Wrong("the restore blob was made for another exchange key: make it again with the present one");
  }
  HSM_ASSIGN_OR_RETURN(const std::string jwe, TextAt(*wrapped, "enc_key"));
  HSM_ASSIGN_OR_RETURN(const SecretBytes master, JweOpenWith(jwe, unwrap));
  if (master.size() != kMasterBytes)
    return Error(v1::REASON_DECRYPTION_FAILED, "the restore blob has no master");
  return SecurityDomainFile::OpenItems(items, master);
}

}  // namespace hsm
