#include "tests/testing/crash_vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "common/check.h"
#include "tests/testing/crash_platter.h"

namespace hsm::testing {
namespace {

constexpr int kSector = 512;

struct Handle;

// A file as the process sees it, with the locks of its connections.
struct Live {
  uint64_t id = 0;
  std::string bytes;
  bool logged = true;  // not for SQLite's own temporary files
  bool gone = false;   // with the process that had it open
  std::set<Handle*> handles;
  std::vector<std::unique_ptr<char[]>> shared_memory;
};

struct Handle {
  sqlite3_file base;
  CrashVfs::Impl* disk;
  std::shared_ptr<Live> file;
  int level = SQLITE_LOCK_NONE;
  bool maps = false;
  unsigned shared_slots = 0, exclusive_slots = 0;  // of the shared memory's locks
};

}  // namespace

struct CrashVfs::Impl {
  sqlite3_vfs vfs{};
  sqlite3_vfs* system = nullptr;
  // Not hsm::Mutex, whose release lets other simulated threads run: inside a SQLite call none of them may.
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Live>> files;
  uint64_t next_id = 1;
  Image start;
  std::map<std::string, uint64_t> start_ids;
  std::vector<DiskChange> log;
  CrashPlatter platter;
  size_t played = 0;
  size_t fail_sync = 0, fail_write = 0;
  uint64_t capacity = 0;
  bool off = false;

  void Record(const Live& file, DiskChange change) {
    if (!file.logged) return;
    change.file = file.id;
    log.push_back(std::move(change));
  }
  uint64_t BytesInUse() {
    uint64_t bytes = 0;
    for (const auto& [name, file] : files) bytes += file->bytes.size();
    return bytes;
  }
  void StartOver() {
    log.clear();
    played = 0;
    platter.Start(start, start_ids);
  }
};

namespace {

CrashVfs::Impl& DiskOf(sqlite3_vfs* vfs) { return *static_cast<CrashVfs::Impl*>(vfs->pAppData); }
Handle& HandleOf(sqlite3_file* file) { return *reinterpret_cast<Handle*>(file); }

int Close(sqlite3_file* file) {
  Handle& handle = HandleOf(file);
  {
    std::lock_guard lock(handle.disk->mutex);
    handle.file->handles.erase(&handle);
  }
  handle.~Handle();
  return SQLITE_OK;
}

int Read(sqlite3_file* file, void* out, int length, sqlite3_int64 offset) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  const std::string& bytes = handle.file->bytes;
  size_t from = std::min(bytes.size(), static_cast<size_t>(offset));
  size_t have = std::min(bytes.size() - from, static_cast<size_t>(length));
  std::memcpy(out, bytes.data() + from, have);
  std::memset(static_cast<char*>(out) + have, 0, static_cast<size_t>(length) - have);
  return have == static_cast<size_t>(length) ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

int Write(sqlite3_file* file, const void* data, int length, sqlite3_int64 offset) {
  Handle& handle = HandleOf(file);
  CrashVfs::Impl& disk = *handle.disk;
  std::lock_guard lock(disk.mutex);
  if (disk.off || handle.file->gone || (disk.fail_write > 0 && --disk.fail_write == 0))
    return SQLITE_IOERR_WRITE;
  std::string& bytes = handle.file->bytes;
  uint64_t end = static_cast<uint64_t>(offset) + static_cast<uint64_t>(length);
  if (disk.capacity > 0 && end > bytes.size() && disk.BytesInUse() + end - bytes.size() > disk.capacity) {
    return SQLITE_FULL;
  }
  std::string_view view(static_cast<const char*>(data), static_cast<size_t>(length));
  WriteInto(bytes, static_cast<uint64_t>(offset), view);
  disk.Record(*handle.file,
              {DiskChange::Kind::kWrite, 0, {}, static_cast<uint64_t>(offset), std::string(view)});
  return SQLITE_OK;
}

int Truncate(sqlite3_file* file, sqlite3_int64 size) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  if (handle.disk->off || handle.file->gone) return SQLITE_IOERR_TRUNCATE;
  handle.file->bytes.resize(static_cast<size_t>(size));
  handle.disk->Record(*handle.file, {DiskChange::Kind::kTruncate, 0, {}, static_cast<uint64_t>(size), {}});
  return SQLITE_OK;
}

int Sync(sqlite3_file* file, int) {
  Handle& handle = HandleOf(file);
  CrashVfs::Impl& disk = *handle.disk;
  std::lock_guard lock(disk.mutex);
  if (disk.off || handle.file->gone) return SQLITE_IOERR_FSYNC;
  bool lost = disk.fail_sync > 0 && --disk.fail_sync == 0;
  disk.Record(*handle.file, {lost ? DiskChange::Kind::kLostSync : DiskChange::Kind::kSync});
  return lost ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

int FileSize(sqlite3_file* file, sqlite3_int64* size) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  *size = static_cast<sqlite3_int64>(handle.file->bytes.size());
  return SQLITE_OK;
}

// SQLite's five lock levels, as its documentation of xLock has them.
int Lock(sqlite3_file* file, int level) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  if (handle.level >= level) return SQLITE_OK;
  int others = SQLITE_LOCK_NONE;
  for (Handle* other : handle.file->handles) {
    if (other != &handle) others = std::max(others, other->level);
  }
  if (level == SQLITE_LOCK_SHARED && others >= SQLITE_LOCK_PENDING) return SQLITE_BUSY;
  if (level >= SQLITE_LOCK_RESERVED && others >= SQLITE_LOCK_RESERVED) return SQLITE_BUSY;
  if (level == SQLITE_LOCK_EXCLUSIVE && others >= SQLITE_LOCK_SHARED) {
    handle.level = SQLITE_LOCK_PENDING;  // keeps new readers out
    return SQLITE_BUSY;
  }
  handle.level = level;
  return SQLITE_OK;
}

