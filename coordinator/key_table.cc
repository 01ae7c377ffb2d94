#include "coordinator/key_table.h"

#include <algorithm>

#include "common/check.h"
#include "common/error.h"

namespace hsm {

const EntryVersion* KeyEntry::Find(const KeyVersion& id) const {
  for (auto version = versions.rbegin(); version != versions.rend(); ++version) {
    if (version->id == id) return &*version;
  }
  return nullptr;
}

namespace {
template <typename Number>
void Raise(std::atomic<Number>& target, Number to) {
  Number now = target.load();
  while (now < to && !target.compare_exchange_weak(now, to)) {
  }
}
}  // namespace

void KeyEntry::RaiseActive(uint32_t versions_active) const { Raise(live->active_versions, versions_active); }
void KeyEntry::RaiseConfirmed(Revision revision) const { Raise(live->confirmed, revision); }

KeyTable::KeyTable() = default;

KeyTable::Shard& KeyTable::ShardOf(std::string_view name) const {
  return shards_[std::hash<std::string_view>()(name) % kShards];
}

KeyEntryPtr KeyTable::Find(std::string_view name) const {
  Shard& shard = ShardOf(name);
  MutexLock lock(shard.mutex);
  auto found = shard.keys.find(name);
  return found == shard.keys.end() ? nullptr : found->second;
}

KeyEntryPtr KeyTable::FindUid(const KeyUid& uid) const {
  Place& place = places_[BucketOf(uid)];
  MutexLock lock(place.mutex);
  auto found = place.keys.find(uid);
  return found == place.keys.end() ? nullptr : found->second;
}

std::optional<TombstoneEntry> KeyTable::FindTombstone(const KeyUid& uid) const {
  Place& place = places_[BucketOf(uid)];
  MutexLock lock(place.mutex);
  auto found = place.tombstones.find(uid);
  if (found == place.tombstones.end()) return std::nullopt;
  return found->second;
}

void KeyTable::Put(KeyEntryPtr entry) {
  const KeyUid uid = entry->head.uid;
  KeyEntryPtr before;
  {
    Shard& shard = ShardOf(entry->head.name);
    MutexLock lock(shard.mutex);
    auto found = shard.keys.find(entry->head.name);
    if (found != shard.keys.end()) {
      before = found->second;
      shard.keys.erase(found);  // its name is the map's key: it goes with the entry
    }
    shard.keys.emplace(entry->head.name, entry);
  }
  {
    Place& place = places_[BucketOf(uid)];
    MutexLock lock(place.mutex);
    place.keys[uid] = entry;
    place.tombstones.erase(uid);  // of an earlier incarnation
    place.digest.reset();
  }
  NoteDeleted(entry->head.name, entry->head.state == KeyState::kDeleted ? entry : nullptr);
  if (before == nullptr) keys_.fetch_add(1, std::memory_order_relaxed);
  versions_.fetch_add(entry->versions.size() - (before ? before->versions.size() : 0),
                      std::memory_order_relaxed);
}

void KeyTable::Destroy(const std::string& name, const KeyUid& uid, TombstoneEntry tombstone) {
  KeyEntryPtr before;
  {
    Shard& shard = ShardOf(name);
    MutexLock lock(shard.mutex);
    auto found = shard.keys.find(name);
    if (found != shard.keys.end() && found->second->head.uid == uid) {
      before = found->second;
      shard.keys.erase(found);
    }
  }
  {
    Place& place = places_[BucketOf(uid)];
    MutexLock lock(place.mutex);
    place.keys.erase(uid);
    place.tombstones[uid] = std::move(tombstone);
    place.digest.reset();
  }
  if (before == nullptr) return;
  NoteDeleted(name, nullptr);
  keys_.fetch_sub(1, std::memory_order_relaxed);
  versions_.fetch_sub(before->versions.size(), std::memory_order_relaxed);
}

void KeyTable::NoteDeleted(const std::string& name, KeyEntryPtr entry) {
  MutexLock lock(deleted_mutex_);
  if (entry == nullptr) {
    deleted_.erase(name);
  } else {
    deleted_[name] = std::move(entry);
  }
  deleted_count_.store(deleted_.size(), std::memory_order_relaxed);
}

std::vector<KeyEntryPtr> KeyTable::Deleted(const std::string& after_name, size_t limit) const {
  std::vector<KeyEntryPtr> out;
  MutexLock lock(deleted_mutex_);
  for (auto it = deleted_.upper_bound(after_name); it != deleted_.end() && out.size() < limit; ++it) {
    out.push_back(it->second);
  }
  return out;
}

void KeyTable::Clear() {
  for (Shard& shard : shards_) {
    MutexLock lock(shard.mutex);
    shard.keys.clear();
  }
  for (Place& place : places_) {
    MutexLock lock(place.mutex);
    place.keys.clear();
    place.tombstones.clear();
    place.digest.reset();
  }
  {
    MutexLock lock(deleted_mutex_);
    deleted_.clear();
  }
  keys_ = 0;
  versions_ = 0;
  deleted_count_ = 0;
}

absl::Status KeyTable::Load(Catalogue& catalogue, DataSet data_set) {
  Clear();
  HSM_ASSIGN_OR_RETURN(std::unique_ptr<CatalogueSnapshot> snapshot, catalogue.Snapshot());
  std::string after;
  while (true) {
    HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot->Keys(data_set, after, limits::kStorePageMax));
    for (const CatalogueKey& key : page.keys) {
      HSM_ASSIGN_OR_RETURN(KeyEntryPtr entry, MakeEntry(key.records, key.head_revision));
      Put(std::move(entry));
    }
    if (!page.more || page.keys.empty()) break;
    after = page.keys.back().name;
  }
  after.clear();
  while (true) {
    HSM_ASSIGN_OR_RETURN(auto page, snapshot->Tombstones(after, limits::kStorePageMax));
    for (const auto& row : page.rows) {
      // Heads are sealed with their data set: a node of this one never had the others'.
      if (row.value.data_set() != data_set) continue;
      HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(row.value.head()));
      Place& place = places_[BucketOf(head.uid)];
      MutexLock lock(place.mutex);
      if (place.keys.contains(head.uid)) continue;  // it has come back as a later incarnation
      place.tombstones[head.uid] = {head.incarnation, head.revision, row.value.head().mac(), head.name};
    }
    if (!page.more || page.rows.empty()) break;
    after = page.rows.back().key;
  }
  data_set_.store(data_set, std::memory_order_release);
  return absl::OkStatus();
}

