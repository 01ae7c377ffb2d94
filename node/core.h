#pragma once
// What the parts of a partition share. Internal to node/partition.cc and the files it is made of.
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "common/error.h"
#include "common/mutex.h"
#include "node/fence.h"
#include "node/key_cache.h"
#include "node/key_index.h"
#include "node/node_time.h"
#include "node/partition.h"
#include "node/profile.h"
#include "node/sealer.h"

namespace hsm {

struct NodeCore {
  NodeCore(Partition::Options o, Token& t, BlobStore& b, UseAudit& a, Clock& c, Random& r)
      : options(std::move(o)),
        token(t),
        blobs(b),
        audit(a),
        clock(c),
        random(r),
        fence(b, c),
        time(b, c),
        cache(options.key_cache_max),
        bulk_by_turns_(options.profile == nullptr && token.Identity().manufacturer.starts_with("SoftHSM")) {}

  const Partition::Options options;
  Token& token;
  BlobStore& blobs;
  UseAudit& audit;
  Clock& clock;
  Random& random;
  ServingFence fence;
  NodeTime time;
  KeyCache cache;
  std::unique_ptr<Sealer> sealer;  // set once, before `ready`
  std::atomic<bool> ready{false};

  absl::Status CheckReady() const;
  // CheckReady, and the fence.
  absl::Status CheckFence(const internal::v1::Fence& fence_of_call);
  // The index of the data set a call names: the serving one, or with `loading` also one that is being loaded.
  // FENCED.
  absl::StatusOr<std::shared_ptr<KeyIndex>> IndexFor(DataSet data_set, bool loading);
  std::shared_ptr<KeyIndex> Serving();  // of fence.data_set()
  // Begins or goes on with loading `data_set`.
  absl::StatusOr<std::shared_ptr<KeyIndex>> OpenIndex(DataSet data_set);
  void DropIndexesBut(DataSet data_set);

  absl::Status LoadTombstones();
  // Incarnations of this uid up to here are gone for ever; 0 = none.
  uint32_t TombstonedIncarnation(const KeyUid& uid) const;
  void AddTombstone(const KeyUid& uid, uint32_t incarnation);

  absl::Status ServeProfile(ProfileOperation operation, const KeySpec& spec) const {
    return options.profile == nullptr ? absl::OkStatus() : options.profile->Serve(operation, spec);
  }

  // The turn of a call that unwraps many keys in a row. SoftHSM, and OpenSSL below it, have locks that all
  // keys share: two threads at it cost a third more processor time and finish no sooner
  // (docs/performance.md). Other tokens, and device profiles, are not held back. Held across token calls:
  // that is its purpose.
  class BulkTurn {
   public:
    explicit BulkTurn(NodeCore& core) {
      if (core.bulk_by_turns_) lock_.emplace(core.bulk_mutex_);
    }

   private:
    std::optional<MutexLock> lock_;
  };

 private:
  const bool bulk_by_turns_;
  Mutex bulk_mutex_;
  mutable Mutex mutex_;
  std::map<DataSet, std::shared_ptr<KeyIndex>> indexes_ HSM_GUARDED_BY(mutex_);
  std::unordered_map<KeyUid, uint32_t> tombstones_ HSM_GUARDED_BY(mutex_);
};

template <typename Id>
absl::StatusOr<Id> ParseId(const std::string& bytes, std::string_view what) {
  if (auto id = Id::From(bytes)) return *id;
  return Error(v1::REASON_INVALID_ARGUMENT, std::string(what) + " has 16 bytes");
}

}  // namespace hsm
