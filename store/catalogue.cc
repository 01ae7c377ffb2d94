#include "store/catalogue.h"

#include <fmt/format.h>

#include "common/limits.h"

namespace hsm {
namespace store_key {

std::string Hsm() { return "/hsm"; }
std::string Commit() { return "/commit"; }
std::string Time() { return "/time"; }
std::string DataSetPrefix(DataSet data_set) { return fmt::format("/ds/{:016x}/", data_set); }
std::string HeadPrefix(DataSet data_set) { return DataSetPrefix(data_set) + "head/"; }
std::string Head(DataSet data_set, std::string_view name) { return HeadPrefix(data_set).append(name); }
std::string VersionPrefix(DataSet data_set) { return DataSetPrefix(data_set) + "version/"; }
std::string VersionPrefix(DataSet data_set, const KeyUid& uid) {
  return VersionPrefix(data_set) + uid.ToHex() + "/";
}
std::string Version(DataSet data_set, const KeyUid& uid, uint32_t ordinal) {
  return VersionPrefix(data_set, uid) + fmt::format("{:010}", ordinal);
}
std::string UidPrefix(DataSet data_set) { return DataSetPrefix(data_set) + "uid/"; }
std::string Uid(DataSet data_set, const KeyUid& uid) { return UidPrefix(data_set) + uid.ToHex(); }
std::string TombstonePrefix() { return "/tomb/"; }
std::string Tombstone(const KeyUid& uid) { return TombstonePrefix() + uid.ToHex(); }
std::string OpPrefix() { return "/op/"; }
std::string Op(const OpId& op_id, const PrincipalId& principal) {
  return OpPrefix() + op_id.ToHex() + "/" + principal.ToHex();
}
std::string AbortedPrefix() { return "/aborted/"; }
std::string Aborted(const OpId& attempt) { return AbortedPrefix() + attempt.ToHex(); }
std::string JobPrefix() { return "/job/"; }
std::string Job(const JobId& id) { return JobPrefix() + id.ToHex(); }
std::string AuditPrefix() { return "/audit/"; }
std::string Audit(uint64_t sequence) { return AuditPrefix() + fmt::format("{:020}", sequence); }
std::string UseAnchor(std::string_view node) { return std::string("/use/").append(node); }
std::string Partition(std::string_view name) { return std::string("/partition/").append(name); }
std::string Roles() { return "/roles"; }
std::string RoleDefinitionPrefix() { return "/role/definition/"; }
std::string RoleDefinition(const RoleId& id) { return RoleDefinitionPrefix() + id.ToHex(); }
std::string RoleAssignmentPrefix() { return "/role/assignment/"; }
std::string RoleAssignment(const AssignmentId& id) { return RoleAssignmentPrefix() + id.ToHex(); }

}  // namespace store_key

namespace {

// The versions of one key, read by `scan` page by page, appended to `records`.
template <typename ScanCall>
absl::Status AppendVersions(const std::string& prefix, ScanCall scan, rpc::KeyRecords& records) {
  std::string after;
  while (true) {
    HSM_ASSIGN_OR_RETURN(StorePage page, scan(prefix, after, limits::kStorePageMax));
    for (const StoreRecord& record : page.records) {
      HSM_ASSIGN_OR_RETURN(auto row, ParseRow<rpc::StoredVersion>(record));
      *records.add_versions() = std::move(*row.value.mutable_record());
    }
    if (!page.more || page.records.empty()) return absl::OkStatus();
    after = page.records.back().key;
  }
}

template <typename ScanCall>
absl::StatusOr<CatalogueKey> WithVersions(DataSet data_set, const StoreRecord& head, ScanCall scan) {
  CatalogueKey out;
  out.name = head.key.substr(store_key::HeadPrefix(data_set).size());
  out.head_revision = head.mod_revision;
  HSM_ASSIGN_OR_RETURN(auto row, ParseRow<rpc::SealedRecord>(head));
  HSM_ASSIGN_OR_RETURN(KeyHead decoded, DecodeHead(row.value));
  *out.records.mutable_head() = std::move(row.value);
  HSM_RETURN_IF_ERROR(AppendVersions(store_key::VersionPrefix(data_set, decoded.uid), scan, out.records));
  return out;
}

}  // namespace

absl::StatusOr<CatalogueKeys> CatalogueSnapshot::Keys(DataSet data_set, const std::string& after_name,
                                                      size_t limit) {
  const std::string prefix = store_key::HeadPrefix(data_set);
  HSM_ASSIGN_OR_RETURN(
      StorePage page,
      snapshot_->Scan(prefix, after_name.empty() ? std::string() : prefix + after_name, limit));
  CatalogueKeys out;
  out.more = page.more;
  auto scan = [this](const std::string& p, const std::string& a, size_t l) {
    return snapshot_->Scan(p, a, l);
  };
  for (const StoreRecord& record : page.records) {
    HSM_ASSIGN_OR_RETURN(CatalogueKey key, WithVersions(data_set, record, scan));
    out.keys.push_back(std::move(key));
  }
  return out;
}

absl::StatusOr<CataloguePage<rpc::StoredTombstone>> CatalogueSnapshot::Tombstones(
    const std::string& after_key, size_t limit) {
  HSM_ASSIGN_OR_RETURN(StorePage page, snapshot_->Scan(store_key::TombstonePrefix(), after_key, limit));
  CataloguePage<rpc::StoredTombstone> out;
  out.more = page.more;
  out.revision = page.revision;
  for (const StoreRecord& record : page.records) {
    HSM_ASSIGN_OR_RETURN(auto row, ParseRow<rpc::StoredTombstone>(record));
    out.rows.push_back(std::move(row));
  }
  return out;
}

absl::StatusOr<CataloguePage<rpc::SealedRecord>> Catalogue::Heads(DataSet data_set,
                                                                  const std::string& after_name,
                                                                  size_t limit) {
  const std::string prefix = store_key::HeadPrefix(data_set);
  return Scan<rpc::SealedRecord>(prefix, after_name.empty() ? std::string() : prefix + after_name, limit);
}

absl::StatusOr<CataloguePage<rpc::StoredVersion>> Catalogue::Versions(DataSet data_set, const KeyUid& uid,
                                                                      uint32_t after_ordinal, size_t limit) {
  return Scan<rpc::StoredVersion>(store_key::VersionPrefix(data_set, uid),
                                  after_ordinal == 0 ? "" : store_key::Version(data_set, uid, after_ordinal),
                                  limit);
}

absl::StatusOr<std::optional<CatalogueKey>> Catalogue::Key(DataSet data_set, const std::string& name) {
  const std::string key = store_key::Head(data_set, name);
  // Head and versions are separate reads: a rotation in between shows as a version the head does not count
  // yet, or the other way round; then both are read again.
  for (int attempt = 0; attempt < 8; ++attempt) {
    HSM_ASSIGN_OR_RETURN(std::vector<StoreRecord> found, store_.Get(std::span(&key, 1)));
    if (found.empty()) return std::optional<CatalogueKey>();
    auto scan = [this](const std::string& p, const std::string& a, size_t l) { return store_.Scan(p, a, l); };
    HSM_ASSIGN_OR_RETURN(CatalogueKey out, WithVersions(data_set, found[0], scan));
    HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(out.records.head()));
    if (head.version_count == static_cast<uint32_t>(out.records.versions_size())) {
      return std::optional<CatalogueKey>(std::move(out));
    }
  }
  return Error(v1::REASON_RECORD_CORRUPT,
               "the catalogue has another number of versions of " + name + " than its head");
}

