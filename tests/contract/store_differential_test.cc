// Random transactions, reads, snapshots and campaigns on the model and on SQLite: the answers must be the
// same.
// --seed N (or QHSM_SEED) chooses the run, QHSM_STORE_STEPS its length.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <memory>

#include "common/error.h"
#include "common/limits.h"
#include "store/fenced_store.h"
#include "store/store_model.h"
#include "store/store_sqlite.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::CrashVfs;
using testing::FakeClock;
using testing::SeededRandom;

std::string Text(const StoreRecord& record) {
  return record.key + "=" + std::to_string(record.value.size()) + ":" + record.value.substr(0, 8) + "@" +
         std::to_string(record.create_revision) + "," + std::to_string(record.mod_revision) + " ";
}
std::string Text(const std::vector<StoreRecord>& records) {
  std::string out;
  for (const StoreRecord& record : records) out += Text(record);
  return out;
}
std::string Text(const StoreCommit& commit) {
  return "outcome " + std::to_string(static_cast<int>(commit.outcome)) + " revision " +
         std::to_string(commit.revision) + " reason " + std::string(ReasonName(ReasonOf(commit.status))) +
         " found " + Text(commit.found);
}
std::string Text(const absl::StatusOr<StorePage>& page) {
  if (!page.ok()) return std::string(ReasonName(ReasonOf(page.status())));
  return Text(page->records) + (page->more ? "more" : "end") + " at " + std::to_string(page->revision);
}
std::string Text(const absl::StatusOr<std::vector<StoreRecord>>& found) {
  return found.ok() ? Text(*found) : std::string(ReasonName(ReasonOf(found.status())));
}
std::string Text(const absl::StatusOr<StoreTerm>& term) {
  if (!term.ok()) return std::string(ReasonName(ReasonOf(term.status())));
  return std::to_string(term->epoch) + " until " + absl::FormatDuration(term->valid_until);
}
std::string Text(const std::optional<StoreFeed::Event>& event) {
  if (!event) return "nothing";
  std::string out = std::to_string(event->revision) + (event->gap ? " gap" : "");
  for (const std::string& key : event->keys) out += " " + key;
  return out;
}

// Both engines, and what is open on them.
class Pair {
 public:
  explicit Pair(uint64_t seed) : random_(seed) {
    model_ = std::make_unique<StoreModel>(clock_);
    Reopen();
  }

  // One random operation on both; what differs, or "".
  std::string Step() {
    switch (random_.Below(20)) {
      case 0:
        return Differ("get", [&, keys = RandomKeys(6)](Store& store) { return Text(store.Get(keys)); });
      case 1:
      case 2:
      case 3: {
        std::string prefix = Prefix(), after = random_.Below(2) ? Key() : "";
        size_t limit = random_.Below(30);  // 0 is refused
        return Differ("scan", [&](Store& store) { return Text(store.Scan(prefix, after, limit)); });
      }
      case 4:
        return random_.Below(8) == 0 ? OpenSnapshot() : ReadSnapshot();
      case 5:
        return random_.Below(4) == 0 ? OpenFeed() : ReadFeed();
      case 6:
        return random_.Below(4) == 0 ? Campaign() : "";
      case 7:
        if (random_.Below(40) == 0) Reopen();
        return "";
      case 8: {
        StoreRevision keep = static_cast<StoreRevision>(random_.Below(static_cast<uint64_t>(revision_) + 3));
        if (random_.Below(40) == 0)
          return Differ("compact", [&](Store& store) { return store.Compact(keep).ToString(); });
        return "";
      }
      case 9:
        if (random_.Below(10) == 0) clock_.Advance(absl::Seconds(random_.Below(8)));
        return "";
      default:
        return Transact();
    }
  }
  StoreRevision revision() const { return revision_; }
  int conflicts() const { return conflicts_; }

