#pragma once
#include <memory>
#include <string>

#include "common/ids.h"
#include "common/mutex.h"
#include "store/catalogue.h"

namespace hsm {

// The HSM's settings and mode as last committed, with this leader's epoch. Immutable.
struct HsmView {
  HsmId id;
  DataSet data_set = 0;
  Epoch epoch = 0;
  rpc::HsmMode mode = rpc::HSM_MODE_UNSPECIFIED;  // UNSPECIFIED: no record yet
  rpc::StoredHsm stored;
  StoreRevision store_revision =
      0;                // mod_revision of the HSM's row: a guard for "data set and mode unchanged"
  std::string stopped;  // why no changes are taken (store rolled back, leadership lost); empty = they are

  v1::Reason stopped_reason = v1::REASON_UNSPECIFIED;

  bool Serves() const { return mode == rpc::HSM_MODE_ACTIVE; }
};
using HsmViewPtr = std::shared_ptr<const HsmView>;

// Thread-safe holder of the newest view.
class HsmState {
 public:
  HsmState() : view_(std::make_shared<HsmView>()) {}
  HsmViewPtr View() const {
    MutexLock lock(mutex_);
    return view_;
  }
  // The HSM's row as committed; epoch and `stopped` stay.
  void SetStored(const rpc::StoredHsm& stored, StoreRevision revision) {
    MutexLock lock(mutex_);
    HsmView next = *view_;
    next.stored = stored;
    next.store_revision = revision;
    next.id = HsmId::From(stored.id()).value_or(HsmId());
    next.data_set = stored.data_set();
    next.mode = stored.mode();
    view_ = std::make_shared<const HsmView>(std::move(next));
  }
  void SetEpoch(Epoch epoch) {
    MutexLock lock(mutex_);
    HsmView next = *view_;
    next.epoch = epoch;
    view_ = std::make_shared<const HsmView>(std::move(next));
  }
  void Stop(v1::Reason reason, const std::string& why) {  // keeps the first reason
    MutexLock lock(mutex_);
    if (!view_->stopped.empty()) return;
    HsmView next = *view_;
    next.stopped = why;
    next.stopped_reason = reason;
    view_ = std::make_shared<const HsmView>(std::move(next));
  }

 private:
  mutable Mutex mutex_;
  HsmViewPtr view_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
