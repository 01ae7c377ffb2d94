#include "coordinator/backup_forecast.h"

#include <gtest/gtest.h>

namespace hsm {
namespace {

// Three partitions with the published rates of a managed HSM: P-256 signatures at 330 a second each,
// re-wrapping at 1,075.
ForecastInput ManagedHsm(double in_flight) {
  ForecastInput input;
  input.ready = 3;
  input.busy = 1;
  input.versions = 10'000;
  input.export_seconds = 1 / 2200.0 + 1 / 2100.0;
  input.own_capacity = true;
  input.in_flight = in_flight;
  input.operations_per_second = in_flight < 3 ? in_flight * 330 : 990;
  return input;
}

TEST(BackupForecastTest, SaturatedLoadLosesAtMostTheBusyPartition) {
  for (double callers : {6, 16, 32, 64}) {
    const auto forecast = ForecastBackup(ManagedHsm(callers));
    EXPECT_GE(forecast.ratio(), 0.6) << callers;
    EXPECT_LE(forecast.ratio(), 1.0) << callers;
    EXPECT_EQ(forecast.busy_partitions(), 1u);
    EXPECT_GE(forecast.seconds(), 9) << callers;
  }
}

// Measured with callers in eight batches on partitions of a quarter of these rates: a version was exported in
// the time of hardly more than one signature, and nearly all of the load was kept.
TEST(BackupForecastTest, AnExportWaitsForOneOperationNotForAllThatWait) {
  ForecastInput input = ManagedHsm(32);
  input.versions = 1'000;
  input.export_seconds *= 4;
  input.operations_per_second = 189;
  const auto forecast = ForecastBackup(input);
  EXPECT_NEAR(forecast.ratio(), 0.97, 0.1);
  EXPECT_NEAR(forecast.seconds(), 13.1, 4);
}

TEST(BackupForecastTest, LightLoadFindsTheFreePartitions) {
  EXPECT_GE(ForecastBackup(ManagedHsm(1)).ratio(), 0.95);
}

TEST(BackupForecastTest, AFloorCostsTime) {
  ForecastInput input = ManagedHsm(8);
  const auto free = ForecastBackup(input);
  ASSERT_LT(free.ratio(), 0.9);
  input.floor = 0.95;
  const auto held = ForecastBackup(input);
  EXPECT_DOUBLE_EQ(held.ratio(), 0.95);
  EXPECT_GT(held.seconds(), free.seconds());
}

TEST(BackupForecastTest, TheSameInputGivesTheSameForecast) {
  EXPECT_EQ(ForecastBackup(ManagedHsm(20)).SerializeAsString(),
            ForecastBackup(ManagedHsm(20)).SerializeAsString());
}

TEST(BackupForecastTest, WhatIsNotKnownIsAbsent) {
  ForecastInput input = ManagedHsm(8);
  input.busy = 0;
  const auto forecast = ForecastBackup(input);
  EXPECT_FALSE(forecast.has_ratio());
  EXPECT_FALSE(forecast.has_seconds());
  input = ManagedHsm(8);
  input.export_seconds = 0;
  EXPECT_FALSE(ForecastBackup(input).has_seconds());
}

TEST(BackupForecastTest, SoftwareTokensShareTheHost) {
  ForecastInput input;
  input.ready = 3;
  input.busy = 1;
  input.versions = 1'000;
  input.export_seconds = 0.0008;
  input.in_flight = 8;
  input.operations_per_second = 2'000;
  input.processors = 2;
  const double small = ForecastBackup(input).ratio();
  input.processors = 32;
  EXPECT_LT(small, ForecastBackup(input).ratio());
}

}  // namespace
}  // namespace hsm
