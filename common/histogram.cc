#include "common/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace hsm {
namespace {

// Values below 2,048 have a bucket each; above, each power of two has 1,024 equal ones: never coarser than
// 0.1 %.
constexpr int kHalfBits = 10;
constexpr int64_t kHalf = int64_t{1} << kHalfBits;
constexpr int64_t kLinear = 2 * kHalf;
constexpr int64_t kValueMax = 60'000'000;

size_t IndexOf(int64_t value) {
  if (value < kLinear) return static_cast<size_t>(value);
  int shift = std::bit_width(static_cast<uint64_t>(value)) - (kHalfBits + 1);
  return static_cast<size_t>(kLinear + (shift - 1) * kHalf + ((value >> shift) - kHalf));
}

int64_t LowerBound(size_t index) {
  auto at = static_cast<int64_t>(index);
  if (at < kLinear) return at;
  int64_t shift = (at - kLinear) / kHalf + 1;
  return ((at - kLinear) % kHalf + kHalf) << shift;
}

}  // namespace

Histogram::Histogram() : counts_(IndexOf(kValueMax) + 1) {}

void Histogram::Record(int64_t value_us, uint64_t times) {
  if (times == 0) return;
  int64_t value = std::clamp<int64_t>(value_us, 1, kValueMax);
  counts_[IndexOf(value)] += times;
  min_us_ = count_ == 0 ? value : std::min(min_us_, value);
  max_us_ = std::max(max_us_, value);
  count_ += times;
  sum_us_ += static_cast<uint64_t>(value) * times;
}

void Histogram::Merge(const Histogram& other) {
  if (other.count_ == 0) return;
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  min_us_ = count_ == 0 ? other.min_us_ : std::min(min_us_, other.min_us_);
  max_us_ = std::max(max_us_, other.max_us_);
  count_ += other.count_;
  sum_us_ += other.sum_us_;
}

int64_t Histogram::PercentileUs(double percent) const {
  if (count_ == 0) return 0;
  double wanted = std::ceil(static_cast<double>(count_) * std::clamp(percent, 0.0, 100.0) / 100.0);
  auto rank = std::clamp<uint64_t>(static_cast<uint64_t>(wanted), 1, count_);
  uint64_t seen = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen >= rank) return std::min(std::max(LowerBound(i + 1) - 1, min_us_), max_us_);
  }
  return max_us_;
}

std::vector<std::pair<int64_t, uint64_t>> Histogram::Buckets() const {
  std::vector<std::pair<int64_t, uint64_t>> out;
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (counts_[i] != 0) out.emplace_back(LowerBound(i), counts_[i]);
  }
  return out;
}

}  // namespace hsm