std::vector<Bytes> KeyTable::BucketDigests() const {
  std::vector<Bytes> digests;
  digests.reserve(limits::kBuckets);
  for (Place& place : places_) {
    MutexLock lock(place.mutex);
    if (!place.digest.has_value()) {
      std::vector<DigestItem> items;
      items.reserve(place.keys.size() + place.tombstones.size());
      for (const auto& [uid, entry] : place.keys) {
        DigestItem item{uid, entry->head.incarnation, entry->head.revision, entry->head_mac, {}};
        for (const EntryVersion& version : entry->versions) item.versions.push_back(version.id);
        items.push_back(std::move(item));
      }
      for (const auto& [uid, tombstone] : place.tombstones) {
        items.push_back({uid, tombstone.incarnation, tombstone.revision, tombstone.head_mac, {}});
      }
      place.digest = BucketDigest(std::move(items));
    }
    digests.push_back(*place.digest);
  }
  return digests;
}

KeyTable::Bucket KeyTable::BucketContent(uint32_t bucket) const {
  Bucket out;
  Place& place = places_[bucket];
  MutexLock lock(place.mutex);
  for (const auto& [uid, entry] : place.keys) out.keys.push_back(entry);
  out.tombstones.assign(place.tombstones.begin(), place.tombstones.end());
  return out;
}

absl::StatusOr<KeyEntryPtr> MakeEntry(const rpc::KeyRecords& records, StoreRevision store_revision) {
  auto entry = std::make_shared<KeyEntry>();
  HSM_ASSIGN_OR_RETURN(entry->head, DecodeHead(records.head()));
  entry->head_mac = records.head().mac();
  entry->store_revision = store_revision;
  for (const rpc::SealedRecord& record : records.versions()) {
    HSM_ASSIGN_OR_RETURN(VersionRecord version, DecodeVersion(record));
    if (version.uid != entry->head.uid) {
      return Error(v1::REASON_RECORD_CORRUPT, "a version of another key lies under " + entry->head.name);
    }
    entry->versions.push_back({version.version, version.ordinal, version.created, std::move(version.spki)});
  }
  std::sort(entry->versions.begin(), entry->versions.end(),
            [](const auto& a, const auto& b) { return a.ordinal < b.ordinal; });
  if (entry->versions.empty() || entry->versions.back().id != entry->head.latest) {
    return Error(v1::REASON_RECORD_CORRUPT,
                 "the newest version of " + entry->head.name + " is not the one its head names");
  }
  entry->live = std::make_shared<KeyEntry::Live>();
  entry->live->confirmed = entry->head.revision;
  entry->live->active_versions = static_cast<uint32_t>(entry->versions.size());
  return KeyEntryPtr(std::move(entry));
}

absl::StatusOr<KeyEntryPtr> ChangeEntry(const KeyEntry& before, const rpc::SealedRecord& head,
                                        const VersionRecord* added, StoreRevision store_revision) {
  auto entry = std::make_shared<KeyEntry>();
  HSM_ASSIGN_OR_RETURN(entry->head, DecodeHead(head));
  if (entry->head.uid != before.head.uid)
    return Error(v1::REASON_RECORD_CORRUPT, "the new head is another key's");
  entry->head_mac = head.mac();
  entry->store_revision = store_revision;
  entry->versions = before.versions;
  entry->live = before.live;
  if (added != nullptr)
    entry->versions.push_back({added->version, added->ordinal, added->created, added->spki});
  if (entry->versions.back().id != entry->head.latest) {
    return Error(v1::REASON_RECORD_CORRUPT, "the newest version is not the one the head names");
  }
  return KeyEntryPtr(std::move(entry));
}

}  // namespace hsm
