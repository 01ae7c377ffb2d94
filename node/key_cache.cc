#include "node/key_cache.h"

#include <algorithm>

namespace hsm {

CachedKeyPtr KeyCache::Find(const KeyUid& uid, const KeyVersion& version, KeyUse use) {
  MutexLock lock(mutex_);
  auto place = places_.find(Name{uid, version, use});
  if (place == places_.end()) return nullptr;
  if (place->second != entries_.begin()) entries_.splice(entries_.begin(), entries_, place->second);
  return place->second->key;
}

bool KeyCache::Contains(const KeyUid& uid, const KeyVersion& version, KeyUse use) const {
  MutexLock lock(mutex_);
  return places_.contains(Name{uid, version, use});
}

CachedKeyPtr KeyCache::Put(const KeyUid& uid, const KeyVersion& version, KeyUse use, CachedKeyPtr key) {
  std::vector<CachedKeyPtr> evicted;  // destroyed after the lock is let go
  MutexLock lock(mutex_);
  Name name{uid, version, use};
  if (auto place = places_.find(name); place != places_.end()) {
    evicted.push_back(std::move(key));
    return place->second->key;
  }
  if (max_ == 0) return key;
  while (entries_.size() >= max_) {
    Entry& last = entries_.back();
    evicted.push_back(std::move(last.key));
    auto [first, end] = of_uid_.equal_range(last.name.uid);
    for (; first != end; ++first) {
      if (first->second == last.name) {
        of_uid_.erase(first);
        break;
      }
    }
    places_.erase(last.name);
    entries_.pop_back();
  }
  entries_.push_front(Entry{name, key});
  places_[name] = entries_.begin();
  of_uid_.emplace(uid, name);
  return key;
}

void KeyCache::Forget(const KeyUid& uid) {
  std::vector<CachedKeyPtr> dropped;  // destroyed after the lock is let go
  MutexLock lock(mutex_);
  auto [first, last] = of_uid_.equal_range(uid);
  for (auto each = first; each != last; ++each) {
    auto place = places_.find(each->second);
    dropped.push_back(std::move(place->second->key));
    entries_.erase(place->second);
    places_.erase(place);
  }
  of_uid_.erase(first, last);
}

void KeyCache::Forget(const KeyUid& uid, const KeyVersion& version) {
  std::vector<CachedKeyPtr> dropped;  // destroyed after the lock is let go
  MutexLock lock(mutex_);
  auto [first, last] = of_uid_.equal_range(uid);
  while (first != last) {
    if (first->second.version != version) {
      ++first;
      continue;
    }
    auto place = places_.find(first->second);
    dropped.push_back(std::move(place->second->key));
    entries_.erase(place->second);
    places_.erase(place);
    first = of_uid_.erase(first);
  }
}

void KeyCache::Clear() {
  std::list<Entry> dropped;  // destroyed after the lock is let go
  MutexLock lock(mutex_);
  dropped.swap(entries_);
  places_.clear();
  of_uid_.clear();
}

size_t KeyCache::size() const {
  MutexLock lock(mutex_);
  return entries_.size();
}

}  // namespace hsm
