#include "coordinator/backup_file.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/aead.h"
#include "common/error.h"

namespace hsm {
namespace {

namespace rpc = internal::v1;

ChunkPlace Place(uint32_t place, uint8_t attempt = 7) {
  ChunkPlace out;
  out.backup.value.fill(0xb1);
  out.place = place;
  out.attempt.value.fill(attempt);
  return out;
}

SecretBytes Key(uint8_t fill = 0x11) { return SecretBytes(Bytes(32, fill)); }

rpc::Chunk SomeChunk(uint32_t place) {
  rpc::Chunk chunk;
  chunk.set_place(place);
  rpc::BackupKey* key = chunk.add_keys();
  key->mutable_head()->set_body("head");
  key->add_versions()->set_wrapped("wrapped");
  key->add_versions()->set_wrapped("wrapped too");
  return chunk;
}

rpc::ChunkEntry EntryOf(const ChunkPlace& place, const Bytes& stored) {
  rpc::ChunkEntry entry;
  entry.set_place(place.place);
  entry.set_object(place.ObjectName());
  entry.set_sha256(ToString(Sha256(stored)));
  entry.set_bytes(stored.size());
  entry.set_keys(1);
  entry.set_versions(2);
  return entry;
}

TEST(BackupFileTest, ChunkComesBackAsItWas) {
  const rpc::Chunk chunk = SomeChunk(3);
  const Bytes stored = *SealChunk(chunk, Place(3), Key());
  const rpc::ChunkEntry entry = EntryOf(Place(3), stored);
  auto place = CheckStoredChunk(stored, Place(3).backup, entry);
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->Id(), Place(3).Id());
  auto opened = OpenChunk(stored, *place, entry, Key());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->SerializeAsString(), chunk.SerializeAsString());
}

// The example of docs/backup_file.md.
TEST(BackupFileTest, StoredBytesAreThoseOfTheDocument) {
  rpc::Chunk chunk;
  chunk.set_place(3);
  EXPECT_EQ(Hex(*SealChunk(chunk, Place(3), Key())),
            "7168736d63686b31"
            "00000003"
            "07070707070707070707070707070707"
            "ccc986f0c7f8267a3b4d88f0663d77a5c9d1");
}

TEST(BackupFileTest, StoredBytesShowNoMetadata) {
  rpc::Chunk chunk = SomeChunk(0);
  chunk.mutable_keys(0)->mutable_head()->set_body("payroll-signing-key");
  const Bytes stored = *SealChunk(chunk, Place(0), Key());
  EXPECT_EQ(StringView(stored).find("payroll"), std::string_view::npos);
}

struct Damage {
  const char* name;
  std::function<void(Bytes&, rpc::ChunkEntry&)> apply;
};
class DamagedChunkTest : public testing::TestWithParam<Damage> {};

TEST_P(DamagedChunkTest, IsFoundByItsHash) {
  Bytes stored = *SealChunk(SomeChunk(3), Place(3), Key());
  rpc::ChunkEntry entry = EntryOf(Place(3), stored);
  GetParam().apply(stored, entry);
  EXPECT_EQ(ReasonOf(CheckStoredChunk(stored, Place(3).backup, entry).status()), v1::REASON_BACKUP_INVALID);
}

