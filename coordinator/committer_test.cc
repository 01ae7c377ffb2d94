#include "coordinator/committer.h"

#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <vector>

#include "store/store_model.h"
#include "tests/testing/matchers.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;

class CommitterTest : public ::testing::Test {
 protected:
  CommitterTest() : random_(1), store_(RealClock()) { Lead(); }

  void Lead() {
    committer_.reset();
    StoreTerm term = *store_.Campaign("c1", absl::Seconds(60));
    fenced_ = *FencedStore::Open(store_, term);
    committer_ = std::make_unique<Committer>(*fenced_, RealClock(), random_, term.epoch);
    committer_->OnFenced([this](const absl::Status& why) { fenced_with_ = why; });
    EXPECT_THAT(committer_->Start(), IsOk());
  }
  static Change Put(const std::string& key, const std::string& value) {
    Change change;
    change.ops = {StoreOp::Put(key, value)};
    change.audit = AuditOfSystem("Put", key);
    return change;
  }
  std::string Value(const std::string& key) {
    auto found = store_.Get(std::span(&key, 1));
    return found.ok() && !found->empty() ? (*found)[0].value : "";
  }
  // The entries, after checking that each is chained to the one before.
  std::vector<v1::AuditEntry> Audit() {
    std::vector<v1::AuditEntry> entries;
    std::string previous;
    StorePage page = *store_.Scan(store_key::AuditPrefix(), "", 500);
    for (const StoreRecord& record : page.records) {
      v1::AuditEntry entry;
      EXPECT_TRUE(entry.ParseFromString(record.value));
      EXPECT_EQ(entry.sequence(), entries.size() + 1);
      EXPECT_EQ(entry.previous(), previous);
      uint8_t hash[SHA256_DIGEST_LENGTH];
      SHA256(reinterpret_cast<const uint8_t*>(record.value.data()), record.value.size(), hash);
      previous.assign(reinterpret_cast<char*>(hash), sizeof hash);
      entries.push_back(entry);
    }
    return entries;
  }
  // The next commits meet these fates, then all is well.
  void Faults(std::vector<StoreModel::Fault> fates) {
    auto left = std::make_shared<std::vector<StoreModel::Fault>>(std::move(fates));
    auto mutex = std::make_shared<Mutex>();
    store_.SetFaults([left, mutex](const StoreTransaction* transaction) {
      MutexLock lock(*mutex);
      if (transaction == nullptr || left->empty()) return StoreModel::Fault::kNone;
      StoreModel::Fault fault = left->front();
      left->erase(left->begin());
      return fault;
    });
  }

  testing::SeededRandom random_;
  StoreModel store_;
  std::unique_ptr<FencedStore> fenced_;
  std::unique_ptr<Committer> committer_;
  absl::Status fenced_with_;
};

TEST_F(CommitterTest, WritesTheChangeAndItsAuditEntryTogether) {
  StoreRevision seen = 0;
  Change change = Put("/x", "1");
  change.applied = [&](StoreRevision revision) { seen = revision; };
  ChangeResult result = committer_->Commit(std::move(change));
  ASSERT_THAT(result.status, IsOk());
  EXPECT_EQ(result.commit, 1u);
  EXPECT_EQ(seen, result.revision);
  EXPECT_EQ(Value("/x"), "1");
  ASSERT_EQ(Audit().size(), 1u);
  EXPECT_EQ(Audit()[0].operation(), "Put");
}

TEST_F(CommitterTest, AConflictChangesNothing) {
  ASSERT_THAT(committer_->Commit(Put("/x", "1")).status, IsOk());
  Change change = Put("/x", "2");
  change.guards = {StoreGuard::Absent("/x")};
  change.read_on_conflict = {"/x"};
  ChangeResult result = committer_->Commit(std::move(change));
  EXPECT_EQ(result.outcome, StoreOutcome::kConflict);
  EXPECT_EQ(Value("/x"), "1");
  EXPECT_EQ(Audit().size(), 1u);
  EXPECT_EQ(committer_->commit_counter(), 1u);
}

TEST_F(CommitterTest, AnUnknownOutcomeIsSettled) {
  Faults({StoreModel::Fault::kUnknownAfter});
  EXPECT_THAT(committer_->Commit(Put("/x", "1")).status, IsOk());
  Faults({StoreModel::Fault::kUnknownBefore});
  EXPECT_THAT(committer_->Commit(Put("/y", "2")).status, IsOk());
  Faults({StoreModel::Fault::kUnknownAfter, StoreModel::Fault::kUnknownBefore, StoreModel::Fault::kRefused});
  EXPECT_THAT(committer_->Commit(Put("/z", "3")).status, IsOk());
  EXPECT_EQ(Audit().size(), 3u) << "once each";
  EXPECT_EQ(committer_->commit_counter(), 3u);
}

