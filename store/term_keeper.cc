#include "store/term_keeper.h"

#include <charconv>

#include "common/error.h"

namespace hsm {

absl::StatusOr<StoreTerm> TermKeeper::Campaign(const std::string& holder, absl::Duration ttl,
                                               const std::function<absl::StatusOr<Epoch>()>& raise_epoch) {
  if (holder.empty() || ttl <= absl::ZeroDuration()) {
    return Error(v1::REASON_INVALID_ARGUMENT, "campaign: a holder and a positive time are needed");
  }
  absl::Duration began = clock_.Uptime();
  {
    MutexLock lock(mutex_);
    if (campaigning_ || (!holder_.empty() && holder_ != holder && began < term_.valid_until)) {
      return Error(v1::REASON_CONFLICT, "another holder's term runs");
    }
    campaigning_ = true;
    holder_.clear();  // the old term of the same holder ends here, whatever comes of this
  }
  absl::StatusOr<Epoch> epoch = raise_epoch();
  MutexLock lock(mutex_);
  campaigning_ = false;
  if (!epoch.ok()) return epoch.status();
  holder_ = holder;
  term_ = {*epoch, began + ttl};
  return term_;
}

bool TermKeeper::Runs(const std::string& holder, Epoch epoch) {
  return !holder.empty() && holder_ == holder && term_.epoch == epoch && clock_.Uptime() < term_.valid_until;
}

absl::StatusOr<StoreTerm> TermKeeper::Renew(const std::string& holder, Epoch epoch, absl::Duration ttl) {
  if (ttl <= absl::ZeroDuration())
    return Error(v1::REASON_INVALID_ARGUMENT, "renew: a positive time is needed");
  MutexLock lock(mutex_);
  if (!Runs(holder, epoch)) return Error(v1::REASON_FENCED, "that term has ended");
  term_.valid_until = clock_.Uptime() + ttl;
  return term_;
}

absl::Status TermKeeper::Resign(const std::string& holder, Epoch epoch) {
  MutexLock lock(mutex_);
  if (!Runs(holder, epoch)) return Error(v1::REASON_FENCED, "that term has ended");
  holder_.clear();
  return absl::OkStatus();
}

void TermKeeper::End() {
  MutexLock lock(mutex_);
  holder_.clear();
}

absl::StatusOr<Epoch> NextEpoch(std::string_view value) {
  if (value.empty()) return Epoch{1};
  Epoch epoch = 0;
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), epoch);
  if (error != std::errc() || end != value.data() + value.size() || epoch + 1 == 0) {
    return Error(v1::REASON_STORE_FAILED, "the epoch key holds no number");
  }
  return epoch + 1;
}

}  // namespace hsm
