#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/documents.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/record.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr int kPagesMax = 100'000;

struct KeyArguments {
  std::string name, version, kty = "EC-HSM", curve, op_id;
  std::optional<uint32_t> size;
  std::vector<std::string> ops, tags;
  std::optional<std::string> not_before, expires, enabled;
  std::optional<uint32_t> revision;
  bool disabled = false, clear_tags = false;
  uint32_t max_results = 0;
};
using Arguments = std::shared_ptr<KeyArguments>;

template <typename Request>
absl::Status AddOperations(const std::vector<std::string>& names, Request& request) {
  for (const std::string& name : names) {
    auto operation = ParseOperation(name);
    if (!operation) {
      return Error(v1::REASON_INVALID_ARGUMENT,
                   fmt::format("\"{}\" is none of encrypt, decrypt, sign, verify, wrapKey, unwrapKey", name));
    }
    request.add_operations(*operation);
  }
  return absl::OkStatus();
}

template <typename Request>
absl::Status AddTags(const std::vector<std::string>& pairs, Request& request) {
  for (const std::string& pair : pairs) {
    size_t middle = pair.find('=');
    if (middle == std::string::npos || middle == 0) {
      return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("--tags takes name=value, not \"{}\"", pair));
    }
    (*request.mutable_tags())[pair.substr(0, middle)] = pair.substr(middle + 1);
  }
  return absl::OkStatus();
}

template <typename Request>
absl::Status AddDates(const KeyArguments& a, Request& request) {
  if (a.not_before) {
    HSM_ASSIGN_OR_RETURN(int64_t time, ParseTimeOption("--not-before", *a.not_before));
    request.set_not_before(time);
  }
  if (a.expires) {
    HSM_ASSIGN_OR_RETURN(int64_t time, ParseTimeOption("--expires", *a.expires));
    request.set_expires(time);
  }
  return absl::OkStatus();
}

absl::Status PrintKey(absl::StatusOr<v1::Key> key) {
  HSM_RETURN_IF_ERROR(key.status());
  Print(KeyJson(*key), KeyTable(*key));
  return absl::OkStatus();
}

absl::Status PrintDeleted(const absl::StatusOr<v1::DeletedKey>& deleted) {
  HSM_RETURN_IF_ERROR(deleted.status());
  Print(DeletedKeyJson(*deleted), DeletedKeyTable(*deleted));
  return absl::OkStatus();
}

absl::Status CreateKey(const KeyArguments& a) {
  v1::CreateKeyRequest request;
  request.set_name(a.name);
  auto type = ParseKeyType(a.kty);
  if (!type) return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("no key type \"{}\"", a.kty));
  request.set_type(*type);
  if (!a.curve.empty()) {
    auto curve = ParseCurve(a.curve);
    if (!curve) return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("no curve \"{}\"", a.curve));
    request.set_curve(*curve);
  }
  if (a.size) request.set_size_bits(*a.size);
  if (a.disabled) request.set_enabled(false);
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  HSM_RETURN_IF_ERROR(AddOperations(a.ops, request));
  HSM_RETURN_IF_ERROR(AddTags(a.tags, request));
  HSM_RETURN_IF_ERROR(AddDates(a, request));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintKey(client->CreateKey(request));
}

absl::Status ShowKey(const KeyArguments& a) {
  v1::GetKeyRequest request;
  request.set_name(a.name);
  request.set_version(a.version);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintKey(client->GetKey(request));
}

// Prints all pages `next` gives, or the first `max_results` keys; `add` puts one into both forms.
template <typename Next, typename Add>
absl::Status PrintPages(uint32_t max_results, std::vector<std::string> heading, Next next, Add add) {
  Json keys = Json::Array();
  std::vector<std::vector<std::string>> rows = {std::move(heading)};
  std::string token;
  uint32_t shown = 0;
  for (int page = 0; page < kPagesMax; ++page) {
    HSM_ASSIGN_OR_RETURN(auto response, next(token));
    for (const auto& key : response.keys()) {
      if (max_results != 0 && shown == max_results) break;
      ++shown;
      add(key, keys, rows);
    }
    token = response.next_page_token();
    if (token.empty() || (max_results != 0 && shown == max_results)) break;
  }
  Print(Json::Object({{"keys", keys}}), Columns(rows));
  return absl::OkStatus();
}

