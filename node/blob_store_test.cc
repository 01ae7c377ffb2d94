#include "node/blob_store.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/mutant.h"
#include "common/thread.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::CrashVfs;
using testing::SeededRandom;

KeyUid Uid(uint8_t n) {
  KeyUid uid;
  uid.value[0] = n;
  return uid;
}
AttemptId Attempt(uint8_t n) {
  AttemptId attempt;
  attempt.value[15] = n;
  return attempt;
}
KeyVersion Version(uint8_t n) {
  KeyVersion version;
  version.value[0] = n;
  return version;
}
HeadRow Head(uint8_t uid, Revision revision, AttemptId attempt = {}, uint32_t incarnation = 1) {
  HeadRow row;
  row.data_set = 1;
  row.attempt = attempt;
  row.uid = Uid(uid);
  row.incarnation = incarnation;
  row.revision = revision;
  row.sealed.set_body("head " + std::to_string(revision));
  row.sealed.set_mac("mac");
  return row;
}
VersionRow VersionOf(uint8_t uid, uint8_t version, AttemptId attempt = {}, uint32_t incarnation = 1) {
  VersionRow row;
  row.data_set = 1;
  row.attempt = attempt;
  row.uid = Uid(uid);
  row.incarnation = incarnation;
  row.version = Version(version);
  row.ordinal = version;
  row.sealed.set_body("version");
  return row;
}

class BlobStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    store_.reset();
    auto opened = BlobStore::Open({.path = "blobs.db", .vfs = disk_.name()});
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = std::move(*opened);
  }
  void Put(const std::function<void(BlobBatch&)>& fill) {
    BlobBatch batch;
    fill(batch);
    ASSERT_TRUE(store_->Commit(batch).ok());
  }
  Revision RevisionOf(uint8_t uid, AttemptId attempt = {}) {
    auto row = store_->ReadHead(1, Uid(uid), attempt);
    return row.ok() ? row->revision : 0;
  }

  CrashVfs disk_{"blob-store-test"};
  std::unique_ptr<BlobStore> store_;
};

TEST_F(BlobStoreTest, WhatWasCommittedIsThereAfterReopening) {
  Put([](BlobBatch& batch) {
    batch.SetState("hsm_id", "x");
    batch.RaiseState("epoch", 7);
    batch.PutHead(Head(1, 3));
    batch.PutVersion(VersionOf(1, 1));
  });
  Open();
  EXPECT_EQ(store_->State("hsm_id"), "x");
  EXPECT_EQ(store_->StateNumber("epoch"), 7u);
  EXPECT_EQ(RevisionOf(1), 3u);
  EXPECT_TRUE(store_->ReadVersion(1, Uid(1), Version(1)).ok());
}

TEST_F(BlobStoreTest, RaisedNumbersNeverFall) {
  Put([](BlobBatch& batch) { batch.RaiseState("epoch", 10); });
  Put([](BlobBatch& batch) { batch.RaiseState("epoch", 9); });
  EXPECT_EQ(store_->StateNumber("epoch"), 10u);
  Open();
  EXPECT_EQ(store_->StateNumber("epoch"), 10u);
}

TEST_F(BlobStoreTest, AnOlderHeadNeverReplacesANewerOne) {
  Put([](BlobBatch& batch) { batch.PutHead(Head(1, 5)); });
  Put([](BlobBatch& batch) { batch.PutHead(Head(1, 4)); });
  EXPECT_EQ(RevisionOf(1), 5u);
  Put([](BlobBatch& batch) { batch.PutHead(Head(1, 1, {}, 2)); });  // a higher incarnation does
  EXPECT_EQ(RevisionOf(1), 1u);
}

TEST_F(BlobStoreTest, StagedBecomesActiveOrGoes) {
  Put([](BlobBatch& batch) {
    batch.PutHead(Head(1, 1, Attempt(1)));
    batch.PutVersion(VersionOf(1, 1, Attempt(1)));
    batch.PutHead(Head(2, 1, Attempt(2)));
    batch.PutVersion(VersionOf(2, 2, Attempt(2)));
  });
  EXPECT_EQ(RevisionOf(1), 0u);
  Put([](BlobBatch& batch) {
    batch.Activate(Attempt(1));
    batch.Discard(Attempt(2));
  });
  EXPECT_EQ(RevisionOf(1), 1u);
  EXPECT_TRUE(store_->ReadVersion(1, Uid(1), Version(1))->attempt.IsZero());
  EXPECT_FALSE(store_->ReadVersion(1, Uid(2), Version(2)).ok());
}

