// Files of released formats: every later version must read them. tests/golden/FORMAT/ was made once, by
//   QHSM_GOLDEN_DIR=tests/golden/2 golden_test --gtest_also_run_disabled_tests --gtest_filter=*DISABLED_Write
// for a new FORMAT; what is there is never edited.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/json.h"
#include "common/record.h"
#include "node/blob_store.h"
#include "tests/cluster/backup_fixture.h"
#include "tests/testing/paths.h"

namespace hsm::testing {
namespace {

std::string GoldenFolder() { return SourceDir() + "/tests/golden/1/"; }

std::string ReadAll(const std::string& name) {
  std::ifstream file(GoldenFolder() + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << GoldenFolder() << name;
  return {std::istreambuf_iterator<char>(file), {}};
}
std::string FromHexText(const std::string& hex) {
  auto bytes = FromHex(hex);
  EXPECT_TRUE(bytes.has_value()) << hex.substr(0, 40);
  return bytes ? ToString(*bytes) : "";
}
std::string HexOf(std::string_view bytes) { return Hex(View(bytes)); }

// facts.json: the domain, and what the keys of this HSM are and answer.
class Facts {
 public:
  Facts() : json_(Json::Parse(ReadAll("facts.json")).value_or(Json())) {}
  std::string Text(const std::string& name) const {
    const Json* found = json_.Find(name);
    EXPECT_NE(found, nullptr) << name;
    return found == nullptr ? "" : found->AsString().value_or("");
  }
  std::string Raw(const std::string& name) const { return FromHexText(Text(name)); }
  LocalDomain Domain() const {
    SeededRandom random(1);
    auto keks = std::make_shared<FakeDomain>(random);
    keks->replication_kek = ToBytes(Raw("replication_kek"));
    keks->backup_kek = ToBytes(Raw("backup_kek"));
    LocalDomain domain{keks, *HsmId::From(Raw("hsm")), {}};
    EXPECT_TRUE(domain.bundle.ParseFromString(Raw("bundle")));
    return domain;
  }

 private:
  Json json_;
};

void ExpectTheKeysOfTheGoldenHsm(LocalCluster& cluster, const Facts& facts) {
  EXPECT_EQ(cluster.Names(), (std::vector<std::string>{"ec", "oct", "off"}));
  ASSERT_TRUE(cluster.AwaitReady(3));
  for (size_t p = 0; p < 3; ++p) {
    EXPECT_EQ(HexOf(cluster.Use(p, "oct").value()), facts.Text("oct_hs256")) << "partition " << p;
    EXPECT_EQ(cluster.Use(p, "ec").value().size(), 64u);
    EXPECT_EQ(cluster.Use(p, "off").reason(), v1::REASON_KEY_DISABLED);
  }
  const KeyHead oct = cluster.coordinator().core().table.Find("oct")->head;
  EXPECT_EQ(oct.version_count, 2u);
  EXPECT_EQ(oct.tags, (std::map<std::string, std::string>{{"made", "by format 1"}}));
  EXPECT_EQ(oct.expires, 4'000'000'000);
}

TEST(GoldenTest, SealedRecordsDecodeToWhatTheyWereAndEncodeToTheSameBytes) {
  Facts facts;
  auto head = DecodeHead(View(ReadAll("head.bin")));
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->name, "oct");
  EXPECT_EQ(head->spec.type, v1::KEY_TYPE_OCT_HSM);
  EXPECT_EQ(head->hsm.Raw(), facts.Raw("hsm"));
  EXPECT_EQ(ToString(Encode(*head)), ReadAll("head.bin"));
  auto version = DecodeVersion(View(ReadAll("version.bin")));
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->version, head->latest);
  EXPECT_EQ(version->ordinal, 2u);
  EXPECT_EQ(ToString(Encode(*version)), ReadAll("version.bin"));
}

TEST(GoldenTest, ABackupFolderIsRestored) {
  Facts facts;
  LocalCluster cluster(3, LocalCluster::QuickOptions(), facts.Domain());
  ASSERT_TRUE(cluster.StartCoordinator());
  std::string root = ::testing::TempDir() + "qhsm-golden-XXXXXX";
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  const std::string folder = facts.Text("backup_folder");
  fs::copy(GoldenFolder() + folder, root + "/" + folder, fs::copy_options::recursive);
  v1::StartBackupRequest gate;
  gate.mutable_target()->set_directory(root);
  const auto made = cluster.jobs().StartBackup(cluster.caller(), gate);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_EQ(cluster.Await(made->job_id()).status(), v1::JOB_STATUS_SUCCEEDED);
  v1::StartRestoreRequest request;
  request.mutable_target()->set_directory(root);
  request.set_folder(folder);
  const auto started = cluster.jobs().StartRestore(cluster.caller(), request);
  ASSERT_TRUE(started.ok()) << started.status();
  const v1::Job restore = cluster.Await(started->job_id());
  EXPECT_EQ(restore.status(), v1::JOB_STATUS_SUCCEEDED) << restore.ShortDebugString();
  ExpectTheKeysOfTheGoldenHsm(cluster, facts);
  fs::remove_all(root);
}

TEST(GoldenTest, ACatalogueIsServed) {
  Facts facts;
  LocalCluster cluster(3, LocalCluster::QuickOptions(), facts.Domain());
  std::istringstream rows(ReadAll("catalogue.txt"));
  for (std::string key, value; rows >> key >> value;) {
    StoreTransaction put;
    put.ops.push_back(StoreOp::Put(FromHexText(key), FromHexText(value)));
    ASSERT_EQ(cluster.store().Commit(put).outcome, StoreOutcome::kCommitted);
  }
  ASSERT_TRUE(cluster.StartCoordinator());
  ExpectTheKeysOfTheGoldenHsm(cluster, facts);
}

TEST(GoldenTest, ANodesRecordsAreThere) {
  CrashVfs disk("golden-node");
  disk.Load({{"/node.db", ReadAll("node.db")}});
  auto blobs = BlobStore::Open({.path = "/node.db", .vfs = disk.name()});
  ASSERT_TRUE(blobs.ok()) << blobs.status();
  std::vector<std::string> names;
  size_t versions = 0;
  EXPECT_TRUE((*blobs)
                  ->ForEachHead(1,
                                [&](const HeadRow& row) {
                                  auto head = DecodeHead(row.sealed);
                                  if (head.ok() && head->state == KeyState::kActive)
                                    names.push_back(head->name);
                                  return head.status();
                                })
                  .ok());
  EXPECT_TRUE((*blobs)
                  ->ForEachVersion(1,
                                   [&](const VersionRow& row) {
                                     versions += row.proved;
                                     return absl::OkStatus();
                                   })
                  .ok());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"ec", "oct", "off"}));
  EXPECT_EQ(versions, 4u) << "and each was proved";
  EXPECT_EQ((*blobs)->Tombstones()->size(), 1u);
  EXPECT_GT((*blobs)->StateNumber("epoch"), 0u);
}