INSTANTIATE_TEST_SUITE_P(
    BackupFile, DamagedChunkTest,
    testing::Values(Damage{"Truncated", [](Bytes& stored, rpc::ChunkEntry&) { stored.pop_back(); }},
                    Damage{"Empty", [](Bytes& stored, rpc::ChunkEntry&) { stored.clear(); }},
                    Damage{"Longer", [](Bytes& stored, rpc::ChunkEntry&) { stored.push_back(0); }},
                    Damage{"FlippedByte", [](Bytes& stored, rpc::ChunkEntry&) { stored[40] ^= 1; }},
                    Damage{"AnotherPlace",
                           [](Bytes& stored, rpc::ChunkEntry& entry) {
                             entry = EntryOf(Place(4), stored);  // the right hash, named as another chunk
                           }},
                    Damage{"NoMagic",
                           [](Bytes& stored, rpc::ChunkEntry& entry) {
                             stored[0] = 'x';
                             entry.set_sha256(ToString(Sha256(stored)));
                           }}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(BackupFileTest, ChunkOpensOnlyInItsPlaceBackupAndAttempt) {
  const Bytes stored = *SealChunk(SomeChunk(3), Place(3), Key());
  const rpc::ChunkEntry entry = EntryOf(Place(3), stored);
  ChunkPlace other_backup = Place(3);
  other_backup.backup.value.fill(0xb2);
  for (const ChunkPlace& wrong : {Place(4), Place(3, 8), other_backup}) {
    EXPECT_EQ(ReasonOf(OpenChunk(stored, wrong, entry, Key()).status()), v1::REASON_BACKUP_INVALID);
  }
  EXPECT_EQ(ReasonOf(OpenChunk(stored, Place(3), entry, Key(0x12)).status()), v1::REASON_BACKUP_INVALID);
  rpc::ChunkEntry miscounted = entry;
  miscounted.set_versions(3);
  EXPECT_EQ(ReasonOf(OpenChunk(stored, Place(3), miscounted, Key()).status()), v1::REASON_BACKUP_INVALID);
}

rpc::ManifestFields SoundManifest() {
  rpc::ManifestFields fields;
  fields.set_format(kBackupFormat);
  fields.set_backup_id(std::string(16, 'b'));
  fields.set_hsm_id(std::string(16, 'h'));
  fields.set_folder("mhsm-x-2026112507200000");
  fields.set_merkle_root(std::string(32, 'r'));
  fields.set_keys(2);
  fields.set_versions(3);
  fields.add_names("a");
  fields.add_names("b");
  for (uint32_t place : {0u, 1u}) {
    rpc::ChunkEntry* entry = fields.add_chunks();
    entry->set_place(place);
    entry->set_object(Place(place).ObjectName());
    entry->set_sha256(std::string(32, 's'));
    entry->set_keys(1);
    entry->set_versions(place + 1);
  }
  return fields;
}

struct ManifestFault {
  const char* name;
  std::function<void(rpc::ManifestFields&)> apply;
};
class ManifestFaultTest : public testing::TestWithParam<ManifestFault> {};

TEST_P(ManifestFaultTest, IsRefused) {
  rpc::ManifestFields fields = SoundManifest();
  ASSERT_TRUE(CheckManifest(fields, fields.folder()).ok());
  const std::string folder = fields.folder();
  GetParam().apply(fields);
  EXPECT_EQ(ReasonOf(CheckManifest(fields, folder)), v1::REASON_BACKUP_INVALID);
}

INSTANTIATE_TEST_SUITE_P(
    BackupFile, ManifestFaultTest,
    testing::Values(
        ManifestFault{"AnotherFolder", [](auto& fields) { fields.set_folder("mhsm-y"); }},
        ManifestFault{"NewerFormat", [](auto& fields) { fields.set_format(2); }},
        ManifestFault{"MissingChunk", [](auto& fields) { fields.mutable_chunks()->RemoveLast(); }},
        ManifestFault{"SwappedChunks", [](auto& fields) { fields.mutable_chunks()->SwapElements(0, 1); }},
        ManifestFault{"UnsortedNames", [](auto& fields) { fields.mutable_names()->SwapElements(0, 1); }},
        ManifestFault{"RepeatedName", [](auto& fields) { fields.set_names(1, "a"); }},
        ManifestFault{"LostName", [](auto& fields) { fields.mutable_names()->RemoveLast(); }},
        ManifestFault{"ShortHash", [](auto& fields) { fields.mutable_chunks(0)->set_sha256("s"); }},
        ManifestFault{"HugeChunk", [](auto& fields) { fields.mutable_chunks(0)->set_bytes(1ull << 40); }},
        ManifestFault{"NoRoot", [](auto& fields) { fields.clear_merkle_root(); }},
        ManifestFault{"NoId", [](auto& fields) { fields.clear_backup_id(); }}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(BackupFileTest, ManifestFileComesBackAsItWas) {
  rpc::ManifestFile file;
  file.set_manifest("signed bytes");
  file.set_signature("signature");
  const Bytes stored = EncodeManifestFile(file);
  auto parsed = ParseManifestFile(stored);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->manifest(), "signed bytes");
  for (size_t size = 0; size < stored.size(); ++size) {
    EXPECT_FALSE(ParseManifestFile(ByteView(stored).first(size)).ok()) << size;
  }
}

TEST(BackupFileTest, FolderNameHasTheTimeOfReceiptInHundredths) {
  const absl::Time received = absl::FromUnixMillis(1598890616869);
  EXPECT_EQ(BackupFolderName("ContosoMHSM", received), "mhsm-ContosoMHSM-2020083116165686");
}

KeyHead SomeHead() {
  KeyHead head;
  head.hsm.value.fill(1);
  head.data_set = 1;
  head.uid.value.fill(2);
  head.name = "a";
  head.spec = {v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
  head.version_count = 1;
  head.revision = 1;
  return head;
}

TEST(BackupFileTest, InventoryIgnoresWhatARestoreRenews) {
  KeyHead head = SomeHead();
  VersionRecord version;
  version.hsm = head.hsm;
  version.uid = head.uid;
  version.spec = head.spec;
  version.wrapped = {1, 2, 3};
  const Bytes before = InventoryLeaf(head, {&version, 1});
  head.data_set = 9;
  head.incarnation = 2;
  head.revision = 5;
  version.incarnation = 2;
  version.wrapped = {4};
  EXPECT_EQ(InventoryLeaf(head, {&version, 1}), before);
}

TEST(BackupFileTest, InventorySeesWhatPeopleSee) {
  const Bytes before = InventoryLeaf(SomeHead(), {});
  KeyHead disabled = SomeHead();
  disabled.enabled = false;
  KeyHead renamed = SomeHead();
  renamed.name = "b";
  KeyHead deleted = SomeHead();
  deleted.state = KeyState::kDeleted;
  for (const KeyHead& head : {disabled, renamed, deleted}) EXPECT_NE(InventoryLeaf(head, {}), before);
}

}  // namespace
}  // namespace hsm