int Unlock(sqlite3_file* file, int level) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  handle.level = std::min(handle.level, level);
  return SQLITE_OK;
}

int CheckReservedLock(sqlite3_file* file, int* reserved) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  *reserved = 0;
  for (Handle* other : handle.file->handles) *reserved |= other->level >= SQLITE_LOCK_RESERVED;
  return SQLITE_OK;
}

int FileControl(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int SectorSize(sqlite3_file*) { return kSector; }
int DeviceCharacteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }  // as the system's VFS

int ShmMap(sqlite3_file* file, int region, int bytes, int extend, void volatile** out) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  handle.maps = true;
  auto& regions = handle.file->shared_memory;
  *out = nullptr;
  if (regions.size() <= static_cast<size_t>(region) && extend == 0) return SQLITE_OK;
  while (regions.size() <= static_cast<size_t>(region)) {
    regions.push_back(std::make_unique<char[]>(static_cast<size_t>(bytes)));
  }
  *out = regions[static_cast<size_t>(region)].get();
  return SQLITE_OK;
}

int ShmLock(sqlite3_file* file, int first, int count, int flags) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  unsigned slots = ((1u << count) - 1) << first;
  if (flags & SQLITE_SHM_UNLOCK) {
    handle.shared_slots &= ~slots;
    handle.exclusive_slots &= ~slots;
    return SQLITE_OK;
  }
  for (Handle* other : handle.file->handles) {
    if (other == &handle) continue;
    unsigned in_the_way = other->exclusive_slots;
    if (flags & SQLITE_SHM_EXCLUSIVE) in_the_way |= other->shared_slots;
    if (in_the_way & slots) return SQLITE_BUSY;
  }
  (flags & SQLITE_SHM_EXCLUSIVE ? handle.exclusive_slots : handle.shared_slots) |= slots;
  return SQLITE_OK;
}

