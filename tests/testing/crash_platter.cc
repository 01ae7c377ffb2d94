#include "tests/testing/crash_platter.h"

#include <algorithm>

#include "tests/testing/seeded_random.h"

namespace hsm::testing {
namespace {

constexpr size_t kSector = 512;

class Chance {
 public:
  explicit Chance(uint64_t seed) { SeedDraws(seed, state_); }
  uint64_t Below(uint64_t bound) { return NextDraw(state_) % bound; }
  bool Percent(int percent) { return Below(100) < static_cast<uint64_t>(percent); }

 private:
  uint64_t state_[4];
};

void Enter(const DiskChange& entry, std::map<std::string, uint64_t>& names) {
  if (entry.kind == DiskChange::Kind::kCreate) {
    names[entry.name] = entry.file;
  } else {
    names.erase(entry.name);
  }
}

void Keep(const DiskChange& change, std::string& bytes) {
  if (change.kind == DiskChange::Kind::kTruncate) {
    bytes.resize(change.offset);
  } else {
    WriteInto(bytes, change.offset, change.data);
  }
}

void KeepSome(const DiskChange& change, int percent, Chance& chance, std::string& bytes) {
  if (change.kind == DiskChange::Kind::kTruncate) {
    if (chance.Percent(percent)) Keep(change, bytes);
    return;
  }
  std::string_view data = change.data;
  for (size_t at = 0; at < data.size();) {
    size_t length = std::min(kSector - (change.offset + at) % kSector, data.size() - at);
    if (chance.Percent(percent)) WriteInto(bytes, change.offset + at, data.substr(at, length));
    at += length;
  }
}

}  // namespace

void WriteInto(std::string& bytes, uint64_t offset, std::string_view data) {
  if (bytes.size() < offset + data.size()) bytes.resize(offset + data.size());
  std::copy(data.begin(), data.end(), bytes.begin() + static_cast<ptrdiff_t>(offset));
}

void CrashPlatter::Start(const DiskImage& image, const std::map<std::string, uint64_t>& ids) {
  files_.clear();
  names_.clear();
  directory_.clear();
  for (const auto& [name, bytes] : image) {
    names_[name] = ids.at(name);
    files_[ids.at(name)].bytes = bytes;
  }
}

void CrashPlatter::Play(const DiskChange& change) {
  switch (change.kind) {
    case DiskChange::Kind::kCreate:
    case DiskChange::Kind::kDelete:
      directory_.push_back(change);
      return;
    case DiskChange::Kind::kWrite:
    case DiskChange::Kind::kTruncate:
      files_[change.file].unsynced.push_back(change);
      return;
    case DiskChange::Kind::kSync: {
      for (const DiskChange& entry : directory_) Enter(entry, names_);
      directory_.clear();
      File& file = files_[change.file];
      for (const DiskChange& write : file.unsynced) Keep(write, file.bytes);
      file.unsynced.clear();
      return;
    }
    case DiskChange::Kind::kLostSync:
      files_[change.file].unsynced.clear();
      return;
  }
}

DiskImage CrashPlatter::After(int percent, uint64_t seed) const {
  Chance chance(seed);
  std::map<std::string, uint64_t> names = names_;
  size_t entries = chance.Below(directory_.size() + 1);  // a journal: in order, up to some point
  if (percent == 0) entries = 0;
  if (percent == 100) entries = directory_.size();
  for (size_t i = 0; i < entries; ++i) Enter(directory_[i], names);
  DiskImage image;
  for (const auto& [name, id] : names) {
    std::string& bytes = image[name];
    auto file = files_.find(id);
    if (file == files_.end()) continue;
    bytes = file->second.bytes;
    for (const DiskChange& change : file->second.unsynced) KeepSome(change, percent, chance, bytes);
  }
  return image;
}

}  // namespace hsm::testing
