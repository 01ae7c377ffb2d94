#pragma once
// The typed layer over Store: which keys exist, what their values are, and reads in pages. All key strings of
// the store are made here. Writes are built as StoreOps and go through the one committer of the coordinator
// (coordinator/committer.h). Thread-safe; every read is one or more store calls.
//
//   /hsm                                 StoredHsm
//   /commit                              StoredCommit: change counter and audit head
//   /time                                StoredTime
//   /ds/DS/head/NAME                     SealedRecord (head)         DS = data set, 16 hex digits
//   /ds/DS/version/UID/ORDINAL           StoredVersion               UID = 32 hex digits, ORDINAL = 10 digits
//   /ds/DS/uid/UID                       NAME
//   /tomb/UID                            StoredTombstone             of all data sets
//   /op/OPID/PRINCIPAL                   StoredOp                    op ids begin with their time: oldest
//   first /aborted/ATTEMPT                     StoredAborted /job/ID                              StoredJob
//   /audit/SEQUENCE                      hsm.v1.AuditEntry           20 digits
//   /use/NODE                            StoredUseAnchor
//   /partition/NAME                      StoredPartition
//   /roles                               StoredRoles                 rewritten by every change of roles
//   /role/definition/GUID                StoredRoleDefinition        GUID = 32 hex digits
//   /role/assignment/GUID                StoredRoleAssignment
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/error.h"
#include "common/ids.h"
#include "common/record.h"
#include "common/status_macros.h"
#include "hsm/internal/v1/catalogue.pb.h"
#include "store/store.h"

namespace hsm {

namespace rpc = internal::v1;

namespace store_key {
std::string Hsm();
std::string Commit();
std::string Time();
std::string HeadPrefix(DataSet data_set);
std::string Head(DataSet data_set, std::string_view name);
std::string VersionPrefix(DataSet data_set);
std::string VersionPrefix(DataSet data_set, const KeyUid& uid);
std::string Version(DataSet data_set, const KeyUid& uid, uint32_t ordinal);
std::string UidPrefix(DataSet data_set);
std::string Uid(DataSet data_set, const KeyUid& uid);
std::string TombstonePrefix();
std::string Tombstone(const KeyUid& uid);
std::string OpPrefix();
std::string Op(const OpId& op_id, const PrincipalId& principal);
std::string AbortedPrefix();
std::string Aborted(const OpId& attempt);
std::string JobPrefix();
std::string Job(const JobId& id);
std::string AuditPrefix();
std::string Audit(uint64_t sequence);
std::string UseAnchor(std::string_view node);
std::string Partition(std::string_view name);
std::string Roles();
std::string RoleDefinitionPrefix();
std::string RoleDefinition(const RoleId& id);
std::string RoleAssignmentPrefix();
std::string RoleAssignment(const AssignmentId& id);
std::string DataSetPrefix(DataSet data_set);  // everything of one data set, for erasing it
}  // namespace store_key

template <typename Message>
struct CatalogueRow {
  std::string key;
  Message value;
  StoreRevision create_revision = 0;
  StoreRevision mod_revision = 0;
};
template <typename Message>
struct CataloguePage {
  std::vector<CatalogueRow<Message>> rows;
  bool more = false;  // continue after rows.back().key
  StoreRevision revision = 0;
};
// One key with all its versions, as sync, backup and restore move it.
struct CatalogueKey {
  std::string name;
  rpc::KeyRecords records;
  StoreRevision head_revision = 0;  // mod_revision of the head's row
};
struct CatalogueKeys {
  std::vector<CatalogueKey> keys;
  bool more = false;  // continue after keys.back().name
};

// A frozen view for backups and for loading at start: the catalogue as it was at revision().
class CatalogueSnapshot {
 public:
  explicit CatalogueSnapshot(std::unique_ptr<StoreSnapshot> snapshot) : snapshot_(std::move(snapshot)) {}
  StoreRevision revision() const { return snapshot_->revision(); }
  // Keys of `data_set` in name order, greater than `after_name`, with all versions. limit <= kStorePageMax.
  absl::StatusOr<CatalogueKeys> Keys(DataSet data_set, const std::string& after_name, size_t limit);
  absl::StatusOr<CataloguePage<rpc::StoredTombstone>> Tombstones(const std::string& after_key, size_t limit);

