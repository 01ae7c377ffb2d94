#pragma once
// The narrow waist: ordered, revisioned key-value records with guarded transactions. Nothing above it knows
// the engine. Engines: StoreModel (in memory, the oracle), StoreSqlite (the embedded default). All pass one
// conformance suite (tests/contract/store_contract_test.cc). Thread-safe. Limits of common/limits.h hold for
// every engine.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/ids.h"

namespace hsm {

using StoreRevision = int64_t;  // grows by at least 1 with each committed write transaction; 0 = never

struct StoreRecord {
  std::string key, value;
  StoreRevision create_revision = 0, mod_revision = 0;
  bool operator==(const StoreRecord&) const = default;
};

struct StoreGuard {
  enum class Kind { kAbsent, kModRevisionIs, kCreateRevisionIs };
  Kind kind = Kind::kAbsent;
  std::string key;
  StoreRevision revision = 0;
  static StoreGuard Absent(std::string key) { return {Kind::kAbsent, std::move(key), 0}; }
  static StoreGuard ModRevisionIs(std::string key, StoreRevision revision) {
    return {Kind::kModRevisionIs, std::move(key), revision};
  }
};

struct StoreOp {
  enum class Kind { kPut, kDelete };
  Kind kind = Kind::kPut;
  std::string key, value;
  static StoreOp Put(std::string key, std::string value) {
    return {Kind::kPut, std::move(key), std::move(value)};
  }
  static StoreOp Delete(std::string key) { return {Kind::kDelete, std::move(key), {}}; }
};

// Keys are printable ASCII (0x21 to 0x7E) paths, each at most once in `ops`. Reads nothing back unless a
// guard fails. All guards are judged on the state before the transaction. A transaction with operations
// raises the revision by one, even if all it did was to delete what was not there; one with guards only
// raises nothing.
struct StoreTransaction {
  std::vector<StoreGuard> guards;
  std::vector<StoreOp> ops;
  std::vector<std::string> read_on_conflict;
};

enum class StoreOutcome {
  kCommitted,
  kConflict,  // a guard did not hold; nothing changed; `found` has read_on_conflict
  kUnknown,   // may have happened: resubmit until the op record decides
  kRefused,   // certainly did not happen; `status` says why
};
struct StoreCommit {
  StoreOutcome outcome = StoreOutcome::kRefused;
  StoreRevision revision = 0;      // of the commit
  std::vector<StoreRecord> found;  // only those that exist, in the order asked
  absl::Status status;             // OK for kCommitted and kConflict
};

struct StorePage {
  std::vector<StoreRecord>
      records;                 // bytewise ascending; fewer than asked when kStorePageBytesMax is reached
  bool more = false;           // continue with after = records.back().key
  StoreRevision revision = 0;  // state the page shows
};

// A frozen view at one revision; safe while writes go on. Bounded in memory. One thread at a time.
class StoreSnapshot {
 public:
  virtual ~StoreSnapshot() = default;
  virtual StoreRevision revision() const = 0;
  virtual absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after,
                                         size_t limit) = 0;
};

// A hint that something under a prefix changed; never the truth. One thread at a time.
class StoreFeed {
 public:
  virtual ~StoreFeed() = default;
  struct Event {
    StoreRevision revision = 0;
    std::vector<std::string> keys;  // changed or deleted, ascending
    bool gap = false;               // events were lost: scan again
  };
  // Waits at most `timeout`; nothing if none came.
  virtual std::optional<Event> Next(absl::Duration timeout) = 0;
};

// Leadership. `epoch` is a counter key raised by the winning campaign; every write of the leader is guarded
// by it.
struct StoreTerm {
  Epoch epoch = 0;
  absl::Duration valid_until;  // on Clock::Uptime()
};

struct StoreHealth {
  std::string engine;  // "sqlite 3.40.1", "model"
  uint64_t bytes_used = 0;
  uint64_t bytes_free = 0;
  bool read_only = false;  // too little space: only transactions that delete something are taken
};

class Store {
 public:
  virtual ~Store() = default;
  virtual StoreCommit Commit(const StoreTransaction& transaction) = 0;
  // Those of `keys` that exist, in the order asked; linearizable. At most kStoreOpsMax keys.
  virtual absl::StatusOr<std::vector<StoreRecord>> Get(std::span<const std::string> keys) = 0;
  // Keys that start with `prefix` and are greater than `after` (empty = from the start);
  // limit 1..kStorePageMax.
  virtual absl::StatusOr<StorePage> Scan(const std::string& prefix, const std::string& after,
                                         size_t limit) = 0;
  virtual absl::StatusOr<std::unique_ptr<StoreSnapshot>> Snapshot() = 0;
  // Events of revisions greater than `from`. The first one is a gap when the engine no longer has them all.
  virtual absl::StatusOr<std::unique_ptr<StoreFeed>> Follow(const std::string& prefix,
                                                            StoreRevision from) = 0;
  // CONFLICT while another holder's term runs. The same holder may campaign again: its epoch grows. A term
  // counts from before the call; it tells when to stand for election again, never that a write is allowed:
  // that is the guard.
  virtual absl::StatusOr<StoreTerm> Campaign(const std::string& holder, absl::Duration ttl) = 0;
  // FENCED if that term has ended, by time, by Resign or by a newer campaign. The epoch stays.
  virtual absl::StatusOr<StoreTerm> Renew(const std::string& holder, Epoch epoch, absl::Duration ttl) = 0;
  virtual absl::Status Resign(const std::string& holder, Epoch epoch) = 0;
  // Forgets the history of changes before `keep_from` and gives free space back to the disk. Records stay.
  virtual absl::Status Compact(StoreRevision keep_from) = 0;
  virtual StoreHealth Health() = 0;
};

// The key that holds the epoch counter (in decimal), in every engine. Only Campaign writes it; FencedStore
// guards it.
inline constexpr std::string_view kEpochKey = "/leader/epoch";

// INVALID_ARGUMENT or LIMIT_EXCEEDED for what no engine may accept: shared front end of all engines.
absl::Status CheckTransaction(const StoreTransaction& transaction);
absl::Status CheckKeys(std::span<const std::string> keys);
absl::Status CheckScan(const std::string& prefix, const std::string& after, size_t limit);

// The shared rules of paging: appends `record` to `page`, or says that the page is full (and sets `more`).
bool AppendToPage(StoreRecord record, size_t limit, size_t& bytes, StorePage& page);

}  // namespace hsm
