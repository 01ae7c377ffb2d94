#include "node/partition.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/replica.h"
#include "common/thread.h"
#include "node/profile.h"
#include "node/public_part.h"
#include "tests/testing/eventually.h"
#include "tests/testing/node_fixture.h"

namespace hsm {
namespace {

using testing::Eventually;
using testing::TestDomain;
using testing::TestNode;

std::string Attempt(uint8_t n) { return std::string(15, 'a') + static_cast<char>(n); }
KeyUid UidOf(const rpc::KeyRecords& records) { return DecodeHead(records.head())->uid; }

class PartitionTest : public ::testing::Test {
 protected:
  TestDomain domain_;
  TestNode node_{domain_, "p1"};
};

TEST_F(PartitionTest, AKeyIsStagedProvedActivatedAndSigns) {
  auto records = node_.Generate("k", v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 0);
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_EQ(node_.token().live_keys(), 3u);  // the domain's; the generated one is gone
  auto installed = node_.Install(*records, Attempt(1));
  ASSERT_TRUE(installed.ok()) << installed.status();
  ASSERT_EQ(installed->proofs_size(), 1);
  VersionRecord version = *DecodeVersion(records->versions(0));
  Bytes message =
      ProofMessage({version.hsm, version.uid, 1, version.version, "p1"}, View(std::string(32, 'n')));
  EXPECT_TRUE(PublicPart::Parse(version.spec, version.spki)
                  ->Verify(v1::ALGORITHM_ES256, message, View(installed->proofs(0).signature())));
  EXPECT_EQ(node_->StatusForHeartbeat().keys(), 0u);
  // STAGED: served to a coordinator that names just this revision, as it does after its commit.
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_UNSPECIFIED);
  ASSERT_TRUE(node_.Activate(*records, Attempt(1)).ok());
  ASSERT_TRUE(node_.Activate(*records, Attempt(1)).ok());  // again: the same
  v1::CryptoResult signed_data = node_.Sign(*records);
  ASSERT_EQ(signed_data.reason(), v1::REASON_UNSPECIFIED) << signed_data.message();
  EXPECT_TRUE(PublicPart::Parse(version.spec, version.spki)
                  ->Verify(v1::ALGORITHM_ES256, View(std::string(32, 'd')), View(signed_data.value())));
  EXPECT_EQ(node_->StatusForHeartbeat().keys(), 1u);
  EXPECT_EQ(node_->StatusForHeartbeat().proved(), 1u);
}

TEST_F(PartitionTest, EveryKindOfKeyIsMadeProvedAndServedAfterARestart) {
  struct Kind {
    v1::KeyType type;
    v1::Curve curve;
    uint32_t bits;
    v1::Algorithm algorithm;
    size_t data;
  };
  for (const Kind& kind :
       {Kind{v1::KEY_TYPE_EC_HSM, v1::CURVE_P384, 0, v1::ALGORITHM_ES384, 48},
        Kind{v1::KEY_TYPE_EC_HSM, v1::CURVE_P521, 0, v1::ALGORITHM_ES512, 64},
        Kind{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256K, 0, v1::ALGORITHM_ES256K, 32},
        Kind{v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048, v1::ALGORITHM_PS256, 32},
        Kind{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256, v1::ALGORITHM_HS256, 100}}) {
    std::string name = "k" + std::to_string(kind.algorithm);
    auto records = node_.Create(name, kind.type, kind.curve, kind.bits);
    ASSERT_TRUE(records.ok()) << name << records.status();
    node_.Restart();
    auto result =
        node_.Run(node_.Op(*records, v1::CRYPTO_OPERATION_SIGN, kind.algorithm, std::string(kind.data, 'd')));
    EXPECT_EQ(result.reason(), v1::REASON_UNSPECIFIED) << name << ": " << result.message();
  }
}

TEST_F(PartitionTest, EverySingleFlippedBitOfARecordIsRefused) {
  auto records = node_.Generate("k", v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 128);
  ASSERT_TRUE(records.ok());
  auto refused = [&](const rpc::KeyRecords& bad) {
    absl::Status status = node_.Install(bad, Attempt(1)).status();
    v1::Reason reason = ReasonOf(status);
    return reason == v1::REASON_RECORD_CORRUPT || reason == v1::REASON_OTHER_DOMAIN;
  };
  for (size_t i = 0; i < records->head().body().size(); ++i) {
    rpc::KeyRecords bad = *records;
    (*bad.mutable_head()->mutable_body())[i] ^= 1 << (i % 8);
    EXPECT_TRUE(refused(bad)) << "head byte " << i;
  }
  for (size_t i = 0; i < records->versions(0).body().size(); ++i) {
    rpc::KeyRecords bad = *records;
    (*bad.mutable_versions(0)->mutable_body())[i] ^= 1 << (i % 8);
    EXPECT_TRUE(refused(bad)) << "version byte " << i;
  }
  for (size_t i = 0; i < 32; ++i) {
    rpc::KeyRecords bad = *records;
    (*bad.mutable_head()->mutable_mac())[i] ^= 1;
    EXPECT_TRUE(refused(bad)) << "mac byte " << i;
  }
}

TEST_F(PartitionTest, VersionsCannotBeSwappedBetweenKeys) {
  auto a = node_.Generate("a", v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 0);
  auto b = node_.Generate("b", v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 0);
  rpc::KeyRecords mixed = *a;
  *mixed.mutable_versions(0) = b->versions(0);
  EXPECT_EQ(ReasonOf(node_.Install(mixed, Attempt(1)).status()), v1::REASON_RECORD_CORRUPT);
}

TEST_F(PartitionTest, AWrongKeyInTheTokenIsFoundByTheProofAndNotServed) {
  auto records = node_.Generate("k", v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 0);
  node_.token().PlantWrongKey(1);
  auto installed = node_.Install(*records, Attempt(1));
  ASSERT_TRUE(installed.ok()) << installed.status();
  EXPECT_TRUE(installed->proofs(0).different());
  ASSERT_TRUE(node_.Activate(*records, Attempt(1)).ok());
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_PROOF_FAILED);
}

