#include "store/store_sqlite.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/error.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/sqlite.h"
#include "common/thread.h"
#include "store/fenced_store.h"
#include "store/sqlite_tables.h"
#include "tests/testing/crash_vfs.h"

namespace hsm {
namespace {

using testing::CrashVfs;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class StoreSqliteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogLevel(LogLevel::kOff);
    char name[] = "/tmp/store sqlite %41?#-XXXXXX";
    directory_ = mkdtemp(name);
    options_.path = directory_ + "/store";
    options_.reserve_bytes = options_.free_bytes_min = 1 << 20;
  }
  void TearDown() override {
    store_.reset();
    if (mounted_) umount(directory_.c_str());
    std::filesystem::remove_all(directory_);
  }

  void Open() {
    store_.reset();
    auto store = OpenStoreSqlite(options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void OpenInMemory() {
    store_.reset();
    disk_.reset();
    disk_ = std::make_unique<CrashVfs>("store-test");
    options_.vfs = disk_->name();
    options_.path = "/store";
    Open();
  }
  StoreCommit Put(const std::string& key, const std::string& value = "") {
    return store_->Commit({{}, {StoreOp::Put(key, value)}, {}});
  }
  StoreCommit Delete(const std::string& key) { return store_->Commit({{}, {StoreOp::Delete(key)}, {}}); }
  std::optional<StoreRecord> Find(const std::string& key) {
    auto found = store_->Get({&key, 1});
    EXPECT_TRUE(found.ok()) << found.status();
    if (!found.ok() || found->empty()) return std::nullopt;
    return found->front();
  }
  std::vector<std::string> Files() { return ListDirectory(directory_).value(); }
  // A small file system of its own, where the tests may mount one.
  bool MountSmallDisk(const char* size) {
    mounted_ = mount("tmpfs", directory_.c_str(), "tmpfs", 0, size) == 0;
    return mounted_;
  }

  std::string directory_;
  bool mounted_ = false;
  StoreSqliteOptions options_;
  std::unique_ptr<CrashVfs> disk_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreSqliteTest, ALatePageCostsWhatTheFirstDoes) {
  OpenInMemory();
  for (int i = 0; i < 20; ++i) {
    StoreTransaction fill;
    for (int k = 0; k < 50; ++k)
      fill.ops.push_back(StoreOp::Put("k/" + std::to_string(1000 + 50 * i + k), "value"));
    ASSERT_TRUE(store_->Commit(fill).status.ok());
  }
  auto tables = SqliteTables::Open(options_.path, SqliteTables::Role::kReader, options_);
  ASSERT_TRUE(tables.ok()) << tables.status();
  ASSERT_THAT((*tables)->Scan("k/", "", 10)->records, SizeIs(10));
  const int64_t first = (*tables)->ScanStepsForTest();
  const auto late = (*tables)->Scan("k/", "k/1900", 10);
  ASSERT_THAT(late->records, SizeIs(10));
  EXPECT_EQ(late->records[0].key, "k/1901");
  EXPECT_LT((*tables)->ScanStepsForTest() - first, 2 * first);
}

TEST_F(StoreSqliteTest, EverythingButTheTermOutlivesTheProcess) {
  Open();
  auto term = store_->Campaign("one", absl::Seconds(100));
  StoreCommit put = Put("/a", "1");
  Open();
  EXPECT_EQ(Find("/a"), (StoreRecord{"/a", "1", put.revision, put.revision}));
  EXPECT_EQ(ReasonOf(store_->Renew("one", term->epoch, absl::Seconds(100)).status()), v1::REASON_FENCED);
  auto next = store_->Campaign("two", absl::Seconds(100));
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->epoch, term->epoch + 1);
  EXPECT_EQ(Put("/a", "2").revision, put.revision + 2);
}

TEST_F(StoreSqliteTest, ASecondOpenerIsRefused) {
  Open();
  EXPECT_EQ(ReasonOf(OpenStoreSqlite(options_).status()), v1::REASON_LOCKED);
  pid_t child = fork();
  if (child == 0) _exit(ReasonOf(OpenStoreSqlite(options_).status()) == v1::REASON_LOCKED ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(Put("/a").outcome, StoreOutcome::kCommitted);  // the refused ones did no harm
  Open();
}

TEST_F(StoreSqliteTest, NobodyElseMayReadItsFiles) {
  mode_t before = umask(0);
  Open();
  Put("/a", "1");
  auto snapshot = store_->Snapshot();
  ASSERT_TRUE(snapshot.ok());
  EXPECT_THAT(Files(), ElementsAre("store", "store-shm", "store-wal", "store.lock", "store.reserve",
                                   "store.snapshot-1"));
  for (const std::string& name : Files()) {
    struct stat file;
    ASSERT_EQ(stat((directory_ + "/" + name).c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0600u) << name;
  }
  umask(before);
}

TEST_F(StoreSqliteTest, SnapshotsLeaveNothingBehind) {
  Open();
  {
    EXPECT_TRUE(store_->Snapshot().ok());
  }
  std::ofstream(directory_ + "/store.snapshot-7") << "left by a crash";
  std::ofstream(directory_ + "/other.snapshot-7") << "not ours";
  Open();
  store_.reset();
  EXPECT_THAT(Files(), ElementsAre("other.snapshot-7", "store", "store.lock", "store.reserve"));
}

TEST_F(StoreSqliteTest, WhatIsNotAStoreIsRefused) {
  {
    auto other = sqlite::Database::Open(options_.path, {.create = true});
    ASSERT_TRUE(other->Exec("CREATE TABLE t(x)").ok());
  }
  EXPECT_EQ(ReasonOf(OpenStoreSqlite(options_).status()), v1::REASON_CONFIG_INVALID);
  std::ofstream(options_.path)
      << "certainly no database, and long enough to be looked at by anybody who wonders";
  EXPECT_EQ(ReasonOf(OpenStoreSqlite(options_).status()), v1::REASON_STORE_FAILED);
}

TEST_F(StoreSqliteTest, ADamagedFileIsRefused) {
  Open();
  for (int i = 0; i < 200; ++i) Put("/k/" + std::to_string(i), std::string(2000, 'x'));
  store_.reset();
  std::fstream file(options_.path, std::ios::in | std::ios::out | std::ios::binary);
  for (int page = 3; page < 100; page += 3) file.seekp(page * 4096) << std::string(64, '\x5a');
  file.close();
  absl::Status status = OpenStoreSqlite(options_).status();
  EXPECT_EQ(ReasonOf(status), v1::REASON_STORE_FAILED) << status;
}

TEST_F(StoreSqliteTest, AKilledProcessLosesNothingAcknowledged) {
  uint64_t committed_unseen = 0;
  for (int round = 0; round < 8; ++round) {
    int pipes[2];
    ASSERT_EQ(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
      auto store = OpenStoreSqlite(options_);
      if (!store.ok()) _exit(1);
      const std::string key = "/n";
      for (int n = round * 1000 + 1;; ++n) {
        StoreTransaction add{
            {}, {StoreOp::Put(key, std::to_string(n)), StoreOp::Put("/m", std::to_string(n))}, {}};
        if ((*store)->Commit(add).outcome != StoreOutcome::kCommitted) _exit(2);
        if (write(pipes[1], &n, sizeof n) != sizeof n) _exit(3);
      }
    }
    close(pipes[1]);
    int acknowledged = 0;
    for (int i = 0; i < 20 + 13 * round; ++i)
      ASSERT_EQ(read(pipes[0], &acknowledged, sizeof acknowledged), 4);
    kill(child, SIGKILL);
    while (read(pipes[0], &acknowledged, sizeof acknowledged) == 4) continue;
    int status = 0;
    waitpid(child, &status, 0);
    close(pipes[0]);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    Open();
    int found = std::stoi(Find("/n")->value);
    EXPECT_TRUE(found == acknowledged || found == acknowledged + 1) << found << " after " << acknowledged;
    EXPECT_EQ(Find("/m")->value, Find("/n")->value);
    committed_unseen += found == acknowledged + 1;
    store_.reset();
  }
  std::printf("%llu of 8 kills hid a committed transaction\n",
              static_cast<unsigned long long>(committed_unseen));
}

TEST_F(StoreSqliteTest, AFullDiskTakesDeletesAndHeals) {
  if (!MountSmallDisk("size=12m")) GTEST_SKIP() << "no right to mount";
  options_.reserve_bytes = 2 << 20;
  options_.checkpoint_pages = 100;  // the log fits into the reserve
  options_.free_bytes_min = 0;      // to the very end
  Open();
  std::string value(100'000, 'x');
  int stored = 0;
  StoreCommit commit;
  while ((commit = Put("/k/" + std::to_string(stored), value)).outcome == StoreOutcome::kCommitted) ++stored;
  EXPECT_GT(stored, 20);
  EXPECT_EQ(commit.outcome, StoreOutcome::kRefused);
  EXPECT_EQ(ReasonOf(commit.status), v1::REASON_STORE_FULL);
  EXPECT_EQ(Find("/k/" + std::to_string(stored)), std::nullopt);
  EXPECT_TRUE(FileExists(options_.path + ".reserve"));

  for (int i = 0; i < stored; ++i) {
    StoreTransaction purge{
        {},
        {StoreOp::Delete("/k/" + std::to_string(i)), StoreOp::Put("/t/" + std::to_string(i), "gone")},
        {}};
    StoreCommit purged = store_->Commit(purge);
    ASSERT_EQ(purged.outcome, StoreOutcome::kCommitted) << i << " " << purged.status;
  }
  ASSERT_TRUE(store_->Compact(1 << 30).ok());
  StoreCommit again = Put("/new", value);
  EXPECT_EQ(again.outcome, StoreOutcome::kCommitted) << again.status;
  EXPECT_FALSE(store_->Health().read_only);
  EXPECT_TRUE(FileExists(options_.path + ".reserve"));
  Open();  // and it is sound
  EXPECT_EQ(Find("/t/0")->value, "gone");
}

TEST_F(StoreSqliteTest, ShortOfSpaceOnlyDeletesAreTaken) {
  if (!MountSmallDisk("size=12m")) GTEST_SKIP() << "no right to mount";
  options_.reserve_bytes = 1 << 20;
  options_.free_bytes_min = 4 << 20;
  Open();
  Put("/a", "1");
  EXPECT_FALSE(store_->Health().read_only);
  std::ofstream(directory_ + "/filler") << std::string(7 << 20, 'x');
  StoreCommit put = Put("/b", "2");
  EXPECT_EQ(put.outcome, StoreOutcome::kRefused);
  EXPECT_EQ(ReasonOf(put.status), v1::REASON_STORE_FULL);
  EXPECT_TRUE(store_->Health().read_only);
  EXPECT_TRUE(store_->Campaign("one", absl::Seconds(1)).ok());  // there must be a leader to delete
  EXPECT_EQ(Delete("/a").outcome, StoreOutcome::kCommitted);
  EXPECT_EQ(ReasonOf(store_->Snapshot().status()), v1::REASON_STORE_FULL);
  std::filesystem::remove(directory_ + "/filler");
  EXPECT_EQ(Put("/b", "2").outcome, StoreOutcome::kCommitted);
  EXPECT_FALSE(store_->Health().read_only);
}

TEST_F(StoreSqliteTest, ATransactionTooLargeForTheDiskDoesNotFailItsNeighbours) {
  OpenInMemory();
  disk_->SetCapacity(1 << 20);
  std::vector<Thread> threads;
  std::atomic<int> small_committed = 0, large_refused = 0;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back("writer", [&, t] {
      for (int i = 0; i < 10; ++i) {
        small_committed +=
            Put("/s/" + std::to_string(t), std::to_string(i)).outcome == StoreOutcome::kCommitted;
        if (t % 2 == 1) continue;
        StoreTransaction large;
        for (int k = 0; k < 3; ++k)
          large.ops.push_back(StoreOp::Put("/l/" + std::to_string(k), std::string(250'000, 'x')));
        large.ops.push_back(StoreOp::Put("/l/more", std::string(250'000, 'x')));
        StoreCommit refused = store_->Commit(large);
        large_refused +=
            refused.outcome == StoreOutcome::kRefused && ReasonOf(refused.status) == v1::REASON_STORE_FULL;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(small_committed, 60);
  EXPECT_EQ(large_refused, 30);
  EXPECT_EQ(Find("/l/more"), std::nullopt);
}

TEST_F(StoreSqliteTest, AFailedSyncIsUnknownAndTheStoreGoesOn) {
  OpenInMemory();
  Put("/a", "1");
  disk_->FailSync(1);
  StoreCommit unknown = Put("/a", "2");
  EXPECT_EQ(unknown.outcome, StoreOutcome::kUnknown);
  EXPECT_EQ(ReasonOf(unknown.status), v1::REASON_OUTCOME_UNKNOWN);
  StoreCommit next = Put("/b", "3");
  EXPECT_EQ(next.outcome, StoreOutcome::kCommitted) << next.status;
  EXPECT_EQ(Find("/b")->value, "3");
  EXPECT_EQ(next.revision, Find("/a")->mod_revision + 1);  // whichever way it went, the revision agrees
}

TEST_F(StoreSqliteTest, EveryWriteErrorIsRefusedOrUnknownNeverWrong) {
  for (size_t n = 1; n < 40; ++n) {
    options_.checkpoint_pages = 5;
    OpenInMemory();
    std::string known = "0", possible;
    ASSERT_EQ(Put("/a", known).outcome, StoreOutcome::kCommitted);
    disk_->FailWrite(n);
    for (int i = 1; i < 12; ++i) {
      StoreCommit commit = Put("/a", std::to_string(i));
      if (commit.outcome == StoreOutcome::kCommitted) known = std::to_string(i), possible.clear();
      if (commit.outcome == StoreOutcome::kUnknown) possible = std::to_string(i);
    }
    Open();
    std::string found = Find("/a")->value;
    EXPECT_TRUE(found == known || found == possible) << found << " instead of " << known << ", write " << n;
    EXPECT_EQ(known, "11") << "write " << n;  // one error does not stop it
    store_.reset();
  }
}

TEST_F(StoreSqliteTest, ADeadDiskIsRefusedAtOnce) {
  OpenInMemory();
  Put("/a", "1");
  disk_->PowerOff();
  EXPECT_EQ(Put("/a", "2").outcome, StoreOutcome::kUnknown);
  StoreCommit refused = Put("/a", "3");
  EXPECT_EQ(refused.outcome, StoreOutcome::kRefused);
  EXPECT_EQ(ReasonOf(refused.status), v1::REASON_STORE_FAILED);
  const std::string key = "/a";
  EXPECT_EQ(ReasonOf(store_->Get({&key, 1}).status()), v1::REASON_STORE_FAILED);
  EXPECT_FALSE(store_->Campaign("one", absl::Seconds(1)).ok());
}

TEST_F(StoreSqliteTest, AFullQueueIsBusy) {
  options_.queue_transactions_max = 0;
  Open();
  StoreCommit busy = Put("/a");
  EXPECT_EQ(busy.outcome, StoreOutcome::kRefused);
  EXPECT_EQ(ReasonOf(busy.status), v1::REASON_BUSY);
}

TEST_F(StoreSqliteTest, HistoryAndLogStayBounded) {
  options_.change_revisions_max = 100;
  options_.checkpoint_pages = 50;
  OpenInMemory();
  StoreRevision first = Put("/k", "0").revision;
  for (int i = 0; i < 2500; ++i) Put("/k", std::string(300, 'x'));
  EXPECT_TRUE((*store_->Follow("/", first))->Next(absl::ZeroDuration())->gap);
  EXPECT_LT(disk_->Current().at("/store-wal").size(), 150u * 4200);
  EXPECT_LT(disk_->Current().at("/store").size(), 400'000u);
}

TEST_F(StoreSqliteTest, ReadsAndSnapshotsGoOnBesideAWriter) {
  Open();
  for (int i = 0; i < 300; ++i) Put("/k/" + std::to_string(1000 + i), std::string(1000, 'x'));
  std::atomic<bool> stop = false;
  Thread writer("writer", [&] {
    for (int i = 0; !stop; ++i) Put("/w/" + std::to_string(i % 50), std::string(2000, 'y'));
  });
  for (int i = 0; i < 5; ++i) {
    auto snapshot = store_->Snapshot();
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    EXPECT_THAT((*snapshot)->Scan("/k/", "", 500)->records, SizeIs(300));
    EXPECT_THAT(store_->Scan("/k/", "", 500)->records, SizeIs(300));
  }
  stop = true;
}

// Figures for docs/store.md: --gtest_also_run_disabled_tests --gtest_filter=*Throughput
TEST_F(StoreSqliteTest, DISABLED_Throughput) {
  options_.path =
      std::string(getenv("QHSM_BENCH_DIR") != nullptr ? getenv("QHSM_BENCH_DIR") : directory_) + "/bench";
  Open();
  auto fenced = *FencedStore::Open(*store_, *store_->Campaign("bench", absl::Hours(1)));
  for (int clients : {1, 4, 16, 64}) {
    std::vector<double> latencies[64];
    absl::Duration began = RealClock().Uptime(), end = began + absl::Seconds(3);
    std::vector<Thread> threads;
    for (int c = 0; c < clients; ++c) {
      threads.emplace_back("client", [&, c] {
        std::string record(1200, 'r'), audit(300, 'a'),
            name = "/" + std::to_string(clients) + "-" + std::to_string(c) + "-";
        for (int i = 0; RealClock().Uptime() < end; ++i) {
          std::string tail = name + std::to_string(i);
          absl::Duration start = RealClock().Uptime();
          StoreCommit commit =
              fenced->Commit({{StoreGuard::Absent("/key" + tail)},
                              {StoreOp::Put("/key" + tail, record), StoreOp::Put("/op" + tail, "done"),
                               StoreOp::Put("/audit" + tail, audit)},
                              {}});
          latencies[c].push_back(absl::ToDoubleMilliseconds(RealClock().Uptime() - start));
          EXPECT_EQ(commit.outcome, StoreOutcome::kCommitted);
        }
      });
    }
    threads.clear();
    double seconds = absl::ToDoubleSeconds(RealClock().Uptime() - began);
    std::vector<double> all;
    for (const auto& of_one : latencies) all.insert(all.end(), of_one.begin(), of_one.end());
    std::sort(all.begin(), all.end());
    std::printf("%2d clients: %6.0f txn/s, p50 %.2f ms, p99 %.2f ms\n", clients, all.size() / seconds,
                all[all.size() / 2], all[all.size() * 99 / 100]);
  }
  absl::Duration began = RealClock().Uptime();
  auto snapshot = store_->Snapshot();
  std::printf("snapshot of %.0f MB: %.2f s\n", store_->Health().bytes_used / 1e6,
              absl::ToDoubleSeconds(RealClock().Uptime() - began));
}

}  // namespace
}  // namespace hsm
