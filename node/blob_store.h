#pragma once
// The durable store beside the token: the node's state, its sealed records by data set, tombstones,
// quarantine. SQLite in WAL mode with synchronous=FULL; what Commit returned OK for survives a power loss.
// Callers that come together share one transaction (group commit). Nothing is cached here: node/key_index
// keeps what the hot path needs. Thread-safe.
//
// Rules that hold inside each transaction, whatever order callers come in:
//   - an ACTIVE head is replaced only by a higher incarnation or, within one, a higher revision;
//   - nothing of an incarnation at or below the uid's tombstone is ever stored;
//   - an ACTIVE version record is never replaced or dropped but by a tombstone, a quarantine or the end of
//   its data set.
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "common/record.h"
#include "common/sqlite.h"
#include "hsm/internal/v1/sealed_record.pb.h"

namespace hsm {

using AttemptId = Id16<struct AttemptTag>;  // of one try to install; zero = ACTIVE

struct HeadRow {
  DataSet data_set = 0;
  AttemptId attempt;  // zero = ACTIVE
  KeyUid uid;
  uint32_t incarnation = 1;
  Revision revision = 0;
  KeyState state = KeyState::kActive;
  internal::v1::SealedRecord sealed;
};
struct VersionRow {
  DataSet data_set = 0;
  AttemptId attempt;
  KeyUid uid;
  uint32_t incarnation = 1;
  KeyVersion version;
  uint32_t ordinal = 0;
  bool proved = false;
  std::string check_value;  // 8 bytes for symmetric keys that were proved, else empty
  internal::v1::SealedRecord sealed;
};
struct TombstoneRow {
  KeyUid uid;
  uint32_t incarnation = 0;  // this and all below are gone for ever
};

// One durable step, all or nothing, done in the order given.
class BlobBatch {
 public:
  struct SetStateOp {
    std::string name, value;
  };
  struct RaiseStateOp {
    std::string name;
    uint64_t number;
  };
  struct ProvedOp {
    DataSet data_set;
    KeyUid uid;
    KeyVersion version;
    bool proved;
    std::string check_value;
  };
  struct AttemptOp {
    AttemptId attempt;
    bool activate;
  };
  struct TombstoneOp {
    HeadRow head;
  };
  struct QuarantineOp {
    DataSet data_set;
    KeyUid uid;
    int64_t at;
  };
  struct ClearProvedOp {};
  struct DropDataSetOp {
    DataSet data_set;
  };
  using Op = std::variant<SetStateOp, RaiseStateOp, HeadRow, VersionRow, ProvedOp, AttemptOp, TombstoneOp,
                          QuarantineOp, ClearProvedOp, DropDataSetOp>;

  void SetState(std::string name, std::string value) {
    ops_.push_back(SetStateOp{std::move(name), std::move(value)});
  }
  // A number that never falls, whatever order callers come in.
  void RaiseState(std::string name, uint64_t number) {
    ops_.push_back(RaiseStateOp{std::move(name), number});
  }
  void PutHead(HeadRow row) { ops_.push_back(std::move(row)); }
  void PutVersion(VersionRow row) { ops_.push_back(std::move(row)); }
  void SetProved(DataSet data_set, const KeyUid& uid, const KeyVersion& version, bool proved,
                 std::string check_value) {
    ops_.push_back(ProvedOp{data_set, uid, version, proved, std::move(check_value)});
  }
  void Activate(const AttemptId& attempt) { ops_.push_back(AttemptOp{attempt, true}); }
  void Discard(const AttemptId& attempt) { ops_.push_back(AttemptOp{attempt, false}); }
  // The head becomes the tombstone; its versions of this and lower incarnations go, in every data set.
  void Tombstone(HeadRow head) { ops_.push_back(TombstoneOp{std::move(head)}); }
  void Quarantine(DataSet data_set, const KeyUid& uid, int64_t at) {
    ops_.push_back(QuarantineOp{data_set, uid, at});
  }
  void ClearProved() { ops_.push_back(ClearProvedOp{}); }
  void DropDataSet(DataSet data_set) { ops_.push_back(DropDataSetOp{data_set}); }

  void Append(BlobBatch other) {
    ops_.insert(ops_.end(), std::make_move_iterator(other.ops_.begin()),
                std::make_move_iterator(other.ops_.end()));
  }

  bool empty() const { return ops_.empty(); }
  const std::vector<Op>& ops() const { return ops_; }

 private:
  std::vector<Op> ops_;
};

class BlobStore {
 public:
  struct Options {
    std::string path;  // of the database file; made if absent, mode 0600
    std::string vfs;   // "" = the operating system's
  };
  // RECORD_CORRUPT when the file is damaged; STORE_FAILED.
  static absl::StatusOr<std::unique_ptr<BlobStore>> Open(const Options& options);
  ~BlobStore();

  // OK = durable. STORE_FULL: nothing was done. STORE_FAILED: unknown, and the store is `Broken` from then
  // on: the process must end and read again what the disk has.
  absl::Status Commit(const BlobBatch& batch);
  bool Broken() const;

  std::string State(const std::string& name) const;  // "" if never set
  uint64_t StateNumber(const std::string& name) const;

  // Of one data set, ACTIVE and STAGED, in no order. `row.sealed` is filled in; versions come without it.
  absl::Status ForEachHead(DataSet data_set, const std::function<absl::Status(const HeadRow&)>& visit);
  absl::Status ForEachVersion(DataSet data_set, const std::function<absl::Status(const VersionRow&)>& visit);
  absl::StatusOr<std::vector<TombstoneRow>> Tombstones();
  absl::StatusOr<std::vector<DataSet>> DataSets();
  absl::StatusOr<uint64_t> QuarantinedCount();

  // NOT_FOUND if it is not there.
  absl::StatusOr<HeadRow> ReadHead(DataSet data_set, const KeyUid& uid, const AttemptId& attempt);
  absl::StatusOr<VersionRow> ReadVersion(DataSet data_set, const KeyUid& uid, const KeyVersion& version);

  // Rows that changes went through without an index, while nothing commits; only ClearProved may.
  int64_t FullScanStepsForTest() const;

 private:
  struct Waiter;
  struct Writer;
  struct Reader;
  BlobStore();
  absl::Status ApplyAll(const std::vector<Waiter*>& taken);

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Waiter*> queue_ HSM_GUARDED_BY(mutex_);
  bool leading_ HSM_GUARDED_BY(mutex_) = false;
  bool broken_ HSM_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::string> state_ HSM_GUARDED_BY(mutex_);
  std::unique_ptr<Writer> writer_;  // the leader's alone
  mutable Mutex read_mutex_;
  std::unique_ptr<Reader> reader_ HSM_GUARDED_BY(read_mutex_);
};

}  // namespace hsm