TEST_F(PartitionTest, AWrongKeyAfterARestartIsFoundBeforeItsFirstResultIsReleased) {
  auto ec = node_.Create("ec");
  auto oct = node_.Create("oct", v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256);
  auto rsa = node_.Create("rsa", v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048);
  auto ops = {node_.Op(*ec, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_ES256, std::string(32, 'd')),
              node_.Op(*oct, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_HS256, "data"),
              node_.Op(*rsa, v1::CRYPTO_OPERATION_DECRYPT, v1::ALGORITHM_RSA_OAEP, std::string(256, 'c'))};
  for (const v1::CryptoOp& op : ops) {
    node_.Restart();
    node_.token().PlantWrongKey(1);
    EXPECT_EQ(node_.Run(op).reason(), v1::REASON_PROOF_FAILED);
    EXPECT_EQ(node_.Run(op).reason(), v1::REASON_PROOF_FAILED);  // until it is proved again
  }
}

TEST_F(PartitionTest, SymmetricProofsOfTwoNodesAreEqualExactlyForEqualKeys) {
  TestNode other(domain_, "p2");
  for (uint32_t bits : {128u, 256u}) {
    auto records = node_.Generate("k", v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, bits);
    auto one = node_.Install(*records, Attempt(static_cast<uint8_t>(bits / 8)));
    auto two = other.Install(*records, Attempt(static_cast<uint8_t>(bits / 8)));
    ASSERT_TRUE(one.ok() && two.ok());
    EXPECT_EQ(one->proofs(0).comparison(), two->proofs(0).comparison());
    other.token().PlantWrongKey(1);
    auto three = other.Install(*records, Attempt(static_cast<uint8_t>(bits / 8 + 1)));
    EXPECT_NE(one->proofs(0).comparison(), three->proofs(0).comparison());
  }
}