// Taking a mutex and letting it go is a barrier.
void ShmBarrier(sqlite3_file* file) { std::lock_guard lock(HandleOf(file).disk->mutex); }

int ShmUnmap(sqlite3_file* file, int) {
  Handle& handle = HandleOf(file);
  std::lock_guard lock(handle.disk->mutex);
  handle.maps = false;
  handle.shared_slots = handle.exclusive_slots = 0;
  bool mapped = std::any_of(handle.file->handles.begin(), handle.file->handles.end(),
                            [](const Handle* other) { return other->maps; });
  if (!mapped) handle.file->shared_memory.clear();  // the next one to map recovers it from the log
  return SQLITE_OK;
}

const sqlite3_io_methods kMethods = {.iVersion = 2,
                                     .xClose = Close,
                                     .xRead = Read,
                                     .xWrite = Write,
                                     .xTruncate = Truncate,
                                     .xSync = Sync,
                                     .xFileSize = FileSize,
                                     .xLock = Lock,
                                     .xUnlock = Unlock,
                                     .xCheckReservedLock = CheckReservedLock,
                                     .xFileControl = FileControl,
                                     .xSectorSize = SectorSize,
                                     .xDeviceCharacteristics = DeviceCharacteristics,
                                     .xShmMap = ShmMap,
                                     .xShmLock = ShmLock,
                                     .xShmBarrier = ShmBarrier,
                                     .xShmUnmap = ShmUnmap,
                                     .xFetch = nullptr,
                                     .xUnfetch = nullptr};

int OpenFile(sqlite3_vfs* vfs, const char* name, sqlite3_file* out, int flags, int* out_flags) {
  CrashVfs::Impl& disk = DiskOf(vfs);
  out->pMethods = nullptr;
  std::lock_guard lock(disk.mutex);
  std::shared_ptr<Live> file;
  if (name == nullptr) {
    file = std::make_shared<Live>();
    file->logged = false;
  } else if (auto found = disk.files.find(name); found != disk.files.end()) {
    if ((flags & SQLITE_OPEN_EXCLUSIVE) && (flags & SQLITE_OPEN_CREATE)) return SQLITE_CANTOPEN;
    file = found->second;
  } else {
    if (!(flags & SQLITE_OPEN_CREATE) || disk.off) return SQLITE_CANTOPEN;
    file = std::make_shared<Live>();
    file->id = disk.next_id++;
    disk.files[name] = file;
    disk.Record(*file, {DiskChange::Kind::kCreate, 0, name});
  }
  Handle* handle = new (out) Handle{{&kMethods}, &disk, file};
  file->handles.insert(handle);
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int DeleteFile(sqlite3_vfs* vfs, const char* name, int) {
  CrashVfs::Impl& disk = DiskOf(vfs);
  std::lock_guard lock(disk.mutex);
  auto found = disk.files.find(name);
  if (found == disk.files.end()) return SQLITE_IOERR_DELETE_NOENT;
  if (disk.off) return SQLITE_IOERR_DELETE;
  disk.Record(*found->second, {DiskChange::Kind::kDelete, 0, name});
  disk.files.erase(found);
  return SQLITE_OK;
}

int Access(sqlite3_vfs* vfs, const char* name, int, int* out) {
  CrashVfs::Impl& disk = DiskOf(vfs);
  std::lock_guard lock(disk.mutex);
  *out = disk.files.contains(name);
  return SQLITE_OK;
}

int FullPathname(sqlite3_vfs*, const char* name, int size, char* out) {
  sqlite3_snprintf(size, out, "%s", name);
  return SQLITE_OK;
}

sqlite3_vfs* System(sqlite3_vfs* vfs) { return DiskOf(vfs).system; }
int Randomness(sqlite3_vfs* vfs, int size, char* out) {
  return System(vfs)->xRandomness(System(vfs), size, out);
}
int Sleep(sqlite3_vfs* vfs, int us) { return System(vfs)->xSleep(System(vfs), us); }
int CurrentTime(sqlite3_vfs* vfs, double* out) { return System(vfs)->xCurrentTime(System(vfs), out); }
int GetLastError(sqlite3_vfs*, int, char*) { return 0; }
int CurrentTimeInt64(sqlite3_vfs* vfs, sqlite3_int64* out) {
  return System(vfs)->xCurrentTimeInt64(System(vfs), out);
}

}  // namespace

