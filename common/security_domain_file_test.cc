#include "common/security_domain_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file.h"
#include "tests/testing/paths.h"
#include "tests/testing/seeded_random.h"

namespace hsm {
namespace {

using ::testing::HasSubstr;
using testing::SeededRandom;

std::string Golden(const std::string& name) {
  return ReadTextFile(SourceDir() + "/tests/golden/1/security_domain/" + name, 1 << 20).value();
}
Certificate OfficerCertificate(int n) {
  return Certificate::FromPem(Golden("officer" + std::to_string(n) + ".cer")).value();
}
// The third officer's key is encrypted.
absl::StatusOr<SecretBytes> Passphrase() { return SecretBytes(ToBytes("third officer")); }
OfficerKey Officer(int n) {
  const SecretBytes pem(ToBytes(Golden("officer" + std::to_string(n) + ".key")));
  return {OfficerCertificate(n), RsaPrivateKey::FromPem(pem, Passphrase).value()};
}
std::vector<OfficerKey> Officers(std::initializer_list<int> which) {
  std::vector<OfficerKey> out;
  for (int n : which) out.push_back(Officer(n));
  return out;
}
std::vector<Certificate> ThreeCertificates() {
  return {OfficerCertificate(1), OfficerCertificate(2), OfficerCertificate(3)};
}
std::vector<DomainItem> Items() {
  std::vector<DomainItem> out;
  out.push_back({"qhsm-e", SecretBytes(ToBytes("a key"))});
  out.push_back({"qhsm-keks", SecretBytes(Bytes(300, 3))});
  return out;
}
std::string Refusal(const absl::Status& status) {
  EXPECT_EQ(ReasonOf(status), v1::REASON_INVALID_ARGUMENT) << status;
  return DetailOf(status).message();
}
std::string Replaced(std::string text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return at == std::string::npos ? text : text.replace(at, what.size(), with);
}

// Made by another implementation (Python), by the description of the format alone.
TEST(SecurityDomainFileTest, OpensWhatOthersMade) {
  const SecurityDomainFile file = SecurityDomainFile::Parse(Golden("file.json")).value();
  EXPECT_EQ(file.quorum(), 2);
  for (auto which : {std::initializer_list<int>{1, 2}, {2, 3}, {3, 1}, {1, 2, 3}}) {
    const auto items = file.Open(Officers(which));
    ASSERT_TRUE(items.ok()) << items.status();
    ASSERT_EQ(items->size(), 2u);
    EXPECT_EQ((*items)[0].tag, "first");
    EXPECT_TRUE((*items)[0].value.Equals(View("the first item")));
    EXPECT_EQ((*items)[1].tag, "second item");
    EXPECT_EQ((*items)[1].value.size(), 256u);
  }
  const RsaPrivateKey exchange = Officer(1).key;
  const auto items = OpenRestoreBlob(Golden("restore_blob.json"), OfficerCertificate(1),
                                     [&](ByteView encrypted) { return exchange.Decrypt(encrypted); });
  ASSERT_TRUE(items.ok()) << items.status();
  EXPECT_TRUE((*items)[0].value.Equals(View("the first item")));
}

TEST(SecurityDomainFileTest, FromOfficersToOfficersToTheHsm) {
  SeededRandom random(1);
  const std::string text = MakeSecurityDomainFile(Items(), ThreeCertificates(), 2, random).value();
  const SecurityDomainFile file = SecurityDomainFile::Parse(text).value();
  EXPECT_EQ(file.Officers()[2], Hex(OfficerCertificate(3).Fingerprint()));
  const std::vector<DomainItem> opened = file.Open(Officers({3, 2})).value();
  const std::string blob = MakeRestoreBlob(opened, OfficerCertificate(1), random).value();
  const RsaPrivateKey exchange = Officer(1).key;
  const auto restored = OpenRestoreBlob(blob, OfficerCertificate(1), [&](ByteView encrypted) {
                          return exchange.Decrypt(encrypted);
                        }).value();
  ASSERT_EQ(restored.size(), 2u);
  EXPECT_EQ(restored[1].tag, "qhsm-keks");
  EXPECT_TRUE(restored[1].value.Equals(Bytes(300, 3)));
}

TEST(SecurityDomainFileTest, NothingSecretIsReadable) {
  SeededRandom random(2);
  const std::string text = MakeSecurityDomainFile(Items(), ThreeCertificates(), 2, random).value();
  EXPECT_THAT(text, Not(HasSubstr(Base64Url(View("a key")))));
  EXPECT_NE(text, MakeSecurityDomainFile(Items(), ThreeCertificates(), 2, random).value());
}

TEST(SecurityDomainFileTest, TheOfficersAreChecked) {
  const SecurityDomainFile file = SecurityDomainFile::Parse(Golden("file.json")).value();
  EXPECT_THAT(Refusal(file.Open(Officers({1})).status()),
              HasSubstr("2 private keys are needed, 1 were given"));
  EXPECT_THAT(Refusal(file.Open(Officers({1, 1})).status()), HasSubstr("given twice"));
  std::vector<OfficerKey> swapped = Officers({1, 2});
  std::swap(swapped[0].key, swapped[1].key);
  EXPECT_THAT(Refusal(file.Open(swapped).status()), HasSubstr("officer 1"));
  std::vector<OfficerKey> stranger = Officers({1, 2});
  stranger[1].certificate = IssueCertificate({.common_name = "stranger"}, nullptr)->certificate;
  EXPECT_THAT(Refusal(file.Open(stranger).status()), HasSubstr("stranger"));
}

TEST(SecurityDomainFileTest, AShareThatDoesNotOpenNamesItsOfficer) {
  // The shares of officers 1 and 2 change places: each is encrypted to the other's key.
  std::string text = Golden("file.json");
  const std::string one = Base64Url(OfficerCertificate(1).Fingerprint());
  const std::string two = Base64Url(OfficerCertificate(2).Fingerprint());
  text = Replaced(Replaced(Replaced(text, one, "@"), two, one), "@", two);
  const auto opened = SecurityDomainFile::Parse(text)->Open(Officers({1, 3}));
  EXPECT_EQ(ReasonOf(opened.status()), v1::REASON_DECRYPTION_FAILED);
  EXPECT_THAT(DetailOf(opened.status()).message(), HasSubstr("officer 1"));
}

TEST(SecurityDomainFileTest, MakingChecksItsArguments) {
  SeededRandom random(3);
  auto refused = [&](const std::vector<DomainItem>& items, const std::vector<Certificate>& officers,
                     int quorum) {
    return Refusal(MakeSecurityDomainFile(items, officers, quorum, random).status());
  };
  std::vector<Certificate> two = ThreeCertificates();
  two.pop_back();
  EXPECT_THAT(refused(Items(), two, 2), HasSubstr("3 to 10 officers"));
  EXPECT_THAT(refused(Items(), ThreeCertificates(), 1), HasSubstr("quorum"));
  EXPECT_THAT(refused(Items(), ThreeCertificates(), 4), HasSubstr("quorum"));
  std::vector<Certificate> twice = ThreeCertificates();
  twice[2] = twice[0];
  EXPECT_THAT(refused(Items(), twice, 2), HasSubstr("given before"));
  std::vector<Certificate> curve = ThreeCertificates();
  curve[1] = IssueCertificate({.common_name = "elliptic"}, nullptr)->certificate;
  EXPECT_THAT(refused(Items(), curve, 2), HasSubstr("elliptic"));
  EXPECT_THAT(refused({}, ThreeCertificates(), 2), HasSubstr("1 to 64 items"));
  std::vector<DomainItem> same = Items();
  same[1].tag = same[0].tag;
  EXPECT_THAT(refused(same, ThreeCertificates(), 2), HasSubstr("two items"));
  std::vector<DomainItem> large = Items();
  large[0].value = SecretBytes(kJwePlainBytesMax + 1);
  EXPECT_THAT(refused(large, ThreeCertificates(), 2), HasSubstr("too large"));
}

TEST(SecurityDomainFileTest, ReadingIsStrict) {
  const std::string good = Golden("file.json");
  const std::pair<const char*, const char*> changes[] = {
      {"sp108_kdf", "other_kdf"},
      {"shamir_share", "shamir"},
      {"\"required\": 2", "\"required\": 1"},
      {"\"required\": 2", "\"required\": 4"},
      {"\"required\": 2", "\"required\": \"2\""},
      {"\"tag\": \"first\"", "\"tag\": \"second item\""},
      {"\"tag\": \"first\"", "\"tag\": 1"},
      {"\"EncData\"", "\"Encdata\""},
      {"\"kdf\"", "\"more\": 1, \"kdf\""},
      {"\"x5t_256\": \"", "\"x5t_256\": \"A"},
  };
  for (const auto& [what, with] : changes) {
    EXPECT_EQ(ReasonOf(SecurityDomainFile::Parse(Replaced(good, what, with)).status()),
              v1::REASON_INVALID_ARGUMENT)
        << what << " -> " << with;
  }
  EXPECT_FALSE(SecurityDomainFile::Parse(good + "x").ok());
  EXPECT_FALSE(SecurityDomainFile::Parse(good.substr(0, good.size() / 2)).ok());
  EXPECT_FALSE(SecurityDomainFile::Parse("").ok());
  EXPECT_FALSE(SecurityDomainFile::Parse(std::string(kDomainFileBytesMax + 1, ' ')).ok());
}

TEST(SecurityDomainFileTest, ABlobForAnotherExchangeKeyIsRefused) {
  const auto opened = OpenRestoreBlob(Golden("restore_blob.json"), OfficerCertificate(2),
                                      [](ByteView) { return SecretBytes(kJweKeyBytes); });
  EXPECT_THAT(Refusal(opened.status()), HasSubstr("another exchange key"));
  const auto wrong = OpenRestoreBlob(Golden("restore_blob.json"), OfficerCertificate(1),
                                     [](ByteView) { return SecretBytes(kJweKeyBytes); });
  EXPECT_EQ(ReasonOf(wrong.status()), v1::REASON_DECRYPTION_FAILED);
}

TEST(RsaPrivateKeyTest, SaysWhyItDoesNotOpen) {
  const SecretBytes pem(ToBytes(Golden("officer3.key")));
  auto wrong =
      RsaPrivateKey::FromPem(pem, [] { return absl::StatusOr<SecretBytes>(SecretBytes(ToBytes("x"))); });
  EXPECT_THAT(Refusal(wrong.status()), HasSubstr("passphrase"));
  auto none = RsaPrivateKey::FromPem(
      pem, [] { return absl::StatusOr<SecretBytes>(Error(v1::REASON_CANCELLED, "nobody to ask")); });
  EXPECT_EQ(ReasonOf(none.status()), v1::REASON_CANCELLED);
  EXPECT_FALSE(RsaPrivateKey::FromPem(SecretBytes(ToBytes("no PEM")), Passphrase).ok());
  EXPECT_FALSE(RsaPrivateKey::FromPem(PrivateKey::MakeP256()->Pem(), Passphrase).ok());
}

}  // namespace
}  // namespace hsm