template <typename Next>
absl::Status PrintList(uint32_t max_results, Next next) {
  return PrintPages(
      max_results, {"NAME", "VERSION", "TYPE", "ENABLED", "CREATED", "EXPIRES"}, next,
      [](const v1::Key& key, Json& keys, std::vector<std::vector<std::string>>& rows) {
        keys.Add(KeyJson(key));
        rows.push_back({key.name(), key.version(), KeyTypeName(key.public_key().type()),
                        key.attributes().enabled() ? "yes" : "no", TimeText(key.attributes().created()),
                        TimeText(key.attributes().expires())});
      });
}

uint32_t PageSize(uint32_t max_results) { return max_results == 0 ? 500 : std::min(max_results, 500u); }

absl::Status ListKeys(const KeyArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintList(a.max_results, [&](const std::string& token) {
    v1::ListKeysRequest request;
    request.set_page_size(PageSize(a.max_results));
    request.set_page_token(token);
    return client->ListKeys(request);
  });
}

absl::Status ListVersions(const KeyArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintList(a.max_results, [&](const std::string& token) {
    v1::ListKeyVersionsRequest request;
    request.set_name(a.name);
    request.set_page_token(token);
    return client->ListKeyVersions(request);
  });
}

absl::Status SetAttributes(const KeyArguments& a) {
  v1::SetKeyAttributesRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  if (a.enabled) request.set_enabled(*a.enabled == "true");
  if (a.revision) request.set_revision(*a.revision);
  HSM_RETURN_IF_ERROR(AddDates(a, request));
  HSM_RETURN_IF_ERROR(AddOperations(a.ops, request));
  request.set_set_operations(!a.ops.empty());
  HSM_RETURN_IF_ERROR(AddTags(a.tags, request));
  request.set_set_tags(!a.tags.empty() || a.clear_tags);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintKey(client->SetKeyAttributes(request));
}

absl::Status RotateKey(const KeyArguments& a) {
  v1::RotateKeyRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintKey(client->RotateKey(request));
}

absl::Status DeleteKey(const KeyArguments& a) {
  v1::DeleteKeyRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintDeleted(client->DeleteKey(request));
}

absl::Status ShowDeleted(const KeyArguments& a) {
  v1::GetDeletedKeyRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintDeleted(client->GetDeletedKey(request));
}

absl::Status ListDeleted(const KeyArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintPages(
      a.max_results, {"NAME", "VERSION", "TYPE", "DELETED", "PURGE"},
      [&](const std::string& token) {
        v1::ListDeletedKeysRequest request;
        request.set_page_size(PageSize(a.max_results));
        request.set_page_token(token);
        return client->ListDeletedKeys(request);
      },
      [](const v1::DeletedKey& deleted, Json& keys, std::vector<std::vector<std::string>>& rows) {
        const v1::Key& key = deleted.key();
        keys.Add(DeletedKeyJson(deleted));
        rows.push_back({key.name(), key.version(), KeyTypeName(key.public_key().type()),
                        TimeText(deleted.deleted()), TimeText(deleted.scheduled_purge())});
      });
}

absl::Status RecoverKey(const KeyArguments& a) {
  v1::RecoverDeletedKeyRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  return PrintKey(client->RecoverDeletedKey(request));
}

absl::Status PurgeKey(const KeyArguments& a) {
  v1::PurgeDeletedKeyRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(*request.mutable_op_id(), ParseOpIdOption(a.op_id));
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::PurgeDeletedKeyResponse purged, client->PurgeDeletedKey(request));
  Print(
      Json::Object({{"name", purged.name()}, {"versions", purged.versions()}, {"version", purged.version()}}),
      Fields({{"purged", purged.name()}, {"versions destroyed", std::to_string(purged.versions())}}));
  return absl::OkStatus();
}

absl::Status ProveKey(const KeyArguments& a) {
  v1::ProveKeyRequest request;
  request.set_name(a.name);
  request.set_version(a.version);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::ProveKeyResponse proofs, client->ProveKey(request));
  Print(ProofsJson(a.name, proofs), ProofsTable(proofs));
  return absl::OkStatus();
}

Command Verb(Command& key, const std::string& name, const std::string& about, const Arguments& a,
             absl::Status (*action)(const KeyArguments&)) {
  Command verb = key.Sub(name, about);
  verb.Does([a, action] { return action(*a); });
  return verb;
}

