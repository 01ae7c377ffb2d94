#pragma once
// What a backup will cost, said before it begins. Pure: the same input gives the same forecast.
#include <cstdint>
#include <optional>

#include "hsm/v1/backup.pb.h"

namespace hsm {

struct ForecastInput {
  uint32_t ready = 0;              // partitions that serve
  uint32_t busy = 0;               // of them, how many will work on the backup
  uint64_t versions = 0;           // to export
  double export_seconds = 0;       // of one version on an otherwise idle partition; 0 = not known
  uint32_t exports_in_flight = 2;  // calls to a busy partition at a time
  // The present load; absent without traffic.
  std::optional<double> operations_per_second;
  double in_flight = 0;  // operations of callers under way, mean
  // True if each partition has a capacity of its own (a device, or a profile that stands for one). False: the
  // partitions are software on shared processors, and an export takes time from all of them.
  bool own_capacity = false;
  uint32_t processors = 1;      // of the shared host
  std::optional<double> floor;  // min_throughput
};

v1::ThroughputForecast ForecastBackup(const ForecastInput& input);

}  // namespace hsm