absl::StatusOr<std::unique_ptr<CatalogueSnapshot>> Catalogue::Snapshot() {
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<StoreSnapshot> snapshot, store_.Snapshot());
  return std::make_unique<CatalogueSnapshot>(std::move(snapshot));
}

StoreOp PutVersionOp(DataSet data_set, const VersionRecord& version, const rpc::SealedRecord& record,
                     const std::vector<std::string>& proved) {
  rpc::StoredVersion stored;
  *stored.mutable_record() = record;
  for (const std::string& name : proved) stored.add_proved(name);
  return StoreOp::Put(store_key::Version(data_set, version.uid, version.ordinal), stored.SerializeAsString());
}

absl::StatusOr<std::vector<StoreOp>> PutKeyOps(DataSet data_set, const rpc::KeyRecords& records,
                                               const std::vector<std::string>& proved) {
  HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(records.head()));
  std::vector<StoreOp> ops;
  for (const rpc::SealedRecord& record : records.versions()) {
    HSM_ASSIGN_OR_RETURN(VersionRecord version, DecodeVersion(record));
    if (version.uid != head.uid) return Error(v1::REASON_RECORD_CORRUPT, "a version belongs to another key");
    ops.push_back(PutVersionOp(data_set, version, record, proved));
  }
  ops.push_back(StoreOp::Put(store_key::Uid(data_set, head.uid), head.name));
  ops.push_back(StoreOp::Put(store_key::Head(data_set, head.name), records.head().SerializeAsString()));
  return ops;
}

}  // namespace hsm
