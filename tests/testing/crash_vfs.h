#pragma once
// A disk in memory for SQLite that remembers every write and sync, so that a test can ask what a power loss
// at any moment would have left. Files are seen by all connections of the process that name this VFS (locks
// and shared memory work). Thread-safe. Model: a write is durable once a later sync of its file succeeded;
// before that each of its 512-byte sectors is kept or lost by chance. A created file or an unlink becomes
// durable with the next sync of any file. Not modelled: lying disks, bit rot.
#include <cstdint>
#include <memory>
#include <string>

#include "tests/testing/crash_platter.h"

namespace hsm::testing {

class CrashVfs {
 public:
  using Image = DiskImage;  // path -> content

  explicit CrashVfs(std::string name);  // registers it; `name` goes into StoreSqliteOptions::vfs
  ~CrashVfs();                          // nobody uses a connection any more
  CrashVfs(const CrashVfs&) = delete;
  CrashVfs& operator=(const CrashVfs&) = delete;
  const std::string& name() const { return name_; }

  // Moments: the number of changes and syncs so far. What was acknowledged at moment m must survive a loss at
  // >= m.
  size_t moment() const;
  // The disk as a power loss right after `moment` changes leaves it: of what was not synced, `percent` of the
  // sectors are kept. `moment` must not be smaller than in the call before (the log is played forward once)
  // unless Rewind.
  Image ImageAt(size_t moment, int percent, uint64_t seed);
  void Rewind();

  // Replaces the disk and forgets the log. Connections still open are a dead process's: they can no longer
  // change anything. After a SIGKILL: Load(Current()); after a power loss: Load(ImageAt(...)).
  void Load(const Image& image);
  Image Current() const;  // what a process sees
  // Forget the log (endless runs), everything so far counts as durable.
  void ForgetLog();

  // Faults. The n-th sync from now (1 = the next one) fails once with an I/O error, and what it should have
  // made durable never will be unless written again, as on Linux. 0 = never.
  void FailSync(size_t n);
  void FailWrite(size_t n);          // once, nothing written
  void SetCapacity(uint64_t bytes);  // of all files together; SQLITE_FULL beyond. 0 = no limit
  // From now on every change fails and leaves nothing, as in a process that was killed; until Load.
  void PowerOff();

  struct Impl;  // for crash_vfs.cc

 private:
  std::string name_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm::testing