TEST_F(BlobStoreTest, ATombstonedIncarnationIsNeverStoredAgain) {
  Put([](BlobBatch& batch) {
    batch.PutHead(Head(1, 1));
    batch.PutVersion(VersionOf(1, 1));
    batch.PutHead(Head(1, 2, Attempt(1)));
  });
  HeadRow tombstone = Head(1, 2);
  tombstone.state = KeyState::kTombstone;
  Put([&](BlobBatch& batch) { batch.Tombstone(tombstone); });
  EXPECT_FALSE(store_->ReadVersion(1, Uid(1), Version(1)).ok());
  EXPECT_EQ(store_->ReadHead(1, Uid(1), {})->state, KeyState::kTombstone);
  Put([](BlobBatch& batch) {
    batch.Activate(Attempt(1));
    batch.PutHead(Head(1, 9));
    batch.PutVersion(VersionOf(1, 1));
  });
  EXPECT_EQ(store_->ReadHead(1, Uid(1), {})->state, KeyState::kTombstone);
  EXPECT_FALSE(store_->ReadVersion(1, Uid(1), Version(1)).ok());
  Put([](BlobBatch& batch) { batch.PutHead(Head(1, 1, {}, 2)); });
  EXPECT_EQ(store_->ReadHead(1, Uid(1), {})->incarnation, 2u);
}

