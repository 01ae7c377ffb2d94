#pragma once
// What one data set holds, in memory: enough of each head and version to decide about a call without the
// disk, and who is using which key right now. Wrapped keys, public parts, names and tags stay in the blob
// store. About 350 bytes a key. Split into 256 shards by the bucket of the uid, each with its own mutex.
// Thread-safe; no call blocks but Wait*.
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "common/clock.h"
#include "common/record.h"
#include "common/replica.h"
#include "node/blob_store.h"

namespace hsm {

struct VersionEntry {
  KeyVersion version;
  uint32_t ordinal = 0;
  bool proved = false;
};
// A snapshot of one key; never changed, only replaced.
struct IndexEntry {
  KeyUid uid;
  AttemptId attempt;  // zero = ACTIVE
  uint32_t incarnation = 1;
  Revision revision = 0;
  KeyState state = KeyState::kActive;
  bool enabled = true;
  bool purge_protection = false;
  bool checked = false;  // the MAC of the head was checked by this process
  std::optional<int64_t> not_before, expires;
  OperationSet operations = 0;
  KeySpec spec;
  KeyVersion latest;
  uint32_t version_count = 0;
  std::array<uint8_t, 32> head_mac{};
  std::vector<VersionEntry> versions;  // of this attempt, or all ACTIVE ones; by ordinal

  static IndexEntry From(const KeyHead& head, const internal::v1::SealedRecord& sealed, bool checked);
  const VersionEntry* Find(const KeyVersion& version) const;
};
using IndexEntryPtr = std::shared_ptr<const IndexEntry>;

class KeyIndex {
 public:
  explicit KeyIndex(DataSet data_set) : data_set_(data_set) {}
  // Reads heads and versions of one data set; unwraps and checks nothing.
  static absl::StatusOr<std::shared_ptr<KeyIndex>> Load(BlobStore& blobs, DataSet data_set);
  DataSet data_set() const { return data_set_; }

  IndexEntryPtr Find(const KeyUid& uid) const;                           // ACTIVE
  IndexEntryPtr FindStaged(const KeyUid& uid, Revision revision) const;  // STAGED with just this revision

  // A use of one key, from before its entry is read until its result is released.
  class Use {
   public:
    Use() = default;
    Use(Use&& other) noexcept
        : index_(std::exchange(other.index_, nullptr)), bucket_(other.bucket_), id_(other.id_) {}
    Use& operator=(Use&&) = delete;
    ~Use();

   private:
    friend class KeyIndex;
    KeyIndex* index_ = nullptr;
    uint32_t bucket_ = 0;
    uint64_t id_ = 0;
  };
  // The ACTIVE entry, or the STAGED one if that alone has `revision`: the coordinator names it after it has
  // committed. Null if there is none; then `use` stays empty.
  IndexEntryPtr Begin(const KeyUid& uid, Revision revision, std::optional<Use>& use);

  // Same rules as the blob store's: an ACTIVE entry gives way only to a higher incarnation or revision;
  // versions it has are kept. Returns whether the head was taken.
  bool PutHead(IndexEntry entry);
  void PutVersions(const KeyUid& uid, uint32_t incarnation, const std::vector<VersionEntry>& versions);
  void PutStaged(IndexEntry entry);
  void Activate(const AttemptId& attempt);
  void Discard(const AttemptId& attempt);
  void Remove(const KeyUid& uid, uint32_t incarnation_max);  // ACTIVE and STAGED
  void SetProved(const KeyUid& uid, const KeyVersion& version, bool proved);
  void SetChecked(const IndexEntryPtr& entry);  // if it is still the one

  // Until every use begun before the call has ended; false when `timeout` passed first.
  bool WaitUnused(const KeyUid& uid, Clock& clock, absl::Duration timeout);
  bool WaitAllUnused(Clock& clock, absl::Duration timeout);

  // In uid order from the first uid greater than `after`; ACTIVE and STAGED of a bucket.
  std::vector<IndexEntryPtr> Page(uint32_t bucket, const std::optional<KeyUid>& after, size_t limit,
                                  bool& more) const;
  std::vector<Bytes> BucketDigests() const;
  Bytes Digest() const;
  uint64_t keys() const { return versions_; }  // ACTIVE versions
  uint64_t proved() const { return proved_; }

 private:
  struct InUse {
    KeyUid uid;
    uint64_t id;
  };
  struct Shard {
    mutable Mutex mutex;
    CondVar changed;
    std::map<KeyUid, IndexEntryPtr> active HSM_GUARDED_BY(mutex);
    std::multimap<KeyUid, IndexEntryPtr> staged HSM_GUARDED_BY(mutex);
    std::vector<InUse> in_use HSM_GUARDED_BY(mutex);
    uint64_t next_use HSM_GUARDED_BY(mutex) = 1;
    uint32_t waiting HSM_GUARDED_BY(mutex) = 0;
    std::atomic<uint64_t> generation{1};  // grows under `mutex` with each change the digest covers
  };
  void End(uint32_t bucket, uint64_t id);
  void Replace(Shard& shard, IndexEntry entry) HSM_REQUIRES(shard.mutex);
  void Count(const IndexEntry& entry, int64_t sign);
  std::vector<KeyUid> TakeAttempt(const AttemptId& attempt);
  Bytes ShardDigest(const Shard& shard, uint64_t& generation) const;
  bool WaitShard(Shard& shard, const std::function<bool(const InUse&)>& matters, Clock& clock,
                 absl::Duration timeout);

  const DataSet data_set_;
  std::array<Shard, 256> shards_;
  std::atomic<uint64_t> versions_{0}, proved_{0};
  std::atomic<int64_t> in_use_{0};
  mutable Mutex attempts_mutex_;
  std::multimap<AttemptId, KeyUid> attempts_ HSM_GUARDED_BY(attempts_mutex_);  // where the STAGED ones are
  mutable Mutex digest_mutex_;
  mutable std::vector<Bytes> digests_ HSM_GUARDED_BY(digest_mutex_);
  mutable std::array<std::atomic<uint64_t>, 256>
      digest_generations_{};  // what digests_ is of; written under the mutex
};

}  // namespace hsm
