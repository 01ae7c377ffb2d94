// Writes the valid examples of tests/fuzz/corpus anew, where a format has changed: fuzz_make_corpus CORPUS.
// Examples that are text, and those that came from a token or a crash, are kept by hand.
#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/aead.h"
#include "common/check.h"
#include "common/file.h"
#include "common/record.h"
#include "common/x509.h"
#include "coordinator/backup_file.h"
#include "hsm/internal/v1/catalogue.pb.h"
#include "node/use_audit.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/seeded_random.h"

namespace hsm::fuzz {
namespace {

namespace rpc = internal::v1;

class Corpus {
 public:
  explicit Corpus(std::string root) : root_(std::move(root)) {}
  void Put(const std::string& target, const std::string& name, ByteView content) {
    HSM_CHECK(MakeDirectories(root_ + "/" + target, 0755).ok());
    HSM_CHECK(WriteFileAtomic(root_ + "/" + target + "/" + name, content, 0644).ok());
  }
  void Put(const std::string& target, const std::string& name, const std::string& content) {
    Put(target, name, View(content));
  }

 private:
  const std::string root_;
};

Bytes RsaSpkiExample() {
  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(EVP_RSA_gen(2048), &EVP_PKEY_free);
  HSM_CHECK(key != nullptr);
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(key.get(), &der);
  HSM_CHECK(size > 0);
  Bytes out(der, der + size);
  OPENSSL_free(der);
  return out;
}

struct Examples {
  testing::SeededRandom random{1};
  Bytes ec_spki = PrivateKey::MakeP256()->Spki();
  Bytes rsa_spki = RsaSpkiExample();
  KeyHead head;
  VersionRecord version;