TEST(GoldenTest, DISABLED_Write) {
  const char* into = std::getenv("QHSM_GOLDEN_DIR");
  ASSERT_NE(into, nullptr);
  const std::string folder = std::string(into) + "/";
  fs::create_directories(folder);
  auto write = [&](const std::string& name, std::string_view bytes) {
    std::ofstream(folder + name, std::ios::binary) << bytes;
  };
  LocalCluster cluster;
  ASSERT_TRUE(cluster.StartCoordinator());
  ASSERT_TRUE(cluster.Create("ec", v1::KEY_TYPE_EC_HSM).ok());
  ASSERT_TRUE(cluster.Create("oct").ok());
  ASSERT_TRUE(cluster.Create("off").ok());
  ASSERT_TRUE(cluster.Create("gone").ok());
  ASSERT_TRUE(cluster.Destroy("gone").ok());
  v1::RotateKeyRequest rotate;
  rotate.set_name("oct");
  ASSERT_TRUE(cluster.coordinator().RotateKey(cluster.caller(), rotate).ok());
  v1::SetKeyAttributesRequest change;
  change.set_name("oct");
  change.set_expires(4'000'000'000);
  change.set_set_tags(true);
  (*change.mutable_tags())["made"] = "by format 1";
  ASSERT_TRUE(cluster.coordinator().SetKeyAttributes(cluster.caller(), change).ok());
  v1::SetKeyAttributesRequest off;
  off.set_name("off");
  off.set_enabled(false);
  ASSERT_TRUE(cluster.coordinator().SetKeyAttributes(cluster.caller(), off).ok());
  v1::StartBackupRequest request;
  request.mutable_target()->set_directory(fs::absolute(folder).lexically_normal().string());
  const auto started = cluster.jobs().StartBackup(cluster.caller(), request);
  ASSERT_TRUE(started.ok()) << started.status();
  const v1::Job backup = cluster.Await(started->job_id());
  ASSERT_EQ(backup.status(), v1::JOB_STATUS_SUCCEEDED);
  const LocalDomain domain = cluster.domain();
  const auto oct = cluster.coordinator().core().catalogue.Key(1, "oct");
  ASSERT_TRUE(oct.ok() && oct->has_value());
  write("head.bin", (*oct)->records.head().body());
  write("version.bin", (*oct)->records.versions(1).body());
  Json facts = Json::Object({{"replication_kek", Hex(domain.keks->replication_kek)},
                             {"backup_kek", Hex(domain.keks->backup_kek)},
                             {"hsm", HexOf(domain.hsm.Raw())},
                             {"bundle", HexOf(domain.bundle.SerializeAsString())},
                             {"backup_folder", backup.backup().folder()},
                             {"oct_hs256", HexOf(cluster.Use(0, "oct").value())}});
  write("facts.json", facts.Dump(2) + "\n");
  cluster.StopCoordinator();
  std::string rows;
  std::string after;
  for (bool more = true; more;) {
    StorePage page = *cluster.store().Scan("", after, 100);
    for (const StoreRecord& row : page.records) {
      if (row.key != kEpochKey) rows += HexOf(row.key) + " " + HexOf(row.value) + "\n";
      after = row.key;
    }
    more = page.more && !page.records.empty();
  }
  write("catalogue.txt", rows);
  cluster.StopNode(0);
  for (const auto& [path, content] : cluster.disk(0).Current()) {
    if (path == "/node.db") write("node.db", content);
  }
}

}  // namespace
}  // namespace hsm::testing
