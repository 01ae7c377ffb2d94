#pragma once
// Session objects of the token by {uid, version, use}: at most `max` of them, the least recently used goes
// first. A key in use outlives its eviction: the last holder destroys the object. Thread-safe; the token is
// never called under the lock.
#include <atomic>
#include <cstddef>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common/ids.h"
#include "common/mutex.h"
#include "node/public_part.h"
#include "node/token.h"

namespace hsm {

struct CachedKey {
  CachedKey(Token& t, TokenKey k, const KeySpec& s) : token(t), key(k), spec(s) {}
  CachedKey(const CachedKey&) = delete;
  ~CachedKey() { token.Destroy(key); }

  Token& token;
  const TokenKey key;
  const KeySpec spec;
  std::shared_ptr<const PublicPart> public_part;  // null for oct
  uint32_t incarnation = 1;
  OperationSet operations = 0;  // what the object was made for
  // Shown to be the very key since it was unwrapped; until then its first signature is verified whatever the
  // sample says.
  std::atomic<bool> checked{false};
  std::atomic<uint32_t> signatures{0};  // made with it since it was unwrapped; the sample counts them
};
using CachedKeyPtr = std::shared_ptr<CachedKey>;

class KeyCache {
 public:
  explicit KeyCache(size_t max) : max_(max) {}

  CachedKeyPtr Find(const KeyUid& uid, const KeyVersion& version, KeyUse use);
  bool Contains(const KeyUid& uid, const KeyVersion& version, KeyUse use) const;
  // What is there already wins; returns what is there now.
  CachedKeyPtr Put(const KeyUid& uid, const KeyVersion& version, KeyUse use, CachedKeyPtr key);
  void Forget(const KeyUid& uid);  // all versions
  void Forget(const KeyUid& uid, const KeyVersion& version);
  void Clear();
  size_t size() const;

 private:
  struct Name {
    KeyUid uid;
    KeyVersion version;
    KeyUse use;
    bool operator==(const Name&) const = default;
  };
  struct NameHash {
    size_t operator()(const Name& name) const {
      return std::hash<KeyUid>()(name.uid) ^ std::hash<KeyVersion>()(name.version) * 31 ^
             static_cast<size_t>(name.use);
    }
  };
  struct Entry {
    Name name;
    CachedKeyPtr key;
  };
  const size_t max_;
  mutable Mutex mutex_;
  std::list<Entry> entries_ HSM_GUARDED_BY(mutex_);  // most recently used first
  std::unordered_map<Name, std::list<Entry>::iterator, NameHash> places_ HSM_GUARDED_BY(mutex_);
  std::unordered_multimap<KeyUid, Name> of_uid_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
