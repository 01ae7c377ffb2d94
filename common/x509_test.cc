#include "common/x509.h"

#include <gtest/gtest.h>

#include "common/error.h"

namespace hsm {
namespace {

IssuedCertificate Authority(const std::string& name) {
  return IssueCertificate({.common_name = name, .authority = true}, nullptr).value();
}

TEST(X509Test, IssuedCertificatesCarryTheirNames) {
  IssuedCertificate ca = Authority("ca");
  IssuedCertificate leaf = IssueCertificate({.common_name = "p1",
                                             .uris = {"urn:qhsm:node:p1", "urn:x"},
                                             .dns_names = {"p1", "localhost"},
                                             .ip_addresses = {"127.0.0.1"}},
                                            &ca)
                               .value();
  Certificate read = Certificate::FromPem(leaf.certificate.Pem()).value();
  EXPECT_EQ(read.Uris(), (std::vector<std::string>{"urn:qhsm:node:p1", "urn:x"}));
  EXPECT_EQ(read.DnsNames(), (std::vector<std::string>{"p1", "localhost"}));
  EXPECT_EQ(read.CommonName(), "p1");
  EXPECT_EQ(read.Fingerprint(), leaf.certificate.Fingerprint());
  EXPECT_EQ(FingerprintOfPem(leaf.certificate.Pem()), leaf.certificate.Fingerprint());
  EXPECT_TRUE(FingerprintOfPem("no certificate").empty());
  EXPECT_TRUE(FingerprintOfPem(StringView(leaf.key.Pem().Expose())).empty());
  EXPECT_EQ(read.Spki(), leaf.key.Spki());
  EXPECT_TRUE(read.IssuedBy(ca.certificate));
  EXPECT_FALSE(read.IssuedBy(Authority("ca").certificate));
  EXPECT_EQ(Certificate::FromDer(read.Der()).value().Pem(), read.Pem());
}

TEST(X509Test, GarbageIsRefused) {
  EXPECT_EQ(ReasonOf(Certificate::FromPem("x").status()), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(Certificate::FromDer(View("x")).status()), v1::REASON_INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(PrivateKey::FromPem(SecretBytes(ToBytes("x"))).status()), v1::REASON_INVALID_ARGUMENT);
  Bytes extra = Authority("ca").certificate.Der();
  extra.push_back(0);
  EXPECT_FALSE(Certificate::FromDer(extra).ok());
  EXPECT_FALSE(IssueCertificate({.common_name = "x", .ip_addresses = {"not an address"}}, nullptr).ok());
}

TEST(X509Test, SignaturesAreOverTheVeryBytes) {
  PrivateKey key = PrivateKey::MakeP256().value();
  PrivateKey again = PrivateKey::FromPem(key.Pem()).value();
  Bytes signature = again.Sign(View("text")).value();
  EXPECT_TRUE(VerifySignature(key.Spki(), View("text"), signature));
  EXPECT_FALSE(VerifySignature(key.Spki(), View("tex"), signature));
  EXPECT_FALSE(VerifySignature(PrivateKey::MakeP256().value().Spki(), View("text"), signature));
  EXPECT_FALSE(VerifySignature(View("no key"), View("text"), signature));
}

TEST(X509Test, SecretsOpenOnlyForTheirKeyAndPurpose) {
  PrivateKey key = PrivateKey::MakeP256().value();
  SecretBytes pin(ToBytes("1234"));
  Bytes sealed = EncryptTo(key.Spki(), "so-pin", pin).value();
  EXPECT_TRUE(key.Decrypt(sealed, "so-pin").value().Equals(View("1234")));
  EXPECT_EQ(ReasonOf(key.Decrypt(sealed, "other").status()), v1::REASON_DECRYPTION_FAILED);
  EXPECT_FALSE(PrivateKey::MakeP256().value().Decrypt(sealed, "so-pin").ok());
  for (size_t i = 0; i < sealed.size(); ++i) {
    Bytes changed = sealed;
    changed[i] ^= 1;
    EXPECT_FALSE(key.Decrypt(changed, "so-pin").ok()) << i;
  }
  EXPECT_FALSE(key.Decrypt({}, "so-pin").ok());
  EXPECT_NE(sealed, EncryptTo(key.Spki(), "so-pin", pin).value());
}

}  // namespace
}  // namespace hsm
