// What every Store engine promises, on each of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "common/error.h"
#include "common/limits.h"
#include "common/thread.h"
#include "store/fenced_store.h"
#include "store/store_model.h"
#include "store/store_sqlite.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/fake_clock.h"

namespace hsm {
namespace {

using testing::CrashVfs;
using ::testing::ElementsAre;
using testing::FakeClock;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNow = absl::ZeroDuration();

class StoreContractTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string engine = GetParam();
    if (engine == "model") {
      store_ = std::make_unique<StoreModel>(clock_);
      return;
    }
    StoreSqliteOptions options;
    options.clock = &clock_;
    options.readers = 2;
    options.free_bytes_min = options.reserve_bytes = 1 << 20;
    if (engine == "sqlite_in_memory") {
      vfs_ = std::make_unique<CrashVfs>("contract");
      options.vfs = vfs_->name();
      options.path = "/store";
    } else {
      char name[] = "/tmp/store-contract-XXXXXX";
      directory_ = mkdtemp(name);
      options.path = directory_ + "/store";
    }
    auto store = OpenStoreSqlite(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void TearDown() override {
    store_.reset();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  StoreRevision Put(const std::string& key, const std::string& value) {
    StoreCommit commit = store_->Commit({{}, {StoreOp::Put(key, value)}, {}});
    EXPECT_EQ(commit.outcome, StoreOutcome::kCommitted) << commit.status;
    return commit.revision;
  }
  std::optional<StoreRecord> Find(const std::string& key) {
    auto found = store_->Get({&key, 1});
    EXPECT_TRUE(found.ok()) << found.status();
    if (!found.ok() || found->empty()) return std::nullopt;
    return found->front();
  }
  std::vector<std::string> Keys(const StorePage& page) {
    std::vector<std::string> keys;
    for (const StoreRecord& record : page.records) keys.push_back(record.key);
    return keys;
  }

  FakeClock clock_;
  std::unique_ptr<CrashVfs> vfs_;
  std::string directory_;
  std::unique_ptr<Store> store_;
};

INSTANTIATE_TEST_SUITE_P(Engines, StoreContractTest, ::testing::Values("model", "sqlite", "sqlite_in_memory"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST_P(StoreContractTest, PutThenGet) {
  StoreRevision revision = Put("/a", "one");
  EXPECT_GT(revision, 0);
  EXPECT_EQ(Find("/a"), (StoreRecord{"/a", "one", revision, revision}));
  EXPECT_EQ(Find("/b"), std::nullopt);
}

TEST_P(StoreContractTest, ValuesAreBytes) {
  std::string value("\0\xff\n\x80", 4);
  Put("/bytes", value);
  Put("/empty", "");
  EXPECT_EQ(Find("/bytes")->value, value);
  EXPECT_EQ(Find("/empty")->value, "");
}

TEST_P(StoreContractTest, EachWriteRaisesTheRevisionByOneAndKeepsTheCreateRevision) {
  StoreRevision first = Put("/a", "1");
  StoreRevision second = Put("/a", "2");
  EXPECT_EQ(second, first + 1);
  EXPECT_EQ(Find("/a"), (StoreRecord{"/a", "2", first, second}));
}

TEST_P(StoreContractTest, ADeletedKeyIsCreatedAnew) {
  StoreRevision first = Put("/a", "1");
  StoreCommit gone = store_->Commit({{}, {StoreOp::Delete("/a")}, {}});
  EXPECT_EQ(gone.outcome, StoreOutcome::kCommitted);
  EXPECT_EQ(Find("/a"), std::nullopt);
  StoreRevision third = Put("/a", "3");
  EXPECT_EQ(third, first + 2);
  EXPECT_EQ(Find("/a"), (StoreRecord{"/a", "3", third, third}));
}

TEST_P(StoreContractTest, DeletingWhatIsNotThereIsAWrite) {
  StoreRevision before = Put("/a", "1");
  StoreCommit commit = store_->Commit({{}, {StoreOp::Delete("/nothing")}, {}});
  EXPECT_EQ(commit.outcome, StoreOutcome::kCommitted);
  EXPECT_EQ(commit.revision, before + 1);
}

TEST_P(StoreContractTest, AbsentGuardHoldsOnlyForWhatIsNotThere) {
  StoreTransaction create{{StoreGuard::Absent("/a")}, {StoreOp::Put("/a", "1")}, {"/a", "/none"}};
  StoreCommit created = store_->Commit(create);
  EXPECT_EQ(created.outcome, StoreOutcome::kCommitted);
  StoreCommit again = store_->Commit(create);
  EXPECT_EQ(again.outcome, StoreOutcome::kConflict);
  EXPECT_TRUE(again.status.ok());
  EXPECT_THAT(again.found, ElementsAre(StoreRecord{"/a", "1", created.revision, created.revision}));
}

TEST_P(StoreContractTest, ModRevisionGuardIsCompareAndSwap) {
  StoreRevision first = Put("/a", "1");
  StoreTransaction swap{{StoreGuard::ModRevisionIs("/a", first)}, {StoreOp::Put("/a", "2")}, {}};
  EXPECT_EQ(store_->Commit(swap).outcome, StoreOutcome::kCommitted);
  EXPECT_EQ(store_->Commit(swap).outcome, StoreOutcome::kConflict);
  StoreTransaction absent{{StoreGuard::ModRevisionIs("/none", first)}, {StoreOp::Put("/a", "3")}, {}};
  EXPECT_EQ(store_->Commit(absent).outcome, StoreOutcome::kConflict);
  EXPECT_EQ(Find("/a")->value, "2");
}

TEST_P(StoreContractTest, CreateRevisionGuardOutlivesChangesButNotADelete) {
  StoreRevision first = Put("/a", "1");
  Put("/a", "2");
  StoreGuard guard{StoreGuard::Kind::kCreateRevisionIs, "/a", first};
  EXPECT_EQ(store_->Commit({{guard}, {StoreOp::Put("/b", "x")}, {}}).outcome, StoreOutcome::kCommitted);
  store_->Commit({{}, {StoreOp::Delete("/a")}, {}});
  EXPECT_EQ(store_->Commit({{guard}, {StoreOp::Put("/b", "y")}, {}}).outcome, StoreOutcome::kConflict);
  Put("/a", "3");
  EXPECT_EQ(store_->Commit({{guard}, {StoreOp::Put("/b", "y")}, {}}).outcome, StoreOutcome::kConflict);
}

TEST_P(StoreContractTest, OneFailedGuardStopsEverything) {
  StoreRevision first = Put("/a", "1");
  StoreTransaction transaction{{StoreGuard::ModRevisionIs("/a", first), StoreGuard::Absent("/a")},
                               {StoreOp::Put("/b", "x"), StoreOp::Delete("/a")},
                               {}};
  EXPECT_EQ(store_->Commit(transaction).outcome, StoreOutcome::kConflict);
  EXPECT_TRUE(Find("/a"));
  EXPECT_FALSE(Find("/b"));
  EXPECT_EQ(Put("/c", ""), first + 1);  // the conflict used no revision
}

TEST_P(StoreContractTest, GuardsAloneRaiseNothing) {
  StoreRevision first = Put("/a", "1");
  StoreCommit look = store_->Commit({{StoreGuard::ModRevisionIs("/a", first)}, {}, {}});
  EXPECT_EQ(look.outcome, StoreOutcome::kCommitted);
  EXPECT_EQ(look.revision, first);
  EXPECT_EQ(store_->Commit({{StoreGuard::Absent("/a")}, {}, {}}).outcome, StoreOutcome::kConflict);
  EXPECT_EQ(Put("/a", "2"), first + 1);
}

TEST_P(StoreContractTest, GetAnswersInTheOrderAsked) {
  Put("/a", "1");
  Put("/b", "2");
  const std::string keys[] = {"/b", "/none", "/a", "/b"};
  auto found = store_->Get(keys);
  ASSERT_TRUE(found.ok());
  ASSERT_THAT(*found, SizeIs(3));
  EXPECT_EQ((*found)[0].key + (*found)[1].key + (*found)[2].key, "/b/a/b");
}

TEST_P(StoreContractTest, ScanIsBytewiseAndStaysInItsPrefix) {
  for (const char* key : {"/k/b", "/k/B", "/k/~", "/k/!", "/k", "/l", "/k0", "/k/b/c"}) Put(key, "");
  auto page = store_->Scan("/k/", "", 100);
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(Keys(*page), ElementsAre("/k/!", "/k/B", "/k/b", "/k/b/c", "/k/~"));
  EXPECT_FALSE(page->more);
  auto all = store_->Scan("", "", 100);
  EXPECT_THAT(all->records, SizeIs(8));
  EXPECT_THAT(store_->Scan("/nothing", "", 100)->records, IsEmpty());
}

TEST_P(StoreContractTest, PagesJoinWithoutGapOrOverlap) {
  for (int i = 0; i < 25; ++i) Put("/k/" + std::to_string(100 + i), std::to_string(i));
  std::vector<std::string> seen;
  std::string after;
  size_t pages = 0;
  while (true) {
    auto page = store_->Scan("/k/", after, 10);
    ASSERT_TRUE(page.ok());
    ++pages;
    for (const std::string& key : Keys(*page)) seen.push_back(key);
    EXPECT_EQ(page->more, pages < 3);
    if (!page->more) break;
    after = page->records.back().key;
  }
  EXPECT_THAT(seen, SizeIs(25));
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_FALSE(store_->Scan("/k/", "", 25)->more);  // exactly full, nothing behind it
}

TEST_P(StoreContractTest, TheCursorNeedNotExist) {
  Put("/k/1", "");
  Put("/k/3", "");
  EXPECT_THAT(Keys(*store_->Scan("/k/", "/k/2", 10)), ElementsAre("/k/3"));
  EXPECT_THAT(Keys(*store_->Scan("/k/", "/a", 10)), ElementsAre("/k/1", "/k/3"));
  EXPECT_THAT(Keys(*store_->Scan("/k/", "/z", 10)), IsEmpty());
}

TEST_P(StoreContractTest, APageEndsBeforeItIsTooLarge) {
  std::string big(limits::kStoreValueBytesMax, 'x');
  for (int i = 0; i < 20; ++i) Put("/k/" + std::to_string(100 + i), big);
  auto page = store_->Scan("/k/", "", 20);
  ASSERT_TRUE(page.ok());
  EXPECT_TRUE(page->more);
  EXPECT_THAT(page->records, SizeIs(limits::kStorePageBytesMax / limits::kStoreValueBytesMax - 1));
}

TEST_P(StoreContractTest, LimitsHoldForEveryEngine) {
  auto refusal = [&](const StoreTransaction& transaction) {
    StoreCommit commit = store_->Commit(transaction);
    EXPECT_EQ(commit.outcome, StoreOutcome::kRefused);
    return ReasonOf(commit.status);
  };
  std::vector<StoreOp> ops;
  for (size_t i = 0; i <= limits::kStoreOpsMax; ++i)
    ops.push_back(StoreOp::Put("/o" + std::to_string(i), "v"));
  EXPECT_EQ(refusal({{}, ops, {}}), v1::REASON_LIMIT_EXCEEDED);
  ops.pop_back();
  EXPECT_EQ(store_->Commit({{}, ops, {}}).outcome, StoreOutcome::kCommitted);

  std::string key(limits::kStoreKeyBytesMax, 'k'), value(limits::kStoreValueBytesMax, 'v');
  EXPECT_EQ(store_->Commit({{}, {StoreOp::Put(key, value)}, {}}).outcome, StoreOutcome::kCommitted);
  EXPECT_EQ(refusal({{}, {StoreOp::Put(key + "k", "")}, {}}), v1::REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(refusal({{}, {StoreOp::Put("/v", value + "v")}, {}}), v1::REASON_LIMIT_EXCEEDED);
  std::vector<StoreOp> heavy;
  for (int i = 0; i < 5; ++i) heavy.push_back(StoreOp::Put("/h" + std::to_string(i), value));
  EXPECT_EQ(refusal({{}, heavy, {}}), v1::REASON_LIMIT_EXCEEDED);

  EXPECT_EQ(refusal({{}, {StoreOp::Put("/a", ""), StoreOp::Delete("/a")}, {}}), v1::REASON_INVALID_ARGUMENT);
  for (const char* bad : {"", "/white space", "/new\nline", "/\xc3\xa4", "/\x7f"}) {
    EXPECT_EQ(refusal({{}, {StoreOp::Put(bad, "")}, {}}), v1::REASON_INVALID_ARGUMENT) << bad;
  }
  EXPECT_EQ(refusal({{}, {StoreOp::Put(std::string(kEpochKey), "9")}, {}}), v1::REASON_INVALID_ARGUMENT);
  std::vector<std::string> many(limits::kStoreOpsMax + 1, "/k");
  EXPECT_EQ(ReasonOf(store_->Get(many).status()), v1::REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(ReasonOf(store_->Scan("/", "", 0).status()), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(store_->Scan("/", "", limits::kStorePageMax + 1).status()), v1::REASON_LIMIT_EXCEEDED);
}

TEST_P(StoreContractTest, ASnapshotStandsStillWhileWritesGoOn) {
  for (int i = 0; i < 30; ++i) Put("/k/" + std::to_string(100 + i), "old");
  StoreRevision before = Put("/k/last", "old");
  auto snapshot = store_->Snapshot();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ((*snapshot)->revision(), before);
  std::string after;
  std::vector<StoreRecord> seen;
  for (int round = 0; true; ++round) {
    Put("/k/new" + std::to_string(round), "new");
    Put("/k/last", "new");
    store_->Commit({{}, {StoreOp::Delete("/k/" + std::to_string(120 + round))}, {}});
    auto page = (*snapshot)->Scan("/k/", after, 7);
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_EQ(page->revision, before);
    seen.insert(seen.end(), page->records.begin(), page->records.end());
    if (!page->more) break;
    after = page->records.back().key;
  }
  EXPECT_THAT(seen, SizeIs(31));
  for (const StoreRecord& record : seen) EXPECT_EQ(record.value, "old");
  snapshot->reset();
  EXPECT_EQ(Find("/k/last")->value, "new");
}

TEST_P(StoreContractTest, SeveralSnapshotsLiveSideBySide) {
  Put("/a", "1");
  auto first = store_->Snapshot();
  Put("/a", "2");
  auto second = store_->Snapshot();
  Put("/a", "3");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ((*second)->Scan("/", "", 10)->records[0].value, "2");
  first->reset();
  EXPECT_EQ((*second)->Scan("/", "", 10)->records[0].value, "2");
}

TEST_P(StoreContractTest, AFeedTellsWhatChangedUnderItsPrefix) {
  StoreRevision start = Put("/k/0", "");
  auto feed = store_->Follow("/k/", start);
  ASSERT_TRUE(feed.ok());
  EXPECT_EQ((*feed)->Next(kNow), std::nullopt);
  Put("/other", "");
  StoreCommit both =
      store_->Commit({{}, {StoreOp::Put("/k/2", ""), StoreOp::Delete("/k/1"), StoreOp::Put("/x", "")}, {}});
  auto event = (*feed)->Next(kNow);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->revision, both.revision);
  EXPECT_THAT(event->keys, ElementsAre("/k/1", "/k/2"));
  EXPECT_FALSE(event->gap);
  EXPECT_EQ((*feed)->Next(kNow), std::nullopt);
}

TEST_P(StoreContractTest, AFeedCatchesUpFromAnEarlierRevision) {
  StoreRevision start = Put("/k/0", "");
  for (int i = 0; i < 250; ++i) Put("/k/" + std::to_string(i), "");
  auto feed = store_->Follow("/k/", start);
  for (int i = 0; i < 250; ++i) {
    auto event = (*feed)->Next(kNow);
    ASSERT_TRUE(event) << i;
    EXPECT_EQ(event->revision, start + 1 + i);
  }
  EXPECT_EQ((*feed)->Next(kNow), std::nullopt);
}

TEST_P(StoreContractTest, AFeedWakesWhoWaits) {
  auto feed = store_->Follow("/k/", Put("/k/0", ""));
  std::optional<StoreFeed::Event> event;
  Thread waiter("waiter", [&] { event = (*feed)->Next(absl::Seconds(60)); });
  Put("/elsewhere", "");
  Put("/k/1", "");
  waiter.Join();
  ASSERT_TRUE(event);
  EXPECT_THAT(event->keys, ElementsAre("/k/1"));
}

TEST_P(StoreContractTest, ForgottenChangesAreAGap) {
  StoreRevision start = Put("/k/0", "");
  for (int i = 0; i < 10; ++i) Put("/k/1", std::to_string(i));
  ASSERT_TRUE(store_->Compact(start + 5).ok());
  auto feed = store_->Follow("/k/", start);
  auto event = (*feed)->Next(kNow);
  ASSERT_TRUE(event);
  EXPECT_TRUE(event->gap);
  EXPECT_EQ((*feed)->Next(kNow), std::nullopt);  // the scan it asks for sees everything up to now
  StoreRevision next = Put("/k/2", "");
  EXPECT_EQ((*feed)->Next(kNow)->revision, next);
  EXPECT_FALSE((*store_->Follow("/k/", start + 4))->Next(kNow)->gap);
  EXPECT_EQ(Find("/k/0")->value, "");  // records stay
}

TEST_P(StoreContractTest, CompactingNeverMovesTheFloorBackOrAhead) {
  StoreRevision start = Put("/k/0", "");
  ASSERT_TRUE(store_->Compact(start + 100).ok());
  auto feed = store_->Follow("/k/", start);
  Put("/k/1", "");
  EXPECT_FALSE((*feed)->Next(kNow)->gap);
  ASSERT_TRUE(store_->Compact(1).ok());
  EXPECT_TRUE((*store_->Follow("/k/", start - 1))->Next(kNow)->gap);
}

TEST_P(StoreContractTest, OneHolderAtATime) {
  auto first = store_->Campaign("one", absl::Seconds(10));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->valid_until, clock_.Uptime() + absl::Seconds(10));
  EXPECT_EQ(ReasonOf(store_->Campaign("two", absl::Seconds(10)).status()), v1::REASON_CONFLICT);
  clock_.Advance(absl::Seconds(9));
  auto renewed = store_->Renew("one", first->epoch, absl::Seconds(10));
  ASSERT_TRUE(renewed.ok());
  EXPECT_EQ(renewed->epoch, first->epoch);
  EXPECT_EQ(renewed->valid_until, clock_.Uptime() + absl::Seconds(10));
  clock_.Advance(absl::Seconds(9));
  EXPECT_EQ(ReasonOf(store_->Campaign("two", absl::Seconds(10)).status()), v1::REASON_CONFLICT);
  clock_.Advance(absl::Seconds(1));
  auto second = store_->Campaign("two", absl::Seconds(10));
  ASSERT_TRUE(second.ok());
  EXPECT_GT(second->epoch, first->epoch);
  EXPECT_EQ(ReasonOf(store_->Renew("one", first->epoch, absl::Seconds(10)).status()), v1::REASON_FENCED);
  EXPECT_EQ(ReasonOf(store_->Resign("one", first->epoch)), v1::REASON_FENCED);
}

TEST_P(StoreContractTest, AnEndedTermIsNotRenewed) {
  auto term = store_->Campaign("one", absl::Seconds(10));
  clock_.Advance(absl::Seconds(10));
  EXPECT_EQ(ReasonOf(store_->Renew("one", term->epoch, absl::Seconds(10)).status()), v1::REASON_FENCED);
  auto again = store_->Campaign("one", absl::Seconds(10));
  ASSERT_TRUE(again.ok());
  EXPECT_GT(again->epoch, term->epoch);
}

TEST_P(StoreContractTest, TheSameHolderMayCampaignAgainAndItsEpochGrows) {
  auto first = store_->Campaign("one", absl::Seconds(10));
  auto second = store_->Campaign("one", absl::Seconds(10));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_GT(second->epoch, first->epoch);
  EXPECT_EQ(ReasonOf(store_->Renew("one", first->epoch, absl::Seconds(10)).status()), v1::REASON_FENCED);
  EXPECT_EQ(Find(std::string(kEpochKey))->value, std::to_string(second->epoch));
}

TEST_P(StoreContractTest, WhoResignsLetsOthersIn) {
  auto first = store_->Campaign("one", absl::Seconds(10));
  ASSERT_TRUE(store_->Resign("one", first->epoch).ok());
  auto second = store_->Campaign("two", absl::Seconds(10));
  ASSERT_TRUE(second.ok());
  EXPECT_GT(second->epoch, first->epoch);
}

TEST_P(StoreContractTest, AStaleLeadersWritesAreRefused) {
  auto first = store_->Campaign("one", absl::Seconds(10));
  auto mine = FencedStore::Open(*store_, *first);
  ASSERT_TRUE(mine.ok()) << mine.status();
  StoreTransaction write{{StoreGuard::Absent("/b")}, {StoreOp::Put("/a", "1")}, {}};
  EXPECT_EQ((*mine)->Commit(write).outcome, StoreOutcome::kCommitted);

  Put("/b", "");
  StoreCommit conflict = (*mine)->Commit({{StoreGuard::Absent("/b")}, {StoreOp::Put("/a", "2")}, {"/b"}});
  EXPECT_EQ(conflict.outcome,
            StoreOutcome::kConflict);  // an ordinary one, and it shows only what was asked for
  EXPECT_THAT(conflict.found, SizeIs(1));

  clock_.Advance(absl::Seconds(10));
  auto second = store_->Campaign("two", absl::Seconds(10));
  ASSERT_TRUE(second.ok());
  StoreCommit stale = (*mine)->Commit({{}, {StoreOp::Put("/a", "3")}, {}});
  EXPECT_EQ(stale.outcome, StoreOutcome::kRefused);
  EXPECT_EQ(ReasonOf(stale.status), v1::REASON_FENCED);
  EXPECT_EQ(Find("/a")->value, "1");
  EXPECT_EQ(ReasonOf(FencedStore::Open(*store_, *first).status()), v1::REASON_FENCED);
  EXPECT_EQ((*FencedStore::Open(*store_, *second))->Commit({{}, {StoreOp::Put("/a", "4")}, {}}).outcome,
            StoreOutcome::kCommitted);
}

TEST_P(StoreContractTest, AFullTransactionHasRoomForTheFence) {
  auto fenced = FencedStore::Open(*store_, *store_->Campaign("one", absl::Seconds(10)));
  StoreTransaction full;
  for (size_t i = 0; i < limits::kStoreOpsMax; ++i) {
    std::string key = "/f/" + std::to_string(i);
    full.guards.push_back(StoreGuard::Absent(key));
    full.ops.push_back(StoreOp::Put(key, ""));
    full.read_on_conflict.push_back(key);
  }
  EXPECT_EQ((*fenced)->Commit(full).outcome, StoreOutcome::kCommitted);
  StoreCommit again = (*fenced)->Commit(full);
  EXPECT_EQ(again.outcome, StoreOutcome::kConflict);
  EXPECT_THAT(again.found, SizeIs(limits::kStoreOpsMax));
}

TEST_P(StoreContractTest, ConcurrentCounterLosesNothing) {
  constexpr int kThreads = 8, kAdds = 40;
  Put("/counter", "0");
  std::vector<Thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back("adder", [&] {
      for (int i = 0; i < kAdds; ++i) {
        while (true) {
          StoreRecord now = *Find("/counter");
          StoreTransaction add{{StoreGuard::ModRevisionIs("/counter", now.mod_revision)},
                               {StoreOp::Put("/counter", std::to_string(std::stoi(now.value) + 1))},
                               {}};
          if (store_->Commit(add).outcome == StoreOutcome::kCommitted) break;
        }
      }
    });
  }
  threads.clear();
  EXPECT_EQ(Find("/counter")->value, std::to_string(kThreads * kAdds));
}

TEST_P(StoreContractTest, WhatIsAcknowledgedIsSeenByTheNextRead) {
  std::vector<Thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back("writer", [&, t] {
      std::string key = "/r/" + std::to_string(t);
      for (int i = 0; i < 100; ++i) {
        StoreRevision revision = Put(key, std::to_string(i));
        EXPECT_EQ(Find(key)->mod_revision, revision);
        auto page = store_->Scan(key, "", 1);
        EXPECT_GE(page->revision, revision);
        EXPECT_EQ(page->records[0].value, std::to_string(i));
      }
    });
  }
}

TEST_P(StoreContractTest, HealthNamesTheEngine) {
  Put("/a", std::string(5000, 'x'));
  StoreHealth health = store_->Health();
  EXPECT_EQ(health.engine.substr(0, 5), std::string(GetParam()).substr(0, 5));
  EXPECT_GT(health.bytes_used, 5000u);
  EXPECT_GT(health.bytes_free, 0u);
  EXPECT_FALSE(health.read_only);
}

}  // namespace
}  // namespace hsm
