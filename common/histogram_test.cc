#include "common/histogram.h"

#include <gtest/gtest.h>

namespace hsm {
namespace {

TEST(HistogramTest, EmptySaysZero) {
  Histogram histogram;
  EXPECT_EQ(histogram.PercentileUs(50), 0);
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_TRUE(histogram.Buckets().empty());
}

TEST(HistogramTest, PercentilesAreRightToThreeDigits) {
  Histogram histogram;
  for (int64_t value = 1; value <= 100'000; ++value) histogram.Record(value);
  for (double percent : {1.0, 50.0, 90.0, 99.0, 99.9}) {
    double want = percent / 100 * 100'000;
    EXPECT_NEAR(static_cast<double>(histogram.PercentileUs(percent)), want, want * 0.001 + 1) << percent;
  }
  EXPECT_EQ(histogram.PercentileUs(100), 100'000);
  EXPECT_EQ(histogram.max_us(), 100'000);
  EXPECT_NEAR(histogram.MeanUs(), 50'000.5, 0.01);
}

TEST(HistogramTest, OutOfRangeIsClamped) {
  Histogram histogram;
  histogram.Record(0);
  histogram.Record(-5);
  histogram.Record(1'000'000'000);
  EXPECT_EQ(histogram.min_us(), 1);
  EXPECT_EQ(histogram.max_us(), 60'000'000);
  EXPECT_EQ(histogram.count(), 3u);
}

TEST(HistogramTest, MergingIsAddingUp) {
  Histogram one, two, all;
  for (int64_t value = 1; value < 50'000; value += 7) {
    (value % 2 == 0 ? one : two).Record(value);
    all.Record(value);
  }
  one.Merge(two);
  one.Merge(Histogram());
  EXPECT_EQ(one.Buckets(), all.Buckets());
  EXPECT_EQ(one.PercentileUs(99), all.PercentileUs(99));
  EXPECT_EQ(one.count(), all.count());
}

TEST(HistogramTest, BucketsHaveTheirLowerBound) {
  Histogram histogram;
  histogram.Record(2'047);
  histogram.Record(2'049);
  histogram.Record(4'098, 3);
  auto buckets = histogram.Buckets();
  ASSERT_EQ(buckets.size(), 3u);
  EXPECT_EQ(buckets[0], (std::pair<int64_t, uint64_t>(2'047, 1)));
  EXPECT_EQ(buckets[1], (std::pair<int64_t, uint64_t>(2'048, 1)));
  EXPECT_EQ(buckets[2], (std::pair<int64_t, uint64_t>(4'096, 3)));
}

}  // namespace
}  // namespace hsm