 private:
  std::unique_ptr<StoreSnapshot> snapshot_;
};

class Catalogue {
 public:
  explicit Catalogue(Store& store) : store_(store) {}
  Store& store() { return store_; }

  // One row; nothing if absent. RECORD_CORRUPT if the value does not parse.
  template <typename Message>
  absl::StatusOr<std::optional<CatalogueRow<Message>>> Read(const std::string& key);
  template <typename Message>
  absl::StatusOr<CataloguePage<Message>> Scan(const std::string& prefix, const std::string& after,
                                              size_t limit);

  absl::StatusOr<std::optional<CatalogueRow<rpc::StoredHsm>>> Hsm() {
    return Read<rpc::StoredHsm>(store_key::Hsm());
  }
  // Heads in name order, greater than `after_name`.
  absl::StatusOr<CataloguePage<rpc::SealedRecord>> Heads(DataSet data_set, const std::string& after_name,
                                                         size_t limit);
  // Versions of one key in ordinal order, greater than `after_ordinal`.
  absl::StatusOr<CataloguePage<rpc::StoredVersion>> Versions(DataSet data_set, const KeyUid& uid,
                                                             uint32_t after_ordinal, size_t limit);
  // Head and all versions of one name; nothing if absent.
  absl::StatusOr<std::optional<CatalogueKey>> Key(DataSet data_set, const std::string& name);
  absl::StatusOr<std::unique_ptr<CatalogueSnapshot>> Snapshot();

 private:
  Store& store_;
};

// Ops that write one key whole: head, uid index, versions. For create and restore. At most 94 versions' worth
// fits one transaction; split a key with more by writing versions first and the head last.
absl::StatusOr<std::vector<StoreOp>> PutKeyOps(DataSet data_set, const rpc::KeyRecords& records,
                                               const std::vector<std::string>& proved);
StoreOp PutVersionOp(DataSet data_set, const VersionRecord& version, const rpc::SealedRecord& record,
                     const std::vector<std::string>& proved);

// --- templates ---------------------------------------------------------------------------------------------
template <typename Message>
absl::StatusOr<CatalogueRow<Message>> ParseRow(const StoreRecord& record) {
  CatalogueRow<Message> row{record.key, {}, record.create_revision, record.mod_revision};
  if (!row.value.ParseFromString(record.value)) {
    return Error(v1::REASON_RECORD_CORRUPT, "the store's value at " + record.key + " does not parse");
  }
  return row;
}

template <typename Message>
absl::StatusOr<std::optional<CatalogueRow<Message>>> Catalogue::Read(const std::string& key) {
  HSM_ASSIGN_OR_RETURN(std::vector<StoreRecord> found, store_.Get(std::span(&key, 1)));
  if (found.empty()) return std::optional<CatalogueRow<Message>>();
  HSM_ASSIGN_OR_RETURN(CatalogueRow<Message> row, ParseRow<Message>(found[0]));
  return std::optional<CatalogueRow<Message>>(std::move(row));
}

template <typename Message>
absl::StatusOr<CataloguePage<Message>> Catalogue::Scan(const std::string& prefix, const std::string& after,
                                                       size_t limit) {
  HSM_ASSIGN_OR_RETURN(StorePage page, store_.Scan(prefix, after, limit));
  CataloguePage<Message> out;
  out.more = page.more;
  out.revision = page.revision;
  for (const StoreRecord& record : page.records) {
    HSM_ASSIGN_OR_RETURN(CatalogueRow<Message> row, ParseRow<Message>(record));
    out.rows.push_back(std::move(row));
  }
  return out;
}

}  // namespace hsm
