#pragma once
// Certificates and the keys behind them, as far as TLS identities, pinning and join keys need them. Values
// are immutable and thread-safe once made.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/secret.h"

struct evp_pkey_st;
struct x509_st;

namespace hsm {

class Certificate {
 public:
  static absl::StatusOr<Certificate> FromPem(std::string_view pem);  // the first one in it; INVALID_ARGUMENT
  static absl::StatusOr<Certificate> FromDer(ByteView der);
  static absl::StatusOr<Certificate> FromFile(const std::string& path);

  Bytes Der() const;
  std::string Pem() const;
  Bytes Fingerprint() const;              // SHA-256 of the DER form: what [peers] and certificate_sha256 pin
  Bytes Spki() const;                     // DER SubjectPublicKeyInfo
  std::vector<std::string> Uris() const;  // URI subject alternative names
  std::vector<std::string> DnsNames() const;
  std::string CommonName() const;
  int64_t NotAfter() const;                        // seconds since 1970 UTC
  bool IssuedBy(const Certificate& issuer) const;  // signature and name; not dates

 private:
  explicit Certificate(std::shared_ptr<x509_st> handle) : handle_(std::move(handle)) {}
  friend class CertificateMaker;
  std::shared_ptr<x509_st> handle_;
};

// Fingerprint() of the certificate that `pem` begins with, without taking the certificate apart, which costs
// a hundred times as much; empty if it begins with something else. For certificates that TLS has checked
// already.
Bytes FingerprintOfPem(std::string_view pem);

class PrivateKey {
 public:
  static absl::StatusOr<PrivateKey> FromPem(const SecretBytes& pem);
  static absl::StatusOr<PrivateKey> FromFile(const std::string& path);
  static absl::StatusOr<PrivateKey> MakeP256();

  SecretBytes Pem() const;  // PKCS#8, not encrypted
  Bytes Spki() const;
  // SHA-256 with ECDSA (DER) or RSA PKCS#1 v1.5, by the key's type.
  absl::StatusOr<Bytes> Sign(ByteView data) const;
  // Opens what EncryptTo made for this key (P-256 only). DECRYPTION_FAILED.
  absl::StatusOr<SecretBytes> Decrypt(ByteView sealed, std::string_view purpose) const;

 private:
  explicit PrivateKey(std::shared_ptr<evp_pkey_st> handle) : handle_(std::move(handle)) {}
  friend class CertificateMaker;
  std::shared_ptr<evp_pkey_st> handle_;
};

// The counterpart of PrivateKey::Sign; also for RSA and EC public keys of sealed records. False for any
// failure.
bool VerifySignature(ByteView spki, ByteView data, ByteView signature);

// Encrypts a short secret (a PIN) to a P-256 public key: ephemeral ECDH, HKDF-SHA-256 over {purpose, both
// public keys}, AES-256-GCM. `purpose` must be the same on both sides, so that a text made for one use opens
// in no other.
absl::StatusOr<Bytes> EncryptTo(ByteView spki, std::string_view purpose, const SecretBytes& plaintext);

struct CertificateRequest {
  std::string common_name;
  std::vector<std::string> uris;  // urn:uuid:..., urn:qhsm:node:NAME
  std::vector<std::string> dns_names;
  std::vector<std::string> ip_addresses;
  bool authority = false;  // a CA of its own
  int days = 825;
};
struct IssuedCertificate {
  Certificate certificate;
  PrivateKey key;
};
// A new P-256 key and a certificate for it, good for both ends of TLS. Signed by `issuer`, or by itself when
// null.
absl::StatusOr<IssuedCertificate> IssueCertificate(const CertificateRequest& request,
                                                   const IssuedCertificate* issuer);

}  // namespace hsm