TEST_F(CommitterTest, ARefusedChangeCertainlyDidNotHappen) {
  Faults({StoreModel::Fault::kFull});
  EXPECT_THAT(committer_->Commit(Put("/x", "1")).status, HasReason(v1::REASON_STORE_FULL));
  EXPECT_EQ(Value("/x"), "");
  EXPECT_THAT(committer_->Commit(Put("/x", "2")).status, IsOk());
  EXPECT_EQ(Audit().size(), 1u);
}

TEST_F(CommitterTest, OneOfAGroupDoesNotSpoilTheOthers) {
  ASSERT_THAT(committer_->Commit(Put("/taken", "1")).status, IsOk());
  std::vector<Thread> threads;
  std::vector<StoreOutcome> outcomes(24);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    threads.emplace_back("writer", [&, i] {
      Change change = Put("/k" + std::to_string(i), "v");
      change.guards = {StoreGuard::Absent(i % 4 == 0 ? "/taken" : "/k" + std::to_string(i))};
      outcomes[i] = committer_->Commit(std::move(change)).outcome;
    });
  }
  for (Thread& thread : threads) thread.Join();
  for (size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_EQ(outcomes[i], i % 4 == 0 ? StoreOutcome::kConflict : StoreOutcome::kCommitted) << i;
  }
  EXPECT_EQ(Audit().size(), 1u + 18u);
}

TEST_F(CommitterTest, TheSameRowTwiceAtOnceIsTwoCommits) {
  std::vector<Thread> threads;
  std::atomic<int> won{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back("writer", [&] {
      Change change = Put("/name", "v");
      change.guards = {StoreGuard::Absent("/name")};
      won += committer_->Commit(std::move(change)).outcome == StoreOutcome::kCommitted;
    });
  }
  for (Thread& thread : threads) thread.Join();
  EXPECT_EQ(won, 1);
}

TEST_F(CommitterTest, GoesOnWithTheChainOfAnEarlierLeader) {
  ASSERT_THAT(committer_->Commit(Put("/x", "1")).status, IsOk());
  Lead();
  ChangeResult result = committer_->Commit(Put("/y", "2"));
  ASSERT_THAT(result.status, IsOk());
  EXPECT_EQ(result.commit, 2u);
  EXPECT_EQ(Audit().size(), 2u);
}

TEST_F(CommitterTest, AStaleLeaderWritesNothing) {
  ASSERT_THAT(committer_->Commit(Put("/x", "1")).status, IsOk());
  ASSERT_THAT(store_.Campaign("c1", absl::Seconds(60)), IsOk());  // a newer term
  EXPECT_THAT(committer_->Commit(Put("/x", "2")).status, HasReason(v1::REASON_FENCED));
  EXPECT_EQ(Value("/x"), "1");
  EXPECT_THAT(fenced_with_, HasReason(v1::REASON_FENCED));
}

TEST_F(CommitterTest, NoticesAStoreThatWentBackInTime) {
  ASSERT_THAT(committer_->Commit(Put("/x", "1")).status, IsOk());
  auto old = store_.Save();
  ASSERT_THAT(committer_->Commit(Put("/x", "2")).status, IsOk());
  store_.RollBack(old);
  ChangeResult result = committer_->Commit(Put("/x", "3"));
  EXPECT_FALSE(result.status.ok());
  EXPECT_FALSE(fenced_with_.ok());
  EXPECT_EQ(Value("/x"), "1");
}

TEST_F(CommitterTest, RefusedCallsAreAuditedAndCounted) {
  for (int i = 0; i < 150; ++i) {
    AuditFields audit = AuditOfSystem("CreateKey", "k");
    audit.outcome = "PERMISSION_DENIED";
    committer_->Denied(std::move(audit));
  }
  for (Deadline deadline(RealClock(), absl::Seconds(10)); Audit().size() < 100 && !deadline.Passed();) {
  }
  std::vector<v1::AuditEntry> entries = Audit();
  EXPECT_EQ(entries.size(), 100u);
}

TEST_F(CommitterTest, ChangesWaitingAtTheEndAreRefused) {
  committer_->Stop();
  EXPECT_THAT(committer_->Commit(Put("/x", "1")).status, HasReason(v1::REASON_NOT_ACTIVE));
  EXPECT_EQ(Value("/x"), "");
}

}  // namespace
}  // namespace hsm
