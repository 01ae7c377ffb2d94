#include "node/exporter.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "tests/testing/node_fixture.h"

namespace hsm {
namespace {

using testing::TestDomain;
using testing::TestNode;

class ExporterTest : public ::testing::Test {
 protected:
  rpc::ExportRequest ExportOf(std::initializer_list<rpc::KeyRecords> records) {
    rpc::ExportRequest request;
    *request.mutable_fence() = node_.fence();
    request.set_backup_id(backup_id_);
    for (const rpc::KeyRecords& each : records) *request.add_records() = each;
    return request;
  }
  rpc::ImportRequest ImportOf(const rpc::ExportResponse& exported) {
    rpc::ImportRequest request;
    *request.mutable_fence() = node_.fence();
    request.set_backup_id(backup_id_);
    request.set_data_set(2);
    for (const auto& key : exported.keys()) *request.add_keys() = key;
    return request;
  }
  rpc::SignManifestRequest ManifestOf(const rpc::ExportResponse& exported) {
    rpc::SignManifestRequest request;
    *request.mutable_fence() = node_.fence();
    request.mutable_fields()->set_backup_id(backup_id_);
    request.mutable_fields()->set_keys(static_cast<uint64_t>(exported.keys_size()));
    auto* entry = request.mutable_fields()->add_chunks();
    entry->set_sha256("hash of the chunk");
    entry->set_keys(static_cast<uint32_t>(exported.keys_size()));
    auto* chunk = request.add_chunks();
    chunk->set_chunk_hash(entry->sha256());
    chunk->add_receipts(exported.receipt());
    chunk->add_batch_hashes(ToString(ExportBatchHash(exported.keys())));
    return request;
  }

