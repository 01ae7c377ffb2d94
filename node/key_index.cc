#include "node/key_index.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/status_macros.h"

namespace hsm {
namespace {

bool Newer(const IndexEntry& a, const IndexEntry& b) {
  return a.incarnation > b.incarnation || (a.incarnation == b.incarnation && a.revision > b.revision);
}

void Merge(std::vector<VersionEntry>& into, const VersionEntry& entry) {
  for (VersionEntry& held : into) {
    if (held.version == entry.version) {
      held.proved |= entry.proved;
      return;
    }
  }
  auto place =
      std::find_if(into.begin(), into.end(), [&](const auto& held) { return held.ordinal > entry.ordinal; });
  into.insert(place, entry);
}

}  // namespace

IndexEntry IndexEntry::From(const KeyHead& head, const internal::v1::SealedRecord& sealed, bool checked) {
  IndexEntry entry;
  entry.uid = head.uid;
  entry.incarnation = head.incarnation;
  entry.revision = head.revision;
  entry.state = head.state;
  entry.enabled = head.enabled;
  entry.purge_protection = head.purge_protection;
  entry.checked = checked;
  entry.not_before = head.not_before;
  entry.expires = head.expires;
  entry.operations = head.operations;
  entry.spec = head.spec;
  entry.latest = head.latest;
  entry.version_count = head.version_count;
  std::memcpy(entry.head_mac.data(), sealed.mac().data(), std::min<size_t>(sealed.mac().size(), 32));
  return entry;
}

const VersionEntry* IndexEntry::Find(const KeyVersion& version) const {
  for (auto held = versions.rbegin(); held != versions.rend(); ++held) {  // the latest is asked for most
    if (held->version == version) return &*held;
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<KeyIndex>> KeyIndex::Load(BlobStore& blobs, DataSet data_set) {
  auto index = std::make_shared<KeyIndex>(data_set);
  std::map<std::pair<KeyUid, AttemptId>, IndexEntry> staged;
  HSM_RETURN_IF_ERROR(blobs.ForEachHead(data_set, [&](const HeadRow& row) -> absl::Status {
    HSM_ASSIGN_OR_RETURN(KeyHead head, DecodeHead(row.sealed));
    IndexEntry entry = IndexEntry::From(head, row.sealed, false);
    entry.attempt = row.attempt;
    if (row.attempt.IsZero()) {
      index->PutHead(std::move(entry));
    } else {
      staged.emplace(std::pair(row.uid, row.attempt), std::move(entry));
    }
    return absl::OkStatus();
  }));
  HSM_RETURN_IF_ERROR(blobs.ForEachVersion(data_set, [&](const VersionRow& row) -> absl::Status {
    VersionEntry version{row.version, row.ordinal, row.proved};
    if (row.attempt.IsZero()) {
      index->PutVersions(row.uid, row.incarnation, {version});
    } else if (auto found = staged.find({row.uid, row.attempt}); found != staged.end()) {
      Merge(found->second.versions, version);
    }
    return absl::OkStatus();
  }));
  for (auto& [key, entry] : staged) index->PutStaged(std::move(entry));
  return index;
}

IndexEntryPtr KeyIndex::Find(const KeyUid& uid) const {
  const Shard& shard = shards_[BucketOf(uid)];
  MutexLock lock(shard.mutex);
  auto found = shard.active.find(uid);
  return found == shard.active.end() ? nullptr : found->second;
}

IndexEntryPtr KeyIndex::FindStaged(const KeyUid& uid, Revision revision) const {
  const Shard& shard = shards_[BucketOf(uid)];
  MutexLock lock(shard.mutex);
  auto [first, last] = shard.staged.equal_range(uid);
  for (; first != last; ++first) {
    if (first->second->revision == revision) return first->second;
  }
  return nullptr;
}

IndexEntryPtr KeyIndex::Begin(const KeyUid& uid, Revision revision, std::optional<Use>& use) {
  uint32_t bucket = BucketOf(uid);
  Shard& shard = shards_[bucket];
  MutexLock lock(shard.mutex);
  IndexEntryPtr entry;
  if (auto found = shard.active.find(uid); found != shard.active.end()) entry = found->second;
  if (entry == nullptr || entry->revision < revision) {
    auto [first, last] = shard.staged.equal_range(uid);
    for (; first != last; ++first) {
      if (first->second->revision == revision) entry = first->second;
    }
  }
  if (entry == nullptr) return nullptr;
  use.emplace();
  use->index_ = this;
  use->bucket_ = bucket;
  use->id_ = shard.next_use++;
  shard.in_use.push_back({uid, use->id_});
  in_use_.fetch_add(1);
  return entry;
}

KeyIndex::Use::~Use() {
  if (index_ != nullptr) index_->End(bucket_, id_);
}

void KeyIndex::End(uint32_t bucket, uint64_t id) {
  Shard& shard = shards_[bucket];
  MutexLock lock(shard.mutex);
  for (InUse& use : shard.in_use) {
    if (use.id != id) continue;
    use = shard.in_use.back();
    shard.in_use.pop_back();
    break;
  }
  in_use_.fetch_sub(1);
  if (shard.waiting > 0) shard.changed.NotifyAll();
}

void KeyIndex::Count(const IndexEntry& entry, int64_t sign) {
  if (!entry.attempt.IsZero()) return;
  int64_t proved = 0;
  for (const VersionEntry& version : entry.versions) proved += version.proved;
  versions_ += static_cast<uint64_t>(sign * static_cast<int64_t>(entry.versions.size()));
  proved_ += static_cast<uint64_t>(sign * proved);
}

// Puts `entry` in the place of what is there, whatever it is.
void KeyIndex::Replace(Shard& shard, IndexEntry entry) {
  IndexEntryPtr& place = shard.active[entry.uid];
  if (place != nullptr) Count(*place, -1);
  Count(entry, 1);
  place = std::make_shared<const IndexEntry>(std::move(entry));
  shard.generation.fetch_add(1);
}

bool KeyIndex::PutHead(IndexEntry entry) {
  Shard& shard = shards_[BucketOf(entry.uid)];
  MutexLock lock(shard.mutex);
  auto found = shard.active.find(entry.uid);
  if (found != shard.active.end()) {
    const IndexEntry& held = *found->second;
    if (!Newer(entry, held)) return false;
    if (held.incarnation == entry.incarnation && entry.state != KeyState::kTombstone) {
      for (const VersionEntry& version : held.versions) Merge(entry.versions, version);
    }
  }
  if (entry.state == KeyState::kTombstone) entry.versions.clear();
  Replace(shard, std::move(entry));
  return true;
}

void KeyIndex::PutVersions(const KeyUid& uid, uint32_t incarnation,
                           const std::vector<VersionEntry>& versions) {
  Shard& shard = shards_[BucketOf(uid)];
  MutexLock lock(shard.mutex);
  auto found = shard.active.find(uid);
  if (found == shard.active.end() || found->second->incarnation != incarnation ||
      found->second->state == KeyState::kTombstone) {
    return;
  }
  IndexEntry entry = *found->second;
  for (const VersionEntry& version : versions) Merge(entry.versions, version);
  Replace(shard, std::move(entry));
}

void KeyIndex::PutStaged(IndexEntry entry) {
  {
    MutexLock lock(attempts_mutex_);
    attempts_.emplace(entry.attempt, entry.uid);
  }
  Shard& shard = shards_[BucketOf(entry.uid)];
  MutexLock lock(shard.mutex);
  auto [first, last] = shard.staged.equal_range(entry.uid);
  for (; first != last; ++first) {
    if (first->second->attempt == entry.attempt) {
      first->second = std::make_shared<const IndexEntry>(std::move(entry));
      return;
    }
  }
  KeyUid uid = entry.uid;
  shard.staged.emplace(uid, std::make_shared<const IndexEntry>(std::move(entry)));
}

std::vector<KeyUid> KeyIndex::TakeAttempt(const AttemptId& attempt) {
  MutexLock lock(attempts_mutex_);
  std::vector<KeyUid> uids;
  auto [first, last] = attempts_.equal_range(attempt);
  for (auto each = first; each != last; ++each) uids.push_back(each->second);
  attempts_.erase(first, last);
  return uids;
}

void KeyIndex::Activate(const AttemptId& attempt) {
  for (const KeyUid& uid : TakeAttempt(attempt)) {
    Shard& shard = shards_[BucketOf(uid)];
    IndexEntryPtr staged;
    {
      MutexLock lock(shard.mutex);
      auto [first, last] = shard.staged.equal_range(uid);
      for (; first != last; ++first) {
        if (first->second->attempt == attempt) staged = first->second;
      }
    }
    if (staged == nullptr) continue;
    IndexEntry entry = *staged;
    entry.attempt = {};
    // A newer head may have come first; the versions are wanted all the same. The STAGED entry goes last, so
    // that at every moment one of the two is there.
    if (!PutHead(std::move(entry))) PutVersions(uid, staged->incarnation, staged->versions);
    MutexLock lock(shard.mutex);
    std::erase_if(shard.staged, [&](const auto& held) { return held.second->attempt == attempt; });
  }
}

void KeyIndex::Discard(const AttemptId& attempt) {
  for (const KeyUid& uid : TakeAttempt(attempt)) {
    Shard& shard = shards_[BucketOf(uid)];
    MutexLock lock(shard.mutex);
    std::erase_if(shard.staged, [&](const auto& held) { return held.second->attempt == attempt; });
  }
}

void KeyIndex::Remove(const KeyUid& uid, uint32_t incarnation_max) {
  Shard& shard = shards_[BucketOf(uid)];
  MutexLock lock(shard.mutex);
  auto found = shard.active.find(uid);
  if (found != shard.active.end() && found->second->incarnation <= incarnation_max) {
    Count(*found->second, -1);
    shard.active.erase(found);
    shard.generation.fetch_add(1);
  }
  std::erase_if(shard.staged, [&](const auto& held) {
    return held.first == uid && held.second->incarnation <= incarnation_max;
  });
}

void KeyIndex::SetProved(const KeyUid& uid, const KeyVersion& version, bool proved) {
  Shard& shard = shards_[BucketOf(uid)];
  MutexLock lock(shard.mutex);
  auto change = [&](const IndexEntry& held) -> std::optional<IndexEntry> {
    const VersionEntry* found = held.Find(version);
    if (found == nullptr || found->proved == proved) return std::nullopt;
    IndexEntry entry = held;
    for (VersionEntry& each : entry.versions) {
      if (each.version == version) each.proved = proved;
    }
    return entry;
  };
  if (auto found = shard.active.find(uid); found != shard.active.end()) {
    if (auto entry = change(*found->second)) {
      Count(*found->second, -1);
      Count(*entry, 1);
      found->second = std::make_shared<const IndexEntry>(*std::move(entry));  // no part of the digest
    }
  }
  auto [first, last] = shard.staged.equal_range(uid);
  for (; first != last; ++first) {
    if (auto entry = change(*first->second))
      first->second = std::make_shared<const IndexEntry>(*std::move(entry));
  }
}

void KeyIndex::SetChecked(const IndexEntryPtr& entry) {
  Shard& shard = shards_[BucketOf(entry->uid)];
  MutexLock lock(shard.mutex);
  auto mark = [&](IndexEntryPtr& place) {
    if (place != entry) return;
    IndexEntry checked = *entry;
    checked.checked = true;
    place = std::make_shared<const IndexEntry>(std::move(checked));
  };
  if (auto found = shard.active.find(entry->uid); found != shard.active.end()) mark(found->second);
  auto [first, last] = shard.staged.equal_range(entry->uid);
  for (; first != last; ++first) mark(first->second);
}

bool KeyIndex::WaitShard(Shard& shard, const std::function<bool(const InUse&)>& matters, Clock& clock,
                         absl::Duration timeout) {
  MutexLock lock(shard.mutex);
  uint64_t before = shard.next_use;
  auto ready = [&]() HSM_NO_ANALYSIS {
    return std::none_of(shard.in_use.begin(), shard.in_use.end(),
                        [&](const InUse& use) { return use.id < before && matters(use); });
  };
  ++shard.waiting;
  bool ended = clock.Await(shard.mutex, shard.changed, ready, timeout);
  --shard.waiting;
  return ended;
}

bool KeyIndex::WaitUnused(const KeyUid& uid, Clock& clock, absl::Duration timeout) {
  return WaitShard(shards_[BucketOf(uid)], [&](const InUse& use) { return use.uid == uid; }, clock, timeout);
}

bool KeyIndex::WaitAllUnused(Clock& clock, absl::Duration timeout) {
  if (in_use_.load() == 0) return true;
  Deadline deadline(clock, timeout);
  bool all = true;
  for (Shard& shard : shards_) {
    all &= WaitShard(
        shard, [](const InUse&) { return true; }, clock, std::max(deadline.Left(), absl::ZeroDuration()));
  }
  return all;
}

std::vector<IndexEntryPtr> KeyIndex::Page(uint32_t bucket, const std::optional<KeyUid>& after, size_t limit,
                                          bool& more) const {
  const Shard& shard = shards_[bucket % shards_.size()];
  MutexLock lock(shard.mutex);
  std::vector<IndexEntryPtr> out;
  auto active = after ? shard.active.upper_bound(*after) : shard.active.begin();
  auto staged = after ? shard.staged.upper_bound(*after) : shard.staged.begin();
  more = false;
  while (active != shard.active.end() || staged != shard.staged.end()) {
    if (out.size() >= limit) {
      more = true;
      break;
    }
    // All entries of one uid stay on one page, since the next one begins after that uid.
    KeyUid uid = active == shard.active.end()   ? staged->first
                 : staged == shard.staged.end() ? active->first
                                                : std::min(active->first, staged->first);
    if (active != shard.active.end() && active->first == uid) out.push_back((active++)->second);
    while (staged != shard.staged.end() && staged->first == uid) out.push_back((staged++)->second);
  }
  return out;
}

Bytes KeyIndex::ShardDigest(const Shard& shard, uint64_t& generation) const {
  std::vector<DigestItem> items;
  {
    MutexLock lock(shard.mutex);
    generation = shard.generation.load();
    items.reserve(shard.active.size());
    for (const auto& [uid, entry] : shard.active) {
      DigestItem item{uid, entry->incarnation, entry->revision, std::string(StringView(entry->head_mac)), {}};
      for (const VersionEntry& version : entry->versions) item.versions.push_back(version.version);
      items.push_back(std::move(item));
    }
  }
  return BucketDigest(std::move(items));
}

// Only buckets that changed since the last call are computed again, and only those are locked.
std::vector<Bytes> KeyIndex::BucketDigests() const {
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (shards_[i].generation.load() == digest_generations_[i].load()) continue;
    uint64_t generation = 0;
    Bytes digest = ShardDigest(shards_[i], generation);
    MutexLock lock(digest_mutex_);
    digests_.resize(shards_.size());
    if (generation > digest_generations_[i].load()) {
      digests_[i] = std::move(digest);
      digest_generations_[i].store(generation);
    }
  }
  MutexLock lock(digest_mutex_);
  return digests_;
}

Bytes KeyIndex::Digest() const { return TotalDigest(BucketDigests()); }

}  // namespace hsm
