#pragma once
// What the SQLite engine does with the real file system beside SQLite itself: the exclusive lock, file modes,
// free space and the reserve file, old snapshot files. Used by one thread at a time.
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace hsm {

class SqliteDisk {
 public:
  // Locks `path`.lock (LOCKED if somebody has it), creates the empty database with mode 0600 if it is
  // missing, removes snapshots a crash left behind, makes the reserve.
  static absl::StatusOr<std::unique_ptr<SqliteDisk>> Open(const std::string& path, uint64_t reserve_bytes,
                                                          uint64_t free_bytes_min);
  ~SqliteDisk();

  uint64_t FreeBytes() const;
  // Looks at the disk, makes the reserve again if there is room for it; true when puts should be refused.
  bool ShortOfSpace();
  bool ReleaseReserve();  // false if there was none
  // A name for a new snapshot; the file exists, empty, mode 0600.
  absl::StatusOr<std::string> NewSnapshotFile();

 private:
  SqliteDisk(std::string path, uint64_t reserve_bytes, uint64_t free_bytes_min, int lock)
      : path_(std::move(path)), reserve_bytes_(reserve_bytes), free_bytes_min_(free_bytes_min), lock_(lock) {}
  void MakeReserve();

  const std::string path_;
  const uint64_t reserve_bytes_, free_bytes_min_;
  int lock_;
  bool reserve_ = false;
  uint64_t snapshots_ = 0;
};

}  // namespace hsm