  const std::string backup_id_ = std::string(16, 'b');
  TestDomain domain_;
  TestNode node_{domain_, "p1"};
};

TEST_F(ExporterTest, WhatWasExportedIsImportedAndSigns) {
  auto ec = *node_.Create("ec");
  auto oct = *node_.Create("oct", v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 128);
  auto rsa = *node_.Create("rsa", v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048);
  auto exported = node_->Export(ExportOf({ec, oct, rsa}));
  ASSERT_TRUE(exported.ok()) << exported.status();
  ASSERT_EQ(exported->keys_size(), 3);
  EXPECT_EQ(node_.token().live_keys(), 3u + 3u);  // the cached ones; nothing in transit stays
  for (int i = 0; i < 3; ++i) {
    VersionRecord copy = *DecodeVersion(exported->keys(i).versions(0).record());
    EXPECT_TRUE(copy.wrapped.empty());
  }
  TestNode other(domain_, "p2");
  rpc::ImportRequest import = ImportOf(*exported);
  auto imported = other->Import(import);
  ASSERT_TRUE(imported.ok()) << imported.status();
  for (int i = 0; i < 3; ++i) {
    KeyHead head = *DecodeHead(imported->records(i).head());
    EXPECT_EQ(head.data_set, 2u);
    const rpc::KeyRecords& original = i == 0 ? ec : i == 1 ? oct : rsa;
    EXPECT_EQ(head.uid, DecodeHead(original.head())->uid);
    // KWP is deterministic: the very key again.
    EXPECT_EQ(DecodeVersion(imported->records(i).versions(0))->wrapped,
              DecodeVersion(original.versions(0))->wrapped);
  }
}

TEST_F(ExporterTest, AnAlteredOrMovedBackupKeyIsRefused) {
  auto a = *node_.Create("a");
  auto b = *node_.Create("b");
  auto exported = *node_->Export(ExportOf({a, b}));
  auto refused = [&](const rpc::ImportRequest& request) {
    return ReasonOf(node_->Import(request).status()) == v1::REASON_RECORD_CORRUPT;
  };
  rpc::ImportRequest bad = ImportOf(exported);
  bad.set_backup_id(std::string(16, 'x'));
  EXPECT_TRUE(refused(bad)) << "another backup";
  bad = ImportOf(exported);
  (*bad.mutable_keys(0)->mutable_versions(0)->mutable_wrapped())[3] ^= 1;
  EXPECT_TRUE(refused(bad)) << "wrapped key";
  bad = ImportOf(exported);
  bad.mutable_keys(0)->mutable_versions(0)->set_wrapped(exported.keys(1).versions(0).wrapped());
  EXPECT_TRUE(refused(bad)) << "swapped keys";
  bad = ImportOf(exported);
  *bad.mutable_keys(0)->mutable_versions(0) = exported.keys(1).versions(0);
  EXPECT_TRUE(refused(bad)) << "swapped versions";
  bad = ImportOf(exported);
  (*bad.mutable_keys(0)->mutable_head()->mutable_body())[60] ^= 1;
  EXPECT_TRUE(refused(bad)) << "head";
}

TEST_F(ExporterTest, APurgedKeyComesBackOnlyAsANewIncarnation) {
  auto key = *node_.Create("k");
  auto exported = *node_->Export(ExportOf({key}));
  ASSERT_TRUE(*node_.Revoke(*node_.Tombstone(key)));
  rpc::ImportRequest request = ImportOf(exported);
  EXPECT_EQ(ReasonOf(node_->Import(request).status()), v1::REASON_TOMBSTONED);
  request.add_incarnations(2);
  auto imported = node_->Import(request);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(DecodeVersion(imported->records(0).versions(0))->incarnation, 2u);
}

TEST_F(ExporterTest, ALaterHeadNarrowsAnImportedKeyAndOnlyItsOwn) {
  auto key = *node_.Create("k");
  auto other = *node_.Create("other");
  auto exported = *node_->Export(ExportOf({key}));
  rpc::ImportRequest request = ImportOf(exported);
  *request.add_narrowed_by() = other.head();
  EXPECT_EQ(ReasonOf(node_->Import(request).status()), v1::REASON_INVALID_ARGUMENT);
  (*request.mutable_narrowed_by(0)->mutable_body())[60] ^= 1;
  EXPECT_EQ(ReasonOf(node_->Import(request).status()), v1::REASON_RECORD_CORRUPT)
      << "not sealed by the domain";
  rpc::SetAttributes disable;
  disable.set_enabled(false);
  *request.mutable_narrowed_by(0) = *node_.Change(key, disable);
  auto imported = node_->Import(request);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_FALSE(DecodeHead(imported->records(0).head())->enabled);
  *request.mutable_narrowed_by(0) = rpc::SealedRecord();
  EXPECT_TRUE(DecodeHead(node_->Import(request)->records(0).head())->enabled);
}

TEST_F(ExporterTest, AManifestIsSignedForGenuineReceiptsOnlyAndRecognised) {
  auto key = *node_.Create("k");
  auto exported = *node_->Export(ExportOf({key}));
  rpc::SignManifestRequest request = ManifestOf(exported);
  auto manifest = node_->SignManifest(request);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  TestNode other(domain_, "p2");
  rpc::CheckManifestRequest check;
  check.set_manifest(manifest->manifest());
  check.set_signature(manifest->signature());
  EXPECT_TRUE(other->CheckManifest(check)->ours());
  EXPECT_EQ(other->CheckManifest(check)->fields().hsm_id(), domain_.hsm.Raw());
  std::string bad = manifest->manifest();
  bad[8] ^= 1;
  check.set_manifest(bad);
  EXPECT_FALSE(other->CheckManifest(check)->ours());
  (*request.mutable_chunks(0)->mutable_receipts(0))[0] ^= 1;
  EXPECT_EQ(ReasonOf(node_->SignManifest(request).status()), v1::REASON_BACKUP_INVALID);
  request = ManifestOf(exported);
  request.mutable_chunks(0)->set_chunk_hash("another");
  EXPECT_EQ(ReasonOf(node_->SignManifest(request).status()), v1::REASON_BACKUP_INVALID);
  request = ManifestOf(exported);
  request.mutable_chunks(0)->clear_receipts();
  request.mutable_chunks(0)->clear_batch_hashes();
  EXPECT_EQ(ReasonOf(node_->SignManifest(request).status()), v1::REASON_BACKUP_INVALID);
}

TEST_F(ExporterTest, AeadKeysAreOneForEachChunkAndTheSameOnEachNode) {
  TestNode other(domain_, "p2");
  rpc::DeriveAeadRequest request;
  *request.mutable_fence() = node_.fence();
  request.set_backup_id(backup_id_);
  request.set_chunk_id("0-aa");
  std::string key = node_->DeriveAead(request)->key();
  EXPECT_EQ(key.size(), 32u);
  EXPECT_EQ(other->DeriveAead(request)->key(), key);
  request.set_chunk_id("0-ab");
  EXPECT_NE(node_->DeriveAead(request)->key(), key);
}

}  // namespace
}  // namespace hsm
