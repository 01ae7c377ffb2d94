#include "coordinator/key_table.h"

#include <gtest/gtest.h>

#include "store/store_model.h"
#include "tests/testing/matchers.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;

class KeyTableTest : public ::testing::Test {
 protected:
  KeyTableTest() : random_(3), store_(RealClock()), catalogue_(store_) {}

  // A key with versions, as sealed records (the MACs are not looked at here).
  rpc::KeyRecords Records(const std::string& name, uint32_t versions, Revision revision = 1) {
    KeyHead head;
    head.data_set = 1;
    head.uid = random_.NewId<KeyUid>();
    head.name = name;
    head.spec = {v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
    head.revision = revision;
    rpc::KeyRecords records;
    for (uint32_t ordinal = 1; ordinal <= versions; ++ordinal) AddVersion(head, records, ordinal);
    Seal(head, records);
    return records;
  }
  VersionRecord AddVersion(KeyHead& head, rpc::KeyRecords& records, uint32_t ordinal) {
    VersionRecord version;
    version.uid = head.uid;
    version.version = random_.NewId<KeyVersion>();
    version.ordinal = ordinal;
    version.spec = head.spec;
    records.add_versions()->set_body(ToString(Encode(version)));
    head.latest = version.version;
    head.version_count = ordinal;
    return version;
  }
  void Seal(const KeyHead& head, rpc::KeyRecords& records) {
    records.mutable_head()->set_body(ToString(Encode(head)));
    records.mutable_head()->set_mac(std::string(31, 'm') + static_cast<char>(head.revision));
  }

  testing::SeededRandom random_;
  StoreModel store_;
  Catalogue catalogue_;
  KeyTable table_;
};

TEST_F(KeyTableTest, FindsByNameAndUidAndCounts) {
  KeyEntryPtr a = *MakeEntry(Records("a", 2), 5);
  table_.Put(a);
  table_.Put(*MakeEntry(Records("b", 1), 6));
  EXPECT_EQ(table_.Find("a"), a);
  EXPECT_EQ(table_.FindUid(a->head.uid), a);
  EXPECT_EQ(table_.Find("c"), nullptr);
  EXPECT_EQ(table_.keys(), 2u);
  EXPECT_EQ(table_.versions(), 3u);
}

TEST_F(KeyTableTest, AChangeReplacesTheEntryAndItsDigest) {
  rpc::KeyRecords records = Records("a", 1);
  KeyEntryPtr before = *MakeEntry(records, 5);
  table_.Put(before);
  std::vector<Bytes> digests = table_.BucketDigests();
  KeyHead head = before->head;
  head.enabled = false;
  head.revision = 2;
  Seal(head, records);
  table_.Put(*ChangeEntry(*before, records.head(), nullptr, 9));
  EXPECT_FALSE(table_.Find("a")->head.enabled);
  EXPECT_EQ(table_.Find("a")->store_revision, 9);
  EXPECT_TRUE(before->head.enabled) << "who holds the old entry keeps it";
  EXPECT_NE(table_.BucketDigests(), digests);
  EXPECT_EQ(table_.keys(), 1u);
}

TEST_F(KeyTableTest, ANewVersionIsUsedOnlyOnceItIsActive) {
  rpc::KeyRecords records = Records("a", 1);
  KeyEntryPtr before = *MakeEntry(records, 5);
  table_.Put(before);
  KeyHead head = before->head;
  head.revision = 2;
  VersionRecord added = AddVersion(head, records, 2);
  Seal(head, records);
  table_.Put(*ChangeEntry(*before, records.head(), &added, 6));
  KeyEntryPtr now = table_.Find("a");
  EXPECT_EQ(now->latest().id, before->head.latest) << "committed, not at the partitions yet";
  EXPECT_EQ(now->RouteRevision(), 1u);
  now->RaiseActive(2);
  EXPECT_EQ(table_.Find("a")->latest().id, added.version);
  EXPECT_EQ(table_.versions(), 2u);
}

TEST_F(KeyTableTest, ATombstoneStaysInTheDigest) {
  KeyEntryPtr a = *MakeEntry(Records("a", 3), 5);
  std::vector<Bytes> empty = table_.BucketDigests();
  table_.Put(a);
  table_.Destroy("a", a->head.uid, {1, 2, "mac", "a"});
  EXPECT_EQ(table_.Find("a"), nullptr);
  EXPECT_EQ(table_.keys(), 0u);
  EXPECT_EQ(table_.versions(), 0u);
  EXPECT_TRUE(table_.FindTombstone(a->head.uid).has_value());
  EXPECT_NE(table_.BucketDigests(), empty);
}

TEST_F(KeyTableTest, LoadsWhatTheCatalogueHas) {
  StoreTransaction transaction;
  for (const char* name : {"a", "b", "c"}) {
    std::vector<StoreOp> ops = *PutKeyOps(1, Records(name, 2), {});
    transaction.ops.insert(transaction.ops.end(), ops.begin(), ops.end());
  }
  ASSERT_EQ(store_.Commit(transaction).outcome, StoreOutcome::kCommitted);
  table_.Put(*MakeEntry(Records("gone", 1), 1));
  ASSERT_THAT(table_.Load(catalogue_, 1), IsOk());
  EXPECT_EQ(table_.keys(), 3u);
  EXPECT_EQ(table_.versions(), 6u);
  EXPECT_EQ(table_.Find("gone"), nullptr);
  EXPECT_EQ(table_.data_set(), 1u);
  EXPECT_GT(table_.Find("b")->store_revision, 0);
}

TEST_F(KeyTableTest, RecordsThatDoNotBelongTogetherAreRefused) {
  rpc::KeyRecords a = Records("a", 1);
  *a.mutable_versions(0) = Records("b", 1).versions(0);
  EXPECT_THAT(MakeEntry(a, 1), HasReason(v1::REASON_RECORD_CORRUPT));
}

}  // namespace
}  // namespace hsm