void NameOption(Command& verb, const Arguments& a) {
  verb.Text("-n,--name", a->name, "name of the key").Required();
}
void VersionOption(Command& verb, const Arguments& a) {
  verb.Text("--version", a->version, "32 hex digits; the latest if left out");
}
void OpIdOption(Command& verb, const Arguments& a) {
  verb.Text(
      "--op-id", a->op_id,
      "the same id again has the effect only once; 32 hex digits, of which the first 12 are the time in ms");
}
void PolicyOptions(Command& verb, const Arguments& a) {
  verb.Texts("--ops", a->ops, "operations allowed: encrypt decrypt sign verify wrapKey unwrapKey");
  verb.Texts("--tags", a->tags, "name=value ...");
  verb.Text("--not-before", a->not_before, "UTC time from which the key may be used; 0 removes");
  verb.Text("--expires", a->expires, "UTC time from which it may not; 0 removes");
}

}  // namespace

void AddKeyCommands(Command& root) {
  Command key = root.Sub("key", "Keys: make, look at, change, rotate, delete, prove, use");
  auto a = std::make_shared<KeyArguments>();

  Command create =
      Verb(key, "create", "Make a key on all partitions, proved on a majority at least", a, &CreateKey);
  NameOption(create, a);
  create.Text("--kty", a->kty, "key type").OneOf({"EC-HSM", "RSA-HSM", "oct-HSM", "EC", "RSA", "oct"});
  create.Text("--curve", a->curve, "of an EC key; P-256 if left out")
      .OneOf({"P-256", "P-384", "P-521", "P-256K", "Ed25519"});
  create.Number("--size", a->size, "bits: RSA 2048, 3072, 4096; oct 128, 192, 256");
  create.Flag("--disabled", a->disabled, "make it disabled");
  PolicyOptions(create, a);
  OpIdOption(create, a);
  create.Example("qhsm key create --name invoices --kty EC-HSM --curve P-256");
  create.Example(
      "qhsm key create --name archive --kty RSA-HSM --size 3072 --ops sign verify --tags team=billing");
  create.Example("qhsm key create --name session --kty oct-HSM --size 256 --expires 2027-01-31T00:00:00Z");

  Command show = Verb(key, "show", "Show a key, its public part and attributes", a, &ShowKey);
  NameOption(show, a);
  VersionOption(show, a);
  show.Example("qhsm key show --name invoices -o json --query key.kid");

  Command list = Verb(key, "list", "List all keys", a, &ListKeys);
  list.Number("--max-results", a->max_results, "stop after that many");
  list.Example("qhsm key list --query keys[].name");

  Command versions = Verb(key, "list-versions", "List the versions of a key", a, &ListVersions);
  NameOption(versions, a);
  versions.Number("--max-results", a->max_results, "stop after that many");

  Command set =
      Verb(key, "set-attributes", "Enable, disable, change dates, operations or tags", a, &SetAttributes);
  NameOption(set, a);
  set.Text("--enabled", a->enabled, "may the key be used").OneOf({"true", "false"});
  set.Number("--revision", a->revision, "change it only if this still is its revision");
  set.Flag("--clear-tags", a->clear_tags, "remove all tags");
  PolicyOptions(set, a);
  OpIdOption(set, a);
  set.Example(
      "qhsm key set-attributes --name invoices --enabled false     # takes effect everywhere before this "
      "returns");
  set.Example("qhsm key set-attributes --name invoices --ops verify --expires 2027-01-31");

  Command rotate = Verb(key, "rotate", "Make a new version, which is then the latest", a, &RotateKey);
  NameOption(rotate, a);
  OpIdOption(rotate, a);

  Command remove =
      Verb(key, "delete", "Delete a key with all its versions; it can be recovered", a, &DeleteKey);
  NameOption(remove, a);
  OpIdOption(remove, a);
  remove.Example(
      "qhsm key delete --name invoices     # nobody can use it when this returns; its name stays taken");

  Command deleted = Verb(key, "list-deleted", "List the keys that can be recovered", a, &ListDeleted);
  deleted.Number("--max-results", a->max_results, "stop after that many");
  deleted.Example("qhsm key list-deleted --query keys[].name");

  Command show_deleted =
      Verb(key, "show-deleted", "Show a deleted key and when it is purged by itself", a, &ShowDeleted);
  NameOption(show_deleted, a);

  Command recover = Verb(key, "recover", "Bring a deleted key back as it was", a, &RecoverKey);
  NameOption(recover, a);
  OpIdOption(recover, a);

  Command purge =
      Verb(key, "purge", "Destroy a deleted key for good, unless purge protection holds", a, &PurgeKey);
  NameOption(purge, a);
  OpIdOption(purge, a);

  Command prove = Verb(key, "prove", "Ask every partition to prove that it holds the very key", a, &ProveKey);
  NameOption(prove, a);
  VersionOption(prove, a);
  prove.Example("qhsm key prove --name invoices --query partitions[].result");

  AddCryptoCommands(key, root);
}

}  // namespace hsm::cli