  Examples() {
    head.hsm = random.NewId<HsmId>();
    head.data_set = 1;
    head.uid = random.NewId<KeyUid>();
    head.name = "signing-key";
    head.spec = {v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
    head.not_before = 1'700'000'000;
    head.expires = 1'900'000'000;
    head.operations = Bit(v1::KEY_OPERATION_SIGN) | Bit(v1::KEY_OPERATION_VERIFY);
    head.tags = {{"owner", "payments"}, {"stage", "test"}};
    head.latest = random.NewId<KeyVersion>();
    head.version_count = 1;
    head.revision = 1;
    head.created = head.updated = 1'750'000'000;
    version.hsm = head.hsm;
    version.uid = head.uid;
    version.version = head.latest;
    version.ordinal = 1;
    version.spec = head.spec;
    version.spki = ec_spki;
    version.wrapped = random.Draw(48);
    version.created = head.created;
  }
  rpc::SealedRecord Seal(const Bytes& body) {
    rpc::SealedRecord sealed;
    sealed.set_body(ToString(body));
    sealed.set_mac(ToString(random.Draw(32)));
    sealed.set_mac_generation(1);
    return sealed;
  }
};

void Records(Corpus& corpus, Examples& examples) {
  corpus.Put("record", "head", Encode(examples.head));
  KeyHead tombstone = examples.head;
  tombstone.state = KeyState::kTombstone;
  tombstone.deleted = 1'760'000'000;
  tombstone.scheduled_purge = 1'770'000'000;
  corpus.Put("record", "tombstone", Encode(tombstone));
  corpus.Put("record", "version", Encode(examples.version));
  VersionRecord oct = examples.version;
  oct.spec = {v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
  oct.spki.clear();
  corpus.Put("record", "version-oct", Encode(oct));

  rpc::KeyRecords records;
  *records.mutable_head() = examples.Seal(Encode(examples.head));
  *records.add_versions() = examples.Seal(Encode(examples.version));
  corpus.Put("catalogue", "head", records.head().SerializeAsString());
  corpus.Put("catalogue", "records", records.SerializeAsString());
  rpc::StoredVersion stored;
  *stored.mutable_record() = records.versions(0);
  stored.add_proved("p1");
  corpus.Put("catalogue", "version", stored.SerializeAsString());
  rpc::StoredTombstone row;
  *row.mutable_head() = examples.Seal(Encode(tombstone));
  row.set_uid(tombstone.uid.Raw());
  row.set_incarnation(1);
  row.set_name(tombstone.name);
  corpus.Put("catalogue", "tombstone", row.SerializeAsString());
}

void Backups(Corpus& corpus, Examples& examples) {
  rpc::Chunk chunk;
  rpc::BackupKey& key = *chunk.add_keys();
  *key.mutable_head() = examples.Seal(Encode(examples.head));
  rpc::BackupVersion& version = *key.add_versions();
  *version.mutable_record() = examples.Seal(Encode(examples.version));
  version.set_wrapped(ToString(examples.random.Draw(48)));
  version.set_backup_kek_generation(1);
  corpus.Put("chunk", "text", chunk.SerializeAsString());
  const ChunkPlace place{.attempt = examples.random.NewId<ChunkAttempt>()};
  const Bytes sealed = *SealChunk(chunk, place, SecretBytes(Bytes(kAeadKeyBytes, 7)));
  corpus.Put("chunk", "stored", sealed);

  rpc::ManifestFields fields;
  fields.set_format(kBackupFormat);
  fields.set_backup_id(examples.random.NewId<BackupId>().Raw());
  fields.set_hsm_id(examples.head.hsm.Raw());
  fields.set_hsm_name("example");
  fields.set_folder("mhsm-example-2026010203040506");
  fields.set_keys(1);
  fields.set_versions(1);
  fields.add_names(examples.head.name);
  fields.set_merkle_root(ToString(Sha256(sealed)));
  rpc::ChunkEntry& entry = *fields.add_chunks();
  entry.set_object(place.ObjectName());
  entry.set_sha256(ToString(Sha256(sealed)));
  entry.set_bytes(sealed.size());
  entry.set_keys(1);
  entry.set_versions(1);
  HSM_CHECK(CheckManifest(fields, fields.folder()).ok());
  rpc::ManifestFile file;
  file.set_manifest(fields.SerializeAsString());
  file.set_signature(ToString(examples.random.Draw(64)));
  file.set_spki(ToString(examples.ec_spki));
  corpus.Put("manifest", "one-key", EncodeManifestFile(file));
}

void Keys(Corpus& corpus, Examples& examples) {
  auto with_type = [](uint8_t type, const Bytes& spki) {
    Bytes out{type};
    out.insert(out.end(), spki.begin(), spki.end());
    return out;
  };
  corpus.Put("key_encoding", "rsa-2048", with_type(0, examples.rsa_spki));
  corpus.Put("key_encoding", "p-256", with_type(2, examples.ec_spki));
  auto issued = IssueCertificate({.common_name = "example",
                                  .uris = {"urn:uuid:00000000-0000-4000-8000-000000000001"},
                                  .dns_names = {"localhost"},
                                  .authority = true},
                                 nullptr);
  HSM_CHECK(issued.ok());
  corpus.Put("x509", "certificate.pem", issued->certificate.Pem());
  corpus.Put("x509", "certificate.der", issued->certificate.Der());
  corpus.Put("x509", "key.pem", issued->key.Pem().Expose());
  corpus.Put("x509", "encrypted", *EncryptTo(issued->key.Spki(), "fuzz", SecretBytes(Bytes{1, 2, 3, 4})));
}

void Audit(Corpus& corpus, Examples& examples) {
  const std::string folder = (std::filesystem::temp_directory_path() / "qhsm-make-corpus").string();
  std::filesystem::remove_all(folder);
  testing::FakeClock clock;
  {
    auto audit = UseAudit::Open({.directory = folder, .node = "p1"}, clock);
    HSM_CHECK(audit.ok());
    for (int block = 0; block < 2; ++block) {
      UseEntry entry{.uid = examples.head.uid, .version = examples.head.latest};
      HSM_CHECK((*audit)->Append(entry).ok() && (*audit)->Flush().ok());
    }
  }
  const std::vector<std::string> names = *ListDirectory(folder);
  for (const std::string& name : names) {
    if (name.ends_with(".log"))
      corpus.Put("use_audit", "two-blocks", *ReadFile(folder + "/" + name, 1 << 20));
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace hsm::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: fuzz_make_corpus CORPUS\n");
    return 2;
  }
  hsm::fuzz::Corpus corpus(argv[1]);
  hsm::fuzz::Examples examples;
  hsm::fuzz::Records(corpus, examples);
  hsm::fuzz::Backups(corpus, examples);
  hsm::fuzz::Keys(corpus, examples);
  hsm::fuzz::Audit(corpus, examples);
  return 0;
}