TEST_F(BlobStoreTest, QuarantineTakesAKeyOutOfSight) {
  Put([](BlobBatch& batch) {
    batch.PutHead(Head(1, 1));
    batch.PutVersion(VersionOf(1, 1));
  });
  Put([](BlobBatch& batch) { batch.Quarantine(1, Uid(1), 1'800'000'000); });
  EXPECT_EQ(RevisionOf(1), 0u);
  EXPECT_EQ(*store_->QuarantinedCount(), 1u);
}

TEST_F(BlobStoreTest, QuarantineEndsWithTheKeyOrWithTime) {
  constexpr int64_t kFirst = 1'800'000'000, kDay = 86'400;
  for (uint8_t key : {1, 2, 3}) {
    Put([key](BlobBatch& batch) {
      batch.PutHead(Head(key, 1));
      batch.PutVersion(VersionOf(key, key));
    });
  }
  Put([](BlobBatch& batch) { batch.Quarantine(1, Uid(1), kFirst); });
  Put([](BlobBatch& batch) { batch.Quarantine(1, Uid(2), kFirst + 89 * kDay); });
  EXPECT_EQ(*store_->QuarantinedCount(), 2u);
  Put([](BlobBatch& batch) { batch.Quarantine(1, Uid(3), kFirst + 91 * kDay); });
  EXPECT_EQ(*store_->QuarantinedCount(), 2u) << "the first is older than 90 days";
  Put([](BlobBatch& batch) {
    HeadRow destroyed = Head(2, 2);
    destroyed.state = KeyState::kTombstone;
    batch.Tombstone(destroyed);
  });
  EXPECT_EQ(*store_->QuarantinedCount(), 1u) << "a destroyed key leaves no copy";
}

TEST_F(BlobStoreTest, ProvedIsRememberedAndCanBeTakenBack) {
  Put([](BlobBatch& batch) {
    batch.PutHead(Head(1, 1));
    batch.PutVersion(VersionOf(1, 1));
    batch.SetProved(1, Uid(1), Version(1), true, "12345678");
  });
  Open();
  EXPECT_TRUE(store_->ReadVersion(1, Uid(1), Version(1))->proved);
  Put([](BlobBatch& batch) { batch.PutVersion(VersionOf(1, 1)); });  // synchronisation brings it again
  EXPECT_TRUE(store_->ReadVersion(1, Uid(1), Version(1))->proved);
  Put([](BlobBatch& batch) { batch.ClearProved(); });
  EXPECT_FALSE(store_->ReadVersion(1, Uid(1), Version(1))->proved);
  EXPECT_EQ(store_->ReadVersion(1, Uid(1), Version(1))->check_value, "12345678");
}

// With 20,000 keys a change that looks at every row costs more than the token does.
TEST_F(BlobStoreTest, NoChangeReadsAWholeTable) {
  for (uint8_t key = 1; key <= 50; ++key) {
    Put([&](BlobBatch& batch) {
      batch.PutHead(Head(key, 1, Attempt(key)));
      batch.PutVersion(VersionOf(key, key, Attempt(key)));
    });
    Put([&](BlobBatch& batch) { batch.Activate(Attempt(key)); });
  }
  Put([](BlobBatch& batch) {
    batch.PutHead(Head(1, 2, Attempt(100)));
    batch.Discard(Attempt(100));
    batch.SetProved(1, Uid(2), Version(2), true, "check");
    batch.Quarantine(1, Uid(3), 1000);
    batch.Tombstone(Head(4, 9));
    batch.DropDataSet(2);
  });
  EXPECT_EQ(store_->FullScanStepsForTest(), 0);
}

TEST_F(BlobStoreTest, ManyCallersShareTransactions) {
  std::vector<Thread> threads;
  for (uint8_t t = 0; t < 8; ++t) {
    threads.emplace_back("writer", [&, t] {
      for (uint8_t i = 0; i < 25; ++i) {
        BlobBatch batch;
        batch.PutHead(Head(static_cast<uint8_t>(t * 25 + i), 1));
        EXPECT_TRUE(store_->Commit(batch).ok());
      }
    });
  }
  for (Thread& thread : threads) thread.Join();
  size_t heads = 0;
  ASSERT_TRUE(store_->ForEachHead(1, [&](const HeadRow&) { return ++heads, absl::OkStatus(); }).ok());
  EXPECT_EQ(heads, 200u);
}

TEST_F(BlobStoreTest, AFullDiskRefusesAndLosesNothing) {
  Put([](BlobBatch& batch) { batch.PutHead(Head(1, 1)); });
  disk_.SetCapacity(1);
  BlobBatch batch;
  for (uint8_t i = 0; i < 200; ++i) batch.PutHead(Head(i, 2));
  EXPECT_EQ(ReasonOf(store_->Commit(batch)), v1::REASON_STORE_FULL);
  EXPECT_FALSE(store_->Broken());
  disk_.SetCapacity(0);
  EXPECT_EQ(RevisionOf(1), 1u);
  EXPECT_TRUE(store_->Commit(batch).ok());
}

TEST_F(BlobStoreTest, AFailedSyncBreaksTheStoreUntilItIsOpenedAgain) {
  Put([](BlobBatch& batch) { batch.PutHead(Head(1, 1)); });
  disk_.FailSync(1);
  BlobBatch batch;
  batch.PutHead(Head(2, 1));
  EXPECT_EQ(ReasonOf(store_->Commit(batch)), v1::REASON_STORE_FAILED);
  EXPECT_TRUE(store_->Broken());
  EXPECT_EQ(ReasonOf(store_->Commit(batch)), v1::REASON_STORE_FAILED);
  Open();
  EXPECT_EQ(RevisionOf(1), 1u);
  EXPECT_TRUE(store_->Commit(batch).ok());
}

// Everything acknowledged before a power loss is there after it, at every moment it may come.
size_t LostAfterPowerLoss(uint64_t seed) {
  CrashVfs disk("blob-power-loss-" + std::to_string(seed));
  std::vector<size_t> acknowledged;  // moment at which revision i + 1 of key 1 was acknowledged
  {
    auto store = BlobStore::Open({.path = "blobs.db", .vfs = disk.name()});
    for (Revision revision = 1; revision <= 40; ++revision) {
      BlobBatch batch;
      batch.PutHead(Head(1, revision));
      batch.PutVersion(VersionOf(2, static_cast<uint8_t>(revision)));
      EXPECT_TRUE((*store)->Commit(batch).ok());
      acknowledged.push_back(disk.moment());
    }
  }
  SeededRandom random(seed);
  size_t lost = 0;
  size_t last = acknowledged.back();
  for (size_t moment = acknowledged.front(); moment < last; moment += 1 + random.Below(6)) {
    CrashVfs after("blob-after-" + std::to_string(seed));
    after.Load(disk.ImageAt(moment, static_cast<int>(random.Below(3)) * 50, random.Next()));
    auto store = BlobStore::Open({.path = "blobs.db", .vfs = after.name()});
    Revision want = 0;
    for (size_t i = 0; i < acknowledged.size() && acknowledged[i] <= moment; ++i) want = i + 1;
    auto row = store.ok() ? (*store)->ReadHead(1, Uid(1), {}) : absl::StatusOr<HeadRow>(store.status());
    if (!row.ok() || row->revision < want) ++lost;
  }
  return lost;
}

TEST(BlobStorePowerLossTest, NothingAcknowledgedIsLost) {
  for (uint64_t seed = 1; seed <= 5; ++seed) EXPECT_EQ(LostAfterPowerLoss(seed), 0u) << "seed " << seed;
}

#ifdef HSM_MUTANTS
TEST(BlobStorePowerLossTest, FindsAStoreThatDoesNotSync) {
  SelectMutant("blob-store-no-sync");
  EXPECT_GT(LostAfterPowerLoss(1), 0u);
  SelectMutant("");
}
#endif

}  // namespace
}  // namespace hsm