CrashVfs::CrashVfs(std::string name) : name_(std::move(name)), impl_(std::make_unique<Impl>()) {
  impl_->system = sqlite3_vfs_find(nullptr);
  sqlite3_vfs& vfs = impl_->vfs;
  vfs.iVersion = 2;
  vfs.szOsFile = sizeof(Handle);
  vfs.mxPathname = 512;
  vfs.zName = name_.c_str();
  vfs.pAppData = impl_.get();
  vfs.xOpen = OpenFile;
  vfs.xDelete = DeleteFile;
  vfs.xAccess = Access;
  vfs.xFullPathname = FullPathname;
  vfs.xRandomness = Randomness;
  vfs.xSleep = Sleep;
  vfs.xCurrentTime = CurrentTime;
  vfs.xGetLastError = GetLastError;
  vfs.xCurrentTimeInt64 = CurrentTimeInt64;
  HSM_CHECK(sqlite3_vfs_find(name_.c_str()) == nullptr);
  HSM_CHECK(sqlite3_vfs_register(&vfs, 0) == SQLITE_OK);
}

CrashVfs::~CrashVfs() { sqlite3_vfs_unregister(&impl_->vfs); }

size_t CrashVfs::moment() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->log.size();
}

CrashVfs::Image CrashVfs::ImageAt(size_t moment, int percent, uint64_t seed) {
  std::lock_guard lock(impl_->mutex);
  HSM_CHECK(moment >= impl_->played && moment <= impl_->log.size());
  while (impl_->played < moment) impl_->platter.Play(impl_->log[impl_->played++]);
  return impl_->platter.After(percent, seed);
}

void CrashVfs::Rewind() {
  std::lock_guard lock(impl_->mutex);
  impl_->played = 0;
  impl_->platter.Start(impl_->start, impl_->start_ids);
}

void CrashVfs::Load(const Image& image) {
  std::lock_guard lock(impl_->mutex);
  for (const auto& [name, file] : impl_->files) file->gone = true;
  impl_->files.clear();
  impl_->start = image;
  impl_->start_ids.clear();
  for (const auto& [name, bytes] : image) {
    auto file = std::make_shared<Live>();
    file->id = impl_->start_ids[name] = impl_->next_id++;
    file->bytes = bytes;
    impl_->files[name] = std::move(file);
  }
  impl_->off = false;
  impl_->StartOver();
}

CrashVfs::Image CrashVfs::Current() const {
  std::lock_guard lock(impl_->mutex);
  Image image;
  for (const auto& [name, file] : impl_->files) image[name] = file->bytes;
  return image;
}

void CrashVfs::ForgetLog() {
  std::lock_guard lock(impl_->mutex);
  impl_->start.clear();
  impl_->start_ids.clear();
  for (const auto& [name, file] : impl_->files) {
    impl_->start[name] = file->bytes;
    impl_->start_ids[name] = file->id;
  }
  impl_->StartOver();
}

void CrashVfs::FailSync(size_t n) {
  std::lock_guard lock(impl_->mutex);
  impl_->fail_sync = n;
}

void CrashVfs::FailWrite(size_t n) {
  std::lock_guard lock(impl_->mutex);
  impl_->fail_write = n;
}

void CrashVfs::SetCapacity(uint64_t bytes) {
  std::lock_guard lock(impl_->mutex);
  impl_->capacity = bytes;
}

void CrashVfs::PowerOff() {
  std::lock_guard lock(impl_->mutex);
  impl_->off = true;
}

}  // namespace hsm::testing
