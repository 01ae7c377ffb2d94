#pragma once
// The serving data set in memory: what the crypto path decides by and what the reconciler compares nodes
// with. Loaded from the catalogue at start and after a switch; changed only by the committer's thread, in
// commit order, right after each commit. Readers get immutable entries. Thread-safe.
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/mutex.h"
#include "common/record.h"
#include "common/replica.h"
#include "store/catalogue.h"

namespace hsm {

struct EntryVersion {
  KeyVersion id;
  uint32_t ordinal = 0;
  int64_t created = 0;  // seconds since 1970 UTC
  Bytes spki;           // DER; empty for oct
};
struct KeyEntry {
  // What has reached the partitions, shared by all entries of one key. Commits come before it.
  struct Live {
    std::atomic<Revision> confirmed{0};  // every partition with a lease has this revision or a newer one
    std::atomic<uint32_t> active_versions{0};  // versions that W partitions hold ACTIVE
  };
  KeyHead head;
  std::string head_mac;                // 32 bytes
  StoreRevision store_revision = 0;    // mod_revision of the head's row: the guard of the next change
  std::vector<EntryVersion> versions;  // ascending ordinal, never empty

  std::shared_ptr<Live> live;

  const EntryVersion* Find(const KeyVersion& id) const;  // null if it is no version of this key
  // What "the latest" means for use: the newest version that partitions serve already.
  const EntryVersion& latest() const {
    uint32_t active = live->active_versions.load(std::memory_order_acquire);
    return active == 0 || active > versions.size() ? versions.back() : versions[active - 1];
  }
  // What Route.revision asks a node for: never more than the barrier has established, so that a change under
  // way does not turn calls away.
  Revision RouteRevision() const { return live->confirmed.load(std::memory_order_acquire); }
  // Both only rise; whichever entry of the key they are called on.
  void RaiseActive(uint32_t versions_active) const;
  void RaiseConfirmed(Revision revision) const;
};
using KeyEntryPtr = std::shared_ptr<const KeyEntry>;

struct TombstoneEntry {
  uint32_t incarnation = 1;
  Revision revision = 0;
  std::string head_mac;
  std::string name;
};

class KeyTable {
 public:
  KeyTable();

  // The hot path: one short lock, no allocation. Null if there is no such key.
  KeyEntryPtr Find(std::string_view name) const;
  KeyEntryPtr FindUid(const KeyUid& uid) const;
  std::optional<TombstoneEntry> FindTombstone(const KeyUid& uid) const;
  uint64_t keys() const { return keys_.load(std::memory_order_relaxed); }
  uint64_t deleted() const { return deleted_count_.load(std::memory_order_relaxed); }
  // Keys that are deleted and can be recovered, of those after `after_name`, in name order.
  std::vector<KeyEntryPtr> Deleted(const std::string& after_name, size_t limit) const;
  uint64_t versions() const { return versions_.load(std::memory_order_relaxed); }
  DataSet data_set() const { return data_set_.load(std::memory_order_acquire); }

  // Replaces everything by `data_set` of the catalogue, read in pages. No changes may be committed meanwhile.
  absl::Status Load(Catalogue& catalogue, DataSet data_set);
  // Committer's thread only.
  void Put(KeyEntryPtr entry);
  void Destroy(const std::string& name, const KeyUid& uid, TombstoneEntry tombstone);

  // For the reconciler.
  std::vector<Bytes> BucketDigests() const;  // 256; cached per bucket
  struct Bucket {
    std::vector<KeyEntryPtr> keys;
    std::vector<std::pair<KeyUid, TombstoneEntry>> tombstones;
  };
  Bucket BucketContent(uint32_t bucket) const;

 private:
  static constexpr size_t kShards = 64;
  struct Shard {
    mutable Mutex mutex;
    std::unordered_map<std::string_view, KeyEntryPtr> keys
        HSM_GUARDED_BY(mutex);  // keyed by the entry's own name
  };
  struct Place {
    mutable Mutex mutex;
    std::map<KeyUid, KeyEntryPtr> keys HSM_GUARDED_BY(mutex);
    std::map<KeyUid, TombstoneEntry> tombstones HSM_GUARDED_BY(mutex);
    mutable std::optional<Bytes> digest HSM_GUARDED_BY(mutex);
  };
  Shard& ShardOf(std::string_view name) const;
  void Clear();
  void NoteDeleted(const std::string& name, KeyEntryPtr entry);  // null: it is not, or not any more

  mutable std::array<Shard, kShards> shards_;
  mutable std::array<Place, limits::kBuckets> places_;
  mutable Mutex deleted_mutex_;
  std::map<std::string, KeyEntryPtr> deleted_ HSM_GUARDED_BY(deleted_mutex_);
  std::atomic<uint64_t> keys_{0}, versions_{0}, deleted_count_{0};
  std::atomic<DataSet> data_set_{0};
};

// Builds an entry from sealed records; RECORD_CORRUPT if they do not belong together.
absl::StatusOr<KeyEntryPtr> MakeEntry(const rpc::KeyRecords& records, StoreRevision store_revision);
// The entry after a change of the head alone, or after a new version.
absl::StatusOr<KeyEntryPtr> ChangeEntry(const KeyEntry& before, const rpc::SealedRecord& head,
                                        const VersionRecord* added, StoreRevision store_revision);

}  // namespace hsm