TEST_F(PartitionTest, NarrowedOperationsDoNotStopAProof) {
  struct Narrow {
    v1::KeyType type;
    OperationSet operations;
  };
  for (const Narrow& narrow : {Narrow{v1::KEY_TYPE_EC_HSM, Bit(v1::KEY_OPERATION_VERIFY)},
                               Narrow{v1::KEY_TYPE_RSA_HSM, Bit(v1::KEY_OPERATION_DECRYPT)},
                               Narrow{v1::KEY_TYPE_RSA_HSM, Bit(v1::KEY_OPERATION_ENCRYPT)},
                               Narrow{v1::KEY_TYPE_OCT_HSM, Bit(v1::KEY_OPERATION_WRAP_KEY)}}) {
    auto records = node_.Generate("k", narrow.type, v1::CURVE_UNSPECIFIED, 0, narrow.operations);
    ASSERT_TRUE(records.ok()) << records.status();
    auto installed = node_.Install(*records, domain_.random.NewId<OpId>().Raw());
    ASSERT_TRUE(installed.ok()) << installed.status();
    EXPECT_FALSE(installed->proofs(0).different());
  }
}

TEST_F(PartitionTest, ADisabledKeyIsRefusedFromTheAnswerOnAlsoAfterARestart) {
  auto records = node_.Create("k");
  rpc::SetAttributes disable;
  disable.set_enabled(false);
  auto head = node_.Change(*records, disable);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_UNSPECIFIED);  // not taken yet
  EXPECT_TRUE(*node_.Revoke(*head));
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_KEY_DISABLED);
  node_.Restart();
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_KEY_DISABLED);
}

TEST_F(PartitionTest, ATombstoneIsFinal) {
  auto records = node_.Create("k");
  auto head = node_.Tombstone(*records);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_TRUE(*node_.Revoke(*head));
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_TOMBSTONED);
  EXPECT_EQ(node_.token().live_keys(), 3u);  // no copy left in the token
  for (int restart = 0; restart < 2; ++restart) {
    EXPECT_EQ(ReasonOf(node_.Install(*records, Attempt(9)).status()), v1::REASON_TOMBSTONED);
    rpc::PutRecordsRequest put;
    *put.mutable_fence() = node_.fence();
    *put.add_records() = *records;
    EXPECT_TRUE(node_->PutRecords(put).ok());
    EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_TOMBSTONED);
    node_.Restart();
  }
}

