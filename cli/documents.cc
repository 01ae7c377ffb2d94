#include "cli/documents.h"

#include <algorithm>
#include <vector>

#include "cli/output.h"
#include "common/error.h"
#include "common/record.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// "PARTITION_STATE_READY" without its prefix.
template <typename Enum>
std::string Bare(const std::string& (*name)(Enum), Enum value, std::string_view prefix) {
  std::string text = name(value);
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

Json TextOrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

std::string ProofText(v1::ProofResult result) {
  std::string text = Lower(Bare(&v1::ProofResult_Name<v1::ProofResult>, result, "PROOF_RESULT_"));
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

Json AttributesJson(const v1::KeyAttributes& attributes) {
  return Json::Object({{"enabled", attributes.enabled()},
                       {"nbf", attributes.has_not_before() ? Json(attributes.not_before()) : Json()},
                       {"exp", attributes.has_expires() ? Json(attributes.expires()) : Json()},
                       {"created", attributes.created()},
                       {"updated", attributes.updated()},
                       {"recoverable_days", attributes.recoverable_days()},
                       {"recovery_level", TextOrNull(attributes.recovery_level())},
                       {"exportable", attributes.exportable()}});
}

std::string OperationsText(const v1::Key& key) {
  std::string text;
  for (int operation : key.operations()) {
    text += (text.empty() ? "" : ",") + OperationName(static_cast<v1::KeyOperation>(operation));
  }
  return text;
}

}  // namespace

std::string RatioText(bool present, double ratio) {
  return present ? fmt::format("{:.0f} %", ratio * 100) : "-";
}
std::string SecondsText(bool present, double seconds) {
  return present ? fmt::format("{:.1f} s", seconds) : "-";
}

Json KeyJson(const v1::Key& key) {
  const v1::PublicKey& part = key.public_key();
  Json operations = Json::Array();
  for (int operation : key.operations())
    operations.Add(OperationName(static_cast<v1::KeyOperation>(operation)));
  Json jwk = Json::Object({{"kid", key.kid()}, {"kty", KeyTypeName(part.type())}, {"key_ops", operations}});
  if (part.type() == v1::KEY_TYPE_EC_HSM) jwk.Add("crv", CurveName(part.curve()));
  jwk.Add("size_bits", part.size_bits());
  AddPublicNumbers(part, jwk);
  Json tags = Json::Object();
  std::vector<std::pair<std::string, std::string>> sorted(key.tags().begin(), key.tags().end());
  std::sort(sorted.begin(), sorted.end());
  for (const auto& [name, value] : sorted) tags.Add(name, value);
  return Json::Object({{"key", jwk},
                       {"attributes", AttributesJson(key.attributes())},
                       {"tags", tags},
                       {"name", key.name()},
                       {"version", key.version()},
                       {"revision", key.revision()}});
}

std::string KeyTable(const v1::Key& key) {
  const v1::PublicKey& part = key.public_key();
  const v1::KeyAttributes& attributes = key.attributes();
  std::string kind = KeyTypeName(part.type());
  kind += part.type() == v1::KEY_TYPE_EC_HSM ? " " + CurveName(part.curve())
                                             : fmt::format(" {}", part.size_bits());
  std::vector<std::pair<std::string, std::string>> fields = {
      {"name", key.name()},
      {"version", key.version()},
      {"kid", key.kid()},
      {"type", kind},
      {"operations", OperationsText(key)},
      {"enabled", attributes.enabled() ? "yes" : "no"},
      {"created", TimeText(attributes.created())},
      {"not before", TimeText(attributes.not_before())},
      {"expires", TimeText(attributes.expires())}};
  for (const auto& [name, value] : key.tags()) fields.emplace_back("tag " + name, value);
  return Fields(fields);
}

Json DeletedKeyJson(const v1::DeletedKey& deleted) {
  Json json = KeyJson(deleted.key());
  json.Add("deleted_date", deleted.deleted());
  json.Add("scheduled_purge_date", deleted.scheduled_purge());
  json.Add("recovery_id", deleted.recovery_id());
  return json;
}

std::string DeletedKeyTable(const v1::DeletedKey& deleted) {
  return KeyTable(deleted.key()) + Fields({{"deleted", TimeText(deleted.deleted())},
                                           {"purge", TimeText(deleted.scheduled_purge())},
                                           {"recovery", deleted.key().attributes().recovery_level()}});
}

Json ProofsJson(std::string_view name, const v1::ProveKeyResponse& proofs) {
  Json partitions = Json::Array();
  for (const auto& partition : proofs.partitions()) {
    partitions.Add(Json::Object({{"name", partition.name()},
                                 {"result", ProofText(partition.result())},
                                 {"message", TextOrNull(partition.message())}}));
  }
  return Json::Object({{"name", name}, {"partitions", partitions}});
}

std::string ProofsTable(const v1::ProveKeyResponse& proofs) {
  std::vector<std::vector<std::string>> rows = {{"PARTITION", "RESULT", "MESSAGE"}};
  for (const auto& partition : proofs.partitions()) {
    rows.push_back({partition.name(), ProofText(partition.result()), partition.message()});
  }
  return Columns(rows);
}

std::string PartitionStateText(v1::PartitionState state) {
  return Bare(&v1::PartitionState_Name<v1::PartitionState>, state, "PARTITION_STATE_");
}

Json PartitionJson(const v1::PartitionStatus& partition) {
  // Never heard of since the coordinator started, or its token cannot be used: its figures are not known,
  // which is not 0.
  const bool unknown = partition.backend().empty();
  auto figure = [unknown](auto value) { return unknown ? Json() : Json(value); };
  return Json::Object({{"name", partition.name()},
                       {"state", PartitionStateText(partition.state())},
                       {"keys", figure(partition.keys())},
                       {"proved", figure(partition.proved())},
                       {"busy", TextOrNull(partition.busy())},
                       {"ops_per_second", figure(partition.ops_per_second())},
                       {"in_flight", partition.in_flight()},
                       {"message", TextOrNull(partition.message())},
                       {"backend", TextOrNull(partition.backend())},
                       {"profile", TextOrNull(partition.profile())},
                       {"address", TextOrNull(partition.address())},
                       {"token_serial", TextOrNull(partition.token_serial())},
                       {"operations_total", figure(partition.operations_total())}});
}

Json StatusJson(const v1::HsmStatus& status) {
  Json partitions = Json::Array(), warnings = Json::Array();
  for (const auto& partition : status.partitions()) partitions.Add(PartitionJson(partition));
  for (const std::string& warning : status.warnings()) warnings.Add(warning);
  return Json::Object(
      {{"name", status.name()},
       {"state", status.state()},
       {"partitions", partitions},
       {"quorum", Json::Object({{"have", status.quorum_have()}, {"need", status.quorum_need()}})},
       {"keys", status.keys()},
       {"deleted_keys", status.deleted_keys()},
       {"versions", status.versions()},
       {"epoch", status.epoch()},
       {"data_set", status.data_set()},
       {"healing", TextOrNull(status.healing())},
       {"active_job", TextOrNull(status.active_job())},
       {"domain_fingerprint", TextOrNull(status.domain_fingerprint())},
       {"warnings", warnings}});
}

std::string StatusTable(const v1::HsmStatus& status) {
  std::string out =
      fmt::format("{}: {}, quorum {} of {} needed, {} keys, {} versions\n", status.name(), status.state(),
                  status.quorum_have(), status.quorum_need(), status.keys(), status.versions());
  if (status.warnings_size() > 0) {
    std::string list;
    for (const std::string& warning : status.warnings()) list += (list.empty() ? "" : ", ") + warning;
    out += "warnings: " + list + "\n";
  }
  if (!status.active_job().empty()) out += "job: " + status.active_job() + "\n";
  return out + PartitionsTable(status);
}

std::string PartitionsTable(const v1::HsmStatus& status) {
  std::vector<std::vector<std::string>> rows = {
      {"PARTITION", "STATE", "KEYS", "PROVED", "OPS/S", "BUSY", "BACKEND", "PROFILE", "ADDRESS", "MESSAGE"}};
  for (const auto& p : status.partitions()) {
    const bool known = !p.backend().empty();
    rows.push_back({p.name(), PartitionStateText(p.state()), known ? fmt::format("{}", p.keys()) : "-",
                    known ? fmt::format("{}", p.proved()) : "-",
                    known ? fmt::format("{:.0f}", p.ops_per_second()) : "-",
                    p.busy().empty() ? "-" : p.busy(), p.backend(), p.profile(), p.address(), p.message()});
  }
  return Columns(rows);
}

Json AuditJson(const v1::ListAuditResponse& page) {
  Json entries = Json::Array();
  for (const auto& entry : page.entries()) {
    entries.Add(Json::Object({{"sequence", entry.sequence()},
                              {"time_ms", entry.time_ms()},
                              {"principal", entry.principal()},
                              {"operation", entry.operation()},
                              {"object", entry.object()},
                              {"outcome", entry.outcome()},
                              {"request_hash", Hex(View(entry.request_hash()))},
                              {"previous", Hex(View(entry.previous()))},
                              {"correlation", fmt::format("{:016x}", entry.correlation())}}));
  }
  return Json::Object({{"entries", entries},
                       {"next", page.next() == 0 ? Json() : Json(page.next())},
                       {"chain_ok", page.chain_ok()}});
}

}  // namespace hsm::cli
