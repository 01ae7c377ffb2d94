#include "coordinator/routing.h"

#include <algorithm>

namespace hsm {
namespace {

// A partition at work on a backup is chosen over an idle one only when that one has this much more in flight.
constexpr uint64_t kBusyPenalty = 8;

uint64_t LoadOf(const RouteLoad& load) {
  return load.in_flight + (load.busy ? kBusyPenalty + load.in_flight : 0);
}

}  // namespace

int ChoosePartition(std::span<const RouteLoad> partitions, uint64_t random_bits) {
  uint32_t eligible = 0;
  for (const RouteLoad& load : partitions) eligible += load.eligible;
  if (eligible == 0) return -1;
  // The n-th eligible one.
  auto nth = [&](uint32_t n) {
    for (size_t i = 0; i < partitions.size(); ++i) {
      if (partitions[i].eligible && n-- == 0) return static_cast<int>(i);
    }
    return -1;
  };
  uint32_t first = static_cast<uint32_t>(random_bits & 0xffffffff) % eligible;
  if (eligible == 1) return nth(first);
  uint32_t second = static_cast<uint32_t>(random_bits >> 32) % (eligible - 1);
  if (second >= first) ++second;
  int a = nth(first);
  int b = nth(second);
  return LoadOf(partitions[b]) < LoadOf(partitions[a]) ? b : a;
}

bool SpeaksAgainstPartition(v1::Reason reason) {
  switch (reason) {
    case v1::REASON_TOKEN_FAILED:
    case v1::REASON_TOKEN_SESSION:
    case v1::REASON_TOKEN_CAPACITY:
    case v1::REASON_PIN_INCORRECT:
    case v1::REASON_SELF_TEST_FAILED:
    case v1::REASON_AUDIT_FAILED:
    case v1::REASON_UNREACHABLE:
    case v1::REASON_DEADLINE_EXCEEDED:
    case v1::REASON_INTERNAL:
      return true;
    default:
      return false;
  }
}

void Breaker::Roll(absl::Duration now) {
  if (now - window_start_ < kWindow) return;
  window_start_ = now;
  good_ = bad_ = 0;
}

void Breaker::Open(absl::Duration now) {
  state_ = State::kOpen;
  open_until_ = now + pause_;
  pause_ = std::min(pause_ * 2, absl::Seconds(8));
  probing_ = false;
  probes_good_ = 0;
}

void Breaker::OnResult(bool ok, uint32_t operations, absl::Duration now) {
  switch (state_) {
    case State::kClosed: {
      Roll(now);
      (ok ? good_ : bad_) += operations;
      bool share = good_ + bad_ >= kShareNeeds &&
                   static_cast<double>(bad_) > kFailureShareMax * static_cast<double>(good_ + bad_);
      if (!ok && (bad_ >= kFailuresMax || share)) Open(now);
      return;
    }
    case State::kOpen:
      return;  // answers to what was sent before it opened
    case State::kHalfOpen:
      probing_ = false;
      if (!ok) return Open(now);
      if (++probes_good_ < kProbesNeeded) return;
      *this = Breaker();
      window_start_ = now;
      return;
  }
}

bool Breaker::Admit(absl::Duration now) {
  if (state_ == State::kClosed) return true;
  if (state_ == State::kOpen) {
    if (now < open_until_) return false;
    state_ = State::kHalfOpen;
  }
  // A probe whose answer never came does not lock the partition out for ever.
  if (probing_ && now - probe_since_ < absl::Seconds(5)) return false;
  probing_ = true;
  probe_since_ = now;
  return true;
}

}  // namespace hsm