TEST_F(PartitionTest, ARevocationWaitsForCallsInFlight) {
  // A device that takes a second of the fake clock for a signature keeps the call in flight for as long as we
  // like.
  ProfileOptions slow;
  slow.rates[ProfileOperation::kSign]["P-256"] = 1;
  DeviceProfile profile(slow, node_.clock);
  node_.options.profile = &profile;
  node_.Restart();
  auto records = node_.Create("k");
  rpc::SetAttributes disable;
  disable.set_enabled(false);
  auto head = node_.Change(*records, disable);
  std::atomic<bool> revoked{false};
  v1::CryptoResult result;
  Thread signer("signer", [&] { result = node_.Sign(*records); });
  ASSERT_TRUE(Eventually([&] { return node_.clock.waiters() > 0; })) << "it is in the device's queue";
  Thread revoker("revoker", [&] {
    EXPECT_TRUE(*node_.Revoke(*head));
    revoked = true;
  });
  EXPECT_FALSE(Eventually([&] { return revoked.load(); }, absl::Milliseconds(50)));
  node_.clock.Advance(absl::Milliseconds(1'100));
  signer.Join();
  revoker.Join();
  EXPECT_EQ(result.reason(), v1::REASON_UNSPECIFIED);  // it began before
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_KEY_DISABLED);
}

TEST_F(PartitionTest, ADeletedKeyIsRefusedUntilItIsRecovered) {
  auto records = *node_.Create("k");
  const int64_t now = absl::ToUnixSeconds(node_.clock.Now());
  EXPECT_EQ(ReasonOf(node_.SoftDelete(records, now + 6 * 86'400).status()), v1::REASON_INVALID_ARGUMENT)
      << "no coordinator shortens the retention to nothing";
  *records.mutable_head() = *node_.SoftDelete(records, now + 90 * 86'400);
  EXPECT_TRUE(*node_.Revoke(records.head()));
  EXPECT_EQ(node_.Sign(records).reason(), v1::REASON_KEY_NOT_FOUND);
  node_.Restart();
  EXPECT_EQ(node_.Sign(records).reason(), v1::REASON_KEY_NOT_FOUND);
  EXPECT_EQ(ReasonOf(node_.SoftDelete(records, now + 90 * 86'400).status()), v1::REASON_CONFLICT);
  rpc::SetAttributes enable;
  enable.set_enabled(true);
  EXPECT_EQ(ReasonOf(node_.Change(records, enable).status()), v1::REASON_CONFLICT);
  rpc::TransitionRequest recover;
  recover.set_recover(true);
  *records.mutable_head() = *node_.Transition(records, recover);
  EXPECT_TRUE(*node_.Revoke(records.head()));
  EXPECT_EQ(node_.Sign(records).reason(), v1::REASON_UNSPECIFIED);
  EXPECT_EQ(ReasonOf(node_.Transition(records, recover).status()), v1::REASON_CONFLICT);
}

// By time that this node has lived through: what its wall clock or a coordinator says does not count.
TEST_F(PartitionTest, PurgeProtectionIsNotOverridden) {
  rpc::GenerateRequest request;
  *request.mutable_fence() = node_.fence();
  request.mutable_key()->set_name("protected");
  request.mutable_key()->set_type(v1::KEY_TYPE_EC_HSM);
  request.mutable_key()->set_operations(Bit(v1::KEY_OPERATION_SIGN));
  request.mutable_key()->set_enabled(true);
  request.mutable_key()->set_purge_protection(true);
  rpc::KeyRecords records = node_->Generate(request)->records();
  ASSERT_TRUE(node_.Install(records, Attempt(1)).ok());
  ASSERT_TRUE(node_.Activate(records, Attempt(1)).ok());
  EXPECT_EQ(ReasonOf(node_.Tombstone(records).status()), v1::REASON_CONFLICT) << "not even deleted";

  *records.mutable_head() =
      *node_.SoftDelete(records, absl::ToUnixSeconds(node_.clock.Now() + absl::Hours(7 * 24)));
  EXPECT_TRUE(*node_.Revoke(records.head()));
  auto purge = [&] {
    node_.GrantLease();  // as each heartbeat does; the time is kept with it
    return ReasonOf(node_.Tombstone(records).status());
  };
  EXPECT_EQ(purge(), v1::REASON_CONFLICT);
  node_.clock.JumpWallClock(absl::Hours(365 * 24));
  EXPECT_EQ(purge(), v1::REASON_CONFLICT);
  node_.clock.JumpWallClock(-absl::Hours(2 * 365 * 24));
  EXPECT_EQ(purge(), v1::REASON_CONFLICT);
  node_.clock.Advance(absl::Hours(6 * 24));
  EXPECT_EQ(purge(), v1::REASON_CONFLICT);
  node_.Restart();
  EXPECT_EQ(purge(), v1::REASON_CONFLICT);
  node_.clock.Advance(absl::Hours(24));
  EXPECT_EQ(purge(), v1::REASON_UNSPECIFIED) << "seven days have passed, whatever the wall clock shows";
}

TEST_F(PartitionTest, TransitionsStartFromTheNewestHead) {
  auto records = node_.Create("k");
  rpc::SetAttributes set;
  set.set_expires(2'000'000'000);
  auto head = node_.Change(*records, set);
  ASSERT_TRUE(*node_.Revoke(*head));
  EXPECT_EQ(ReasonOf(node_.Change(*records, set).status()), v1::REASON_REVISION_CONFLICT);
  KeyHead changed = *DecodeHead(*head);
  EXPECT_EQ(changed.revision, 2u);
  EXPECT_EQ(changed.expires, 2'000'000'000);
}

TEST_F(PartitionTest, RotationKeepsOldVersionsUsable) {
  auto records = node_.Create("k");
  rpc::GenerateRequest request;
  *request.mutable_fence() = node_.fence();
  request.mutable_version()->set_uid(UidOf(*records).Raw());
  request.mutable_version()->set_revision(1);
  auto rotated = node_->Generate(request);
  ASSERT_TRUE(rotated.ok()) << rotated.status();
  ASSERT_TRUE(node_.Install(rotated->records(), Attempt(1)).ok());
  v1::CryptoOp old =
      node_.Op(rotated->records(), v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_ES256, std::string(32, 'd'));
  old.set_version(DecodeVersion(records->versions(0))->version.Raw());
  EXPECT_EQ(node_.Run(old).reason(), v1::REASON_UNSPECIFIED);  // while STAGED
  ASSERT_TRUE(node_.Activate(rotated->records(), Attempt(1)).ok());
  EXPECT_EQ(node_.Run(old).reason(), v1::REASON_UNSPECIFIED);
  auto latest = node_.Sign(rotated->records());
  EXPECT_EQ(latest.version(), DecodeVersion(rotated->records().versions(0))->version.Raw());
  EXPECT_EQ(node_->StatusForHeartbeat().keys(), 2u);
}

TEST_F(PartitionTest, SynchronisedRecordsAreServedOnlyAfterAProof) {
  auto records = node_.Create("k");
  TestNode other(domain_, "p2");
  rpc::PutRecordsRequest put;
  *put.mutable_fence() = other.fence();
  *put.add_records() = *records;
  ASSERT_TRUE(other->PutRecords(put).ok());
  EXPECT_EQ(other.Sign(*records).reason(), v1::REASON_PROOF_FAILED);
  EXPECT_EQ(other->StatusForHeartbeat().digest(), node_->StatusForHeartbeat().digest());
  rpc::ProveRequest prove;
  *prove.mutable_fence() = other.fence();
  rpc::ProveItem& subject = *prove.add_items();
  subject.set_uid(UidOf(*records).Raw());
  subject.set_version(DecodeVersion(records->versions(0))->version.Raw());
  subject.set_nonce(std::string(32, 'n'));
  rpc::ProveItem& unknown = *prove.add_items() = subject;
  unknown.set_version(std::string(16, 'x'));
  rpc::ProveItem& malformed = *prove.add_items() = subject;
  malformed.clear_nonce();
  auto proved = other->Prove(prove);
  ASSERT_TRUE(proved.ok()) << proved.status();
  ASSERT_EQ(proved->answers_size(), 3);
  EXPECT_FALSE(proved->answers(0).proof().signature().empty());
  EXPECT_TRUE(proved->answers(1).missing());
  EXPECT_EQ(proved->answers(2).error().reason(), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(other.Sign(*records).reason(), v1::REASON_UNSPECIFIED);
  for (size_t i = 0; i < limits::kProofsPerCall; ++i) *prove.add_items() = prove.items(0);
  EXPECT_EQ(ReasonOf(other->Prove(prove).status()), v1::REASON_LIMIT_EXCEEDED);
}

TEST_F(PartitionTest, ANewJoinLeavesNothingProved) {
  auto records = node_.Create("k");
  rpc::DomainBundle again = domain_.bundle;
  again.set_manifest_key(domain_.bundle.manifest_key());
  BlobBatch batch;
  batch.SetState("domain", "");  // what the life cycle does when the token was wiped
  ASSERT_TRUE(node_.blobs().Commit(batch).ok());
  node_.Restart();
  EXPECT_EQ(node_->StatusForHeartbeat().proved(), 0u);
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_PROOF_FAILED);
}

// A full disk: a typed refusal, what is there serves on, and with space all goes on.
TEST_F(PartitionTest, AFullDiskRefusesNewKeysAndServesTheOldOnes) {
  auto key = *node_.Create("there");
  auto late = *node_.Generate("late", v1::KEY_TYPE_EC_HSM, v1::CURVE_UNSPECIFIED, 0);
  node_.disk().SetCapacity(1);
  const std::string attempt(16, 'a');
  EXPECT_EQ(ReasonOf(node_.Install(late, attempt).status()), v1::REASON_STORE_FULL);
  EXPECT_EQ(ReasonOf(node_.Revoke(*node_.Tombstone(key)).status()), v1::REASON_STORE_FULL)
      << "not taken: the coordinator waits for the lease to end and grants no other";
  EXPECT_FALSE(node_.blobs().Broken());
  node_.disk().SetCapacity(0);
  EXPECT_EQ(node_.Sign(key).reason(), v1::REASON_UNSPECIFIED);
  EXPECT_TRUE(node_.Install(late, attempt).ok());
  EXPECT_TRUE(node_.Activate(late, attempt).ok());
  EXPECT_EQ(node_.Sign(late).reason(), v1::REASON_UNSPECIFIED);
}

TEST_F(PartitionTest, QuarantinedKeysAreGone) {
  auto records = node_.Create("k");
  rpc::QuarantineRequest request;
  *request.mutable_fence() = node_.fence();
  request.set_uid(UidOf(*records).Raw());
  ASSERT_TRUE(node_->Quarantine(request).ok());
  EXPECT_EQ(node_.Sign(*records).reason(), v1::REASON_FENCED);
  EXPECT_EQ(node_.token().live_keys(), 3u);
}

TEST_F(PartitionTest, ListsAndDigestsAgreeWithWhatIsHeld) {
  std::vector<DigestItem> items[256];
  for (int i = 0; i < 20; ++i) {
    auto records = node_.Create("k" + std::to_string(i), v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 128);
    KeyHead head = *DecodeHead(records->head());
    items[BucketOf(head.uid)].push_back({head.uid, 1, 1, records->head().mac(), {head.latest}});
  }
  rpc::DigestRequest request;
  *request.mutable_fence() = node_.fence();
  auto digests = node_->Digest(request);
  ASSERT_EQ(digests->buckets_size(), 256);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(digests->buckets(i), ToString(BucketDigest(items[i]))) << i;
  size_t listed = 0;
  for (uint32_t i = 0; i < 256; ++i) {
    rpc::ListBucketRequest list;
    *list.mutable_fence() = node_.fence();
    list.set_bucket(i);
    list.set_limit(1);
    while (true) {
      auto page = *node_->ListBucket(list);
      listed += static_cast<size_t>(page.keys_size());
      if (!page.more()) break;
      list.set_after(Hex(View(page.keys(page.keys_size() - 1).uid())));
    }
  }
  EXPECT_EQ(listed, 20u);
}

TEST_F(PartitionTest, ADataSetSwitchIsAtomicAndKeepsTombstones) {
  auto kept = node_.Create("kept");
  auto purged = node_.Create("purged");
  ASSERT_TRUE(*node_.Revoke(*node_.Tombstone(*purged)));
  node_.data_set = 2;
  // The new data set is loaded beside the old one.
  KeyHead head = *DecodeHead(kept->head());
  head.data_set = 2;
  FakeToken sealing_token(domain_.keks, domain_.random);
  auto sealer = *Sealer::Open(sealing_token, domain_.bundle);
  rpc::KeyRecords moved = *kept;
  *moved.mutable_head() = *sealer->Seal(head);
  rpc::PutRecordsRequest put;
  *put.mutable_fence() = node_.fence();
  put.set_staging_data_set(true);
  put.set_into(2);
  *put.add_records() = moved;
  ASSERT_TRUE(node_->PutRecords(put).ok());
  node_.data_set = 1;
  EXPECT_EQ(node_.Sign(*kept).reason(), v1::REASON_UNSPECIFIED);
  node_.data_set = 2;
  EXPECT_EQ(node_.Sign(moved).reason(), v1::REASON_FENCED);
  rpc::ControlRequest control;
  *control.mutable_fence() = node_.fence();
  control.set_sequence(100);
  control.set_switch_data_set(2);
  EXPECT_TRUE(node_->Control(control)->taken());
  EXPECT_EQ(node_.Sign(moved).reason(), v1::REASON_NOT_ACTIVE);  // the lease went with the old data set
  node_.clock.Advance(absl::Milliseconds(1));
  node_.GrantLease();
  EXPECT_EQ(node_.Sign(moved).reason(), v1::REASON_PROOF_FAILED);  // loaded, not yet proved
  EXPECT_EQ(node_->StatusForHeartbeat().keys(), 1u);
  node_.Restart();
  EXPECT_EQ(node_->StatusForHeartbeat().data_set(), 2u);
  EXPECT_EQ(node_->StatusForHeartbeat().keys(), 1u);
  KeyHead back = *DecodeHead(purged->head());
  back.data_set = 2;
  rpc::KeyRecords revenant = *purged;
  *revenant.mutable_head() = *sealer->Seal(back);
  EXPECT_EQ(ReasonOf(node_.Install(revenant, Attempt(5)).status()), v1::REASON_TOMBSTONED);
}

TEST_F(PartitionTest, DataSetsBeforeThePreviousOneAreDroppedAtTheNextStart) {
  auto records = node_.Create("k");
  HeadRow row = *node_.blobs().ReadHead(1, UidOf(*records), AttemptId{});
  BlobBatch batch;
  for (DataSet data_set : {2, 3, 4}) {
    row.data_set = data_set;
    batch.PutHead(row);
  }
  batch.SetState("data_set", "3");
  ASSERT_TRUE(node_.blobs().Commit(batch).ok());
  node_.Restart();
  EXPECT_EQ(*node_.blobs().DataSets(), (std::vector<DataSet>{2, 3, 4}));
}

TEST_F(PartitionTest, AnotherDomainIsRefused) {
  TestDomain other(99);
  TestNode node(domain_, "p3");
  FakeToken token(other.keks, other.random);
  auto audit = *UseAudit::Open({.node = "p3"}, RealClock());
  Partition partition({.node = "p3"}, token, node.blobs(), *audit, node.clock, domain_.random);
  EXPECT_EQ(ReasonOf(partition.LoadDomain(domain_.bundle)), v1::REASON_OTHER_DOMAIN);
  EXPECT_EQ(partition.StatusForHeartbeat().state(), rpc::NODE_STATE_REFUSED);
  Partition stranger({.node = "p3"}, token, node.blobs(), *audit, node.clock, domain_.random);
  EXPECT_EQ(ReasonOf(stranger.LoadDomain(other.bundle)), v1::REASON_OTHER_DOMAIN);
}

TEST_F(PartitionTest, ATokenThatFailsItsSelfTestIsRefused) {
  node_.Stop();
  FakeToken token(domain_.keks, domain_.random);
  token.WeakenSelfTest("copy a replicated key");
  auto blobs = *BlobStore::Open({.path = "node.db", .vfs = node_.disk().name()});
  auto audit = *UseAudit::Open({.node = "p1"}, RealClock());
  Partition partition({.node = "p1"}, token, *blobs, *audit, node_.clock, domain_.random);
  EXPECT_EQ(ReasonOf(partition.LoadDomain(domain_.bundle)), v1::REASON_SELF_TEST_FAILED);
  EXPECT_EQ(ReasonOf(partition.Digest({}).status()), v1::REASON_NOT_ACTIVE);
}

}  // namespace
}  // namespace hsm
