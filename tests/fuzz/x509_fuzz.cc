// Certificates and keys as PEM, certificates as DER, and texts encrypted to a key.
#include "common/x509.h"

#include "tests/fuzz/targets.h"

namespace hsm::fuzz {
namespace {

void Look(const Certificate& certificate) {
  (void)certificate.Uris();
  (void)certificate.DnsNames();
  (void)certificate.CommonName();
  (void)certificate.NotAfter();
  (void)certificate.Fingerprint();
  (void)certificate.IssuedBy(certificate);
  const Bytes spki = certificate.Spki();
  (void)VerifySignature(spki, spki, spki);
  (void)EncryptTo(spki, "fuzz", SecretBytes(Bytes{1, 2, 3}));
}

const PrivateKey& OwnKey() {
  static const PrivateKey key = *PrivateKey::MakeP256();
  return key;
}

}  // namespace

void X509(ByteView input) {
  if (auto certificate = Certificate::FromPem(StringView(input)); certificate.ok()) Look(*certificate);
  if (auto certificate = Certificate::FromDer(input); certificate.ok()) Look(*certificate);
  if (auto key = PrivateKey::FromPem(SecretBytes(Bytes(input.begin(), input.end()))); key.ok()) {
    (void)key->Spki();
    (void)key->Sign(input);
  }
  (void)OwnKey().Decrypt(input, "fuzz");
}

}  // namespace hsm::fuzz
