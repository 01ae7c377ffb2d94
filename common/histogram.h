#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace hsm {

// Log-linear counts (as HDR histograms): 1 us .. 60 s with 3 significant digits; longer values count as 60 s,
// shorter as 1 us. Not thread-safe: one per thread, merged afterwards.
class Histogram {
 public:
  Histogram();
  void Record(int64_t value_us, uint64_t times = 1);
  void Merge(const Histogram& other);

  uint64_t count() const { return count_; }
  int64_t max_us() const { return max_us_; }  // exact
  int64_t min_us() const { return count_ == 0 ? 0 : min_us_; }
  double MeanUs() const {
    return count_ == 0 ? 0 : static_cast<double>(sum_us_) / static_cast<double>(count_);
  }
  // The smallest recorded value (to 3 digits) such that `percent` of all values are at or below it; 0 when
  // empty.
  int64_t PercentileUs(double percent) const;
  // (lower bound of the bucket, count), ascending, only those that are not empty.
  std::vector<std::pair<int64_t, uint64_t>> Buckets() const;

 private:
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  uint64_t sum_us_ = 0;
  int64_t min_us_ = 0;
  int64_t max_us_ = 0;
};

}  // namespace hsm
