#include "store/catalogue.h"

#include <gtest/gtest.h>

#include "store/store_model.h"
#include "tests/testing/matchers.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;

class CatalogueTest : public ::testing::Test {
 protected:
  CatalogueTest() : random_(7), store_(RealClock()), catalogue_(store_) {}

  rpc::KeyRecords Records(const std::string& name, uint32_t versions) {
    KeyHead head;
    head.hsm = random_.NewId<HsmId>();
    head.data_set = 1;
    head.uid = random_.NewId<KeyUid>();
    head.name = name;
    head.spec = {v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
    head.revision = versions;
    head.version_count = versions;
    rpc::KeyRecords records;
    for (uint32_t ordinal = 1; ordinal <= versions; ++ordinal) {
      VersionRecord version;
      version.hsm = head.hsm;
      version.uid = head.uid;
      version.version = random_.NewId<KeyVersion>();
      version.ordinal = ordinal;
      version.spec = head.spec;
      records.add_versions()->set_body(ToString(Encode(version)));
      head.latest = version.version;
    }
    records.mutable_head()->set_body(ToString(Encode(head)));
    return records;
  }
  void Put(const rpc::KeyRecords& records) {
    StoreTransaction transaction;
    transaction.ops = *PutKeyOps(1, records, {"p1", "p2"});
    ASSERT_EQ(store_.Commit(transaction).outcome, StoreOutcome::kCommitted);
  }

  testing::SeededRandom random_;
  StoreModel store_;
  Catalogue catalogue_;
};

TEST_F(CatalogueTest, GivesAKeyBackWithItsVersionsInOrder) {
  rpc::KeyRecords records = Records("alpha", 12);
  Put(records);
  auto key = catalogue_.Key(1, "alpha");
  ASSERT_THAT(key, IsOk());
  ASSERT_TRUE(key->has_value());
  EXPECT_EQ((*key)->records.SerializeAsString(), records.SerializeAsString());
  EXPECT_FALSE(catalogue_.Key(1, "beta")->has_value());
  EXPECT_FALSE(catalogue_.Key(2, "alpha")->has_value()) << "another data set";
}

TEST_F(CatalogueTest, PagesHeadsAndVersions) {
  for (char name = 'a'; name <= 'e'; ++name) Put(Records(std::string(1, name), 3));
  auto page = catalogue_.Heads(1, "b", 2);
  ASSERT_THAT(page, IsOk());
  ASSERT_EQ(page->rows.size(), 2u);
  EXPECT_TRUE(page->more);
  EXPECT_EQ(DecodeHead(page->rows[0].value)->name, "c");
  KeyUid uid = DecodeHead(page->rows[0].value)->uid;
  auto versions = catalogue_.Versions(1, uid, 1, 10);
  ASSERT_THAT(versions, IsOk());
  EXPECT_EQ(versions->rows.size(), 2u);
  EXPECT_EQ(versions->rows[0].value.proved_size(), 2);
}

TEST_F(CatalogueTest, ASnapshotStandsStill) {
  Put(Records("a", 1));
  Put(Records("b", 2));
  auto snapshot = catalogue_.Snapshot();
  ASSERT_THAT(snapshot, IsOk());
  Put(Records("c", 1));
  auto keys = (*snapshot)->Keys(1, "", 1);
  ASSERT_THAT(keys, IsOk());
  EXPECT_EQ(keys->keys[0].name, "a");
  EXPECT_TRUE(keys->more);
  keys = (*snapshot)->Keys(1, "a", 10);
  ASSERT_EQ(keys->keys.size(), 1u);
  EXPECT_EQ(keys->keys[0].records.versions_size(), 2);
}

TEST_F(CatalogueTest, AValueThatDoesNotParseIsSaidToBeCorrupt) {
  StoreTransaction transaction;
  transaction.ops = {StoreOp::Put(store_key::Hsm(), "\xff\xff")};
  ASSERT_EQ(store_.Commit(transaction).outcome, StoreOutcome::kCommitted);
  EXPECT_THAT(catalogue_.Hsm(), HasReason(v1::REASON_RECORD_CORRUPT));
}

TEST_F(CatalogueTest, OpRecordsLieInOrderOfTheirTime) {
  OpId early, late;
  early.value = {0, 0, 0, 0, 0, 1};
  late.value = {0, 0, 0, 0, 1, 0};
  PrincipalId someone = random_.NewId<PrincipalId>();
  EXPECT_LT(store_key::Op(early, someone), store_key::Op(late, PrincipalId()));
}

}  // namespace
}  // namespace hsm