 private:
  std::string Key() {
    static const char* const folders[] = {"/k/", "/k/v/", "/op/", "/audit/", "/k~/", "/a"};
    return folders[random_.Below(6)] + std::to_string(random_.Below(25));
  }
  std::string Prefix() {
    static const char* const prefixes[] = {"", "/", "/k", "/k/", "/k/v/", "/op/1", "/audit/", "/nothing/"};
    return prefixes[random_.Below(8)];
  }
  std::vector<std::string> RandomKeys(size_t most) {
    std::vector<std::string> keys(random_.Below(most));
    for (std::string& key : keys) key = Key();
    return keys;
  }
  std::string Value() {
    size_t size = random_.Below(20) == 0 ? random_.Below(20'000) : random_.Below(200);
    return ToString(random_.Draw(size));
  }
  StoreGuard Guard() {
    std::string key = random_.Below(20) == 0 ? std::string(kEpochKey) : Key();
    auto now = model_->Get({&key, 1});
    bool exists = !now->empty();
    // Mostly guards that hold, from what is there.
    if (random_.Below(4) == 0) exists = !exists || now->empty();
    if (!exists) return StoreGuard::Absent(key);
    StoreRecord record = now->empty() ? StoreRecord{key, "", 1, 1} : now->front();
    if (random_.Below(6) == 0) --record.mod_revision, --record.create_revision;
    if (random_.Below(2) == 0) return StoreGuard::ModRevisionIs(key, record.mod_revision);
    return {StoreGuard::Kind::kCreateRevisionIs, key, record.create_revision};
  }
  StoreTransaction RandomTransaction() {
    StoreTransaction transaction;
    for (uint64_t i = random_.Below(3); i > 0; --i) transaction.guards.push_back(Guard());
    for (uint64_t i = random_.Below(6); i > 0; --i) {  // now and then a key twice: refused
      transaction.ops.push_back(random_.Below(4) == 0 ? StoreOp::Delete(Key())
                                                      : StoreOp::Put(Key(), Value()));
    }
    transaction.read_on_conflict = RandomKeys(4);
    if (random_.Below(200) == 0) transaction.ops.push_back(StoreOp::Put("/bad key", ""));
    if (random_.Below(200) == 0)
      transaction.ops.push_back(StoreOp::Put("/big", std::string(limits::kStoreValueBytesMax + 1, 'x')));
    return transaction;
  }

  template <typename Act>
  std::string Differ(const char* what, Act act) {
    std::string expected = act(*model_), got = act(*sqlite_);
    return expected == got ? "" : std::string(what) + "\n  model  " + expected + "\n  sqlite " + got;
  }

  std::string Transact() {
    StoreTransaction transaction = RandomTransaction();
    bool fenced = random_.Below(4) == 0 && fence_[0] != nullptr;
    StoreCommit expected = fenced ? fence_[0]->Commit(transaction) : model_->Commit(transaction);
    StoreCommit got = fenced ? fence_[1]->Commit(transaction) : sqlite_->Commit(transaction);
    if (expected.outcome == StoreOutcome::kCommitted) revision_ = expected.revision;
    conflicts_ += expected.outcome == StoreOutcome::kConflict;
    if (Text(expected) == Text(got)) return "";
    return "commit\n  model  " + Text(expected) + "\n  sqlite " + Text(got);
  }

  std::string OpenSnapshot() {
    if (snapshots_.size() == 3) snapshots_.pop_front();
    snapshots_.push_back({*model_->Snapshot(), *sqlite_->Snapshot()});
    return "";
  }
  std::string ReadSnapshot() {
    if (snapshots_.empty()) return "";
    auto& [expected, got] = snapshots_[random_.Below(snapshots_.size())];
    std::string prefix = Prefix(), after = random_.Below(2) ? Key() : "";
    size_t limit = 1 + random_.Below(30);
    std::string one = Text(expected->Scan(prefix, after, limit)),
                other = Text(got->Scan(prefix, after, limit));
    return one == other ? "" : "snapshot\n  model  " + one + "\n  sqlite " + other;
  }

  std::string OpenFeed() {
    std::string prefix = Prefix();
    StoreRevision from = static_cast<StoreRevision>(random_.Below(static_cast<uint64_t>(revision_) + 1));
    if (random_.Below(2) == 0) from = std::max<StoreRevision>(0, revision_ - 20);
    feeds_ = {*model_->Follow(prefix, from), *sqlite_->Follow(prefix, from)};
    return "";
  }
  std::string ReadFeed() {
    if (feeds_.first == nullptr) return "";
    std::string one = Text(feeds_.first->Next(absl::ZeroDuration())),
                other = Text(feeds_.second->Next(absl::ZeroDuration()));
    return one == other ? "" : "feed\n  model  " + one + "\n  sqlite " + other;
  }

  std::string Campaign() {
    std::string holder = random_.Below(2) ? "one" : "two";
    absl::Duration ttl = absl::Seconds(1 + random_.Below(10));
    if (random_.Below(3) == 0) {
      Epoch epoch = term_.epoch;
      return Differ("renew", [&](Store& store) { return Text(store.Renew(holder, epoch, ttl)); });
    }
    if (random_.Below(6) == 0) {
      return Differ("resign", [&](Store& store) { return store.Resign(holder, term_.epoch).ToString(); });
    }
    auto expected = model_->Campaign(holder, ttl), got = sqlite_->Campaign(holder, ttl);
    if (Text(expected) != Text(got))
      return "campaign\n  model  " + Text(expected) + "\n  sqlite " + Text(got);
    if (!expected.ok()) return "";
    term_ = *expected;
    ++revision_;
    if (random_.Below(3) != 0) {  // otherwise the old ones stay, and are refused from now on
      fence_[0] = *FencedStore::Open(*model_, *expected);
      fence_[1] = *FencedStore::Open(*sqlite_, *got);
    }
    return "";
  }

  // Nothing but terms, feeds, fences and snapshots ends with a process.
  void Reopen() {
    snapshots_.clear();
    feeds_ = {};
    fence_[0].reset();
    fence_[1].reset();
    sqlite_.reset();
    StoreSqliteOptions options;
    options.vfs = disk_.name();
    options.path = "/store";
    options.clock = &clock_;
    options.readers = 1;
    options.checkpoint_pages = 100;
    auto store = OpenStoreSqlite(options);
    EXPECT_TRUE(store.ok()) << store.status();
    sqlite_ = *std::move(store);
    model_->RollBack(model_->Save());
    disk_.ForgetLog();
  }

  SeededRandom random_;
  FakeClock clock_;
  CrashVfs disk_{"differential"};
  std::unique_ptr<StoreModel> model_;
  std::unique_ptr<Store> sqlite_;
  std::unique_ptr<FencedStore> fence_[2];
  std::deque<std::pair<std::unique_ptr<StoreSnapshot>, std::unique_ptr<StoreSnapshot>>> snapshots_;
  std::pair<std::unique_ptr<StoreFeed>, std::unique_ptr<StoreFeed>> feeds_;
  StoreTerm term_;
  StoreRevision revision_ = 0;
  int conflicts_ = 0;
};

TEST(StoreDifferentialTest, ModelAndSqliteAnswerTheSame) {
  testing::SeedRange seeds = testing::SeedsToRun({20261125, 4});
  const char* asked = std::getenv("QHSM_STORE_STEPS");
  int steps = asked != nullptr ? std::atoi(asked) : 8'000;
  for (uint64_t seed = seeds.first; seed < seeds.first + seeds.count; ++seed) {
    Pair pair(seed);
    for (int step = 0; step < steps; ++step) {
      std::string difference = pair.Step();
      ASSERT_EQ(difference, "") << "at step " << step << ": repeat with --seed " << seed;
    }
    std::printf("seed %llu: %d steps, revision %lld, %d conflicts\n", static_cast<unsigned long long>(seed),
                steps, static_cast<long long>(pair.revision()), pair.conflicts());
  }
}

}  // namespace
}  // namespace hsm

int main(int argc, char** argv) {
  hsm::testing::ReadSeedFlags(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
