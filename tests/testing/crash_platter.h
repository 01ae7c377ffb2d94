#pragma once
// What a disk really has, played forward from the changes made to it; the model is described in crash_vfs.h.
// Not thread-safe.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace hsm::testing {

struct DiskChange {
  enum class Kind { kCreate, kDelete, kWrite, kTruncate, kSync, kLostSync };
  Kind kind;
  uint64_t file = 0;    // id: a name may be deleted and created again
  std::string name;     // kCreate, kDelete
  uint64_t offset = 0;  // kWrite; kTruncate: the new size
  std::string data;
};

using DiskImage = std::map<std::string, std::string>;  // path -> content

void WriteInto(std::string& bytes, uint64_t offset, std::string_view data);

class CrashPlatter {
 public:
  void Start(const DiskImage& image, const std::map<std::string, uint64_t>& ids);
  void Play(const DiskChange& change);
  // After a power loss now: `percent` of what is not synced is kept.
  DiskImage After(int percent, uint64_t seed) const;

 private:
  struct File {
    std::string bytes;
    std::vector<DiskChange> unsynced;
  };
  std::map<uint64_t, File> files_;
  std::map<std::string, uint64_t> names_;
  std::vector<DiskChange> directory_;  // creates and deletes since the last sync
};

}  // namespace hsm::testing
