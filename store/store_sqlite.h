#pragma once
// The embedded engine: one SQLite file on a local disk (WAL, synchronous=FULL), one process, one writer
// thread that puts several transactions into one disk sync. Layout, guarantees and failures: docs/store.md.
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "store/store.h"

namespace hsm {

struct StoreSqliteOptions {
  std::string path;  // of the database file; its directory exists
  std::string vfs;   // "" = the real disk; tests name an in-memory one (then no lock file and no reserve)
  Clock* clock = &RealClock();        // terms and waits
  uint64_t reserve_bytes = 64 << 20;  // given back when even a delete finds the disk full; must hold the log
  uint64_t free_bytes_min = 128 << 20;     // below this, only transactions that delete are taken
  int64_t change_revisions_max = 100'000;  // history kept for Follow; older is compacted by itself
  size_t group_transactions_max = 64;      // in one sync
  size_t queue_transactions_max = 4096;    // waiting; more are refused with BUSY
  size_t readers = 4;                      // connections for Get and Scan
  int checkpoint_pages = 4'000;            // of 4 KiB; log length that starts a checkpoint
};

// Errors: LOCKED when another process (or object) has the file open, STORE_FAILED when it cannot be opened or
// fails its check, CONFIG_INVALID when it is not ours. Snapshots and feeds must be destroyed before the
// store.
absl::StatusOr<std::unique_ptr<Store>> OpenStoreSqlite(StoreSqliteOptions options);

}  // namespace hsm
