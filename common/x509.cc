#include "common/x509.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <utility>

#include "common/aead.h"
#include "common/error.h"
#include "common/file.h"
#include "common/random.h"
#include "common/spki.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr size_t kPemBytesMax = 64 * 1024;
constexpr size_t kSealedBytesMax = 4096;

struct BioFree {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, BioFree>;
struct KeyContextFree {
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
using KeyContext = std::unique_ptr<EVP_PKEY_CTX, KeyContextFree>;
struct DigestContextFree {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using DigestContext = std::unique_ptr<EVP_MD_CTX, DigestContextFree>;

Bio Reader(ByteView bytes) { return Bio(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size()))); }

std::string Drain(const Bio& bio) {
  char* data = nullptr;
  long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

Bytes KeySpki(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  int size = i2d_PUBKEY(key, &der);
  if (size <= 0) return {};
  Bytes out(der, der + size);
  OPENSSL_free(der);
  return out;
}

std::shared_ptr<EVP_PKEY> NewP256() { return {EVP_EC_gen("P-256"), &EVP_PKEY_free}; }

std::vector<std::string> AlternativeNames(X509* certificate, int type) {
  std::vector<std::string> out;
  auto* names =
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != type) continue;
    const ASN1_STRING* text = type == GEN_URI ? name->d.uniformResourceIdentifier : name->d.dNSName;
    out.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                     static_cast<size_t>(ASN1_STRING_length(text)));
  }
  GENERAL_NAMES_free(names);
  return out;
}

absl::StatusOr<SecretBytes> SharedSecret(EVP_PKEY* own, EVP_PKEY* peer) {
  KeyContext context(EVP_PKEY_CTX_new(own, nullptr));
  size_t size = 0;
  if (context == nullptr || EVP_PKEY_derive_init(context.get()) != 1 ||
      EVP_PKEY_derive_set_peer(context.get(), peer) != 1 ||
      EVP_PKEY_derive(context.get(), nullptr, &size) != 1) {
    return Error(v1::REASON_INVALID_ARGUMENT, "the keys do not fit for key agreement");
  }
  SecretBytes secret(size);
  if (EVP_PKEY_derive(context.get(), secret.ExposeForWriting().data(), &size) != 1 || size != secret.size()) {
    return Error(v1::REASON_INTERNAL, "key agreement failed");
  }
  return secret;
}

// The AEAD key of one sealed text; both public keys are bound in, so that neither can be exchanged.
SecretBytes SealingKey(const SecretBytes& shared, std::string_view purpose, ByteView sender,
                       ByteView recipient) {
  Bytes info = ToBytes("qhsm-encrypt-to:");
  info.insert(info.end(), purpose.begin(), purpose.end());
  info.push_back(0);
  info.insert(info.end(), sender.begin(), sender.end());
  info.insert(info.end(), recipient.begin(), recipient.end());
  return HkdfSha256(shared, info, kAeadKeyBytes);
}

// The key is fresh for each text (ephemeral sender), so the nonce may be constant.
const Bytes& ZeroNonce() {
  static const auto* nonce = new Bytes(kAeadNonceBytes);
  return *nonce;
}

}  // namespace

absl::StatusOr<Certificate> Certificate::FromPem(std::string_view pem) {
  if (pem.size() > kPemBytesMax) return Error(v1::REASON_LIMIT_EXCEEDED, "certificate is too large");
  Bio bio = Reader(View(pem));
  std::shared_ptr<X509> handle(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), &X509_free);
  if (handle == nullptr) return Error(v1::REASON_INVALID_ARGUMENT, "not a PEM certificate");
  return Certificate(std::move(handle));
}

absl::StatusOr<Certificate> Certificate::FromDer(ByteView der) {
  const unsigned char* at = der.data();
  std::shared_ptr<X509> handle(d2i_X509(nullptr, &at, static_cast<long>(der.size())), &X509_free);
  if (handle == nullptr || at != der.data() + der.size()) {
    return Error(v1::REASON_INVALID_ARGUMENT, "not a DER certificate");
  }
  return Certificate(std::move(handle));
}

absl::StatusOr<Certificate> Certificate::FromFile(const std::string& path) {
  HSM_ASSIGN_OR_RETURN(std::string pem, ReadTextFile(path, kPemBytesMax));
  auto certificate = FromPem(pem);
  if (!certificate.ok()) return Error(v1::REASON_INVALID_ARGUMENT, path + " is not a PEM certificate");
  return certificate;
}

Bytes FingerprintOfPem(std::string_view pem) {
  if (pem.size() > kPemBytesMax) return {};
  Bio bio = Reader(View(pem));
  char *name = nullptr, *header = nullptr;
  unsigned char* der = nullptr;
  long size = 0;
  if (PEM_read_bio(bio.get(), &name, &header, &der, &size) != 1) {
    ERR_clear_error();
    return {};
  }
  Bytes out;
  if (std::string_view(name) == PEM_STRING_X509) out = Sha256(ByteView(der, static_cast<size_t>(size)));
  OPENSSL_free(name);
  OPENSSL_free(header);
  OPENSSL_free(der);
  return out;
}

Bytes Certificate::Der() const {
  unsigned char* der = nullptr;
  int size = i2d_X509(handle_.get(), &der);
  if (size <= 0) return {};
  Bytes out(der, der + size);
  OPENSSL_free(der);
  return out;
}

std::string Certificate::Pem() const {
  Bio bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), handle_.get());
  return Drain(bio);
}

Bytes Certificate::Fingerprint() const { return Sha256(Der()); }
Bytes Certificate::Spki() const { return KeySpki(X509_get0_pubkey(handle_.get())); }
std::vector<std::string> Certificate::Uris() const { return AlternativeNames(handle_.get(), GEN_URI); }
std::vector<std::string> Certificate::DnsNames() const { return AlternativeNames(handle_.get(), GEN_DNS); }

std::string Certificate::CommonName() const {
  char text[256] = {};
  X509_NAME_get_text_by_NID(X509_get_subject_name(handle_.get()), NID_commonName, text, sizeof text);
  return text;
}

int64_t Certificate::NotAfter() const {
  std::tm time{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(handle_.get()), &time) != 1) return 0;
  return timegm(&time);
}

bool Certificate::IssuedBy(const Certificate& issuer) const {
  return X509_check_issued(issuer.handle_.get(), handle_.get()) == X509_V_OK &&
         X509_verify(handle_.get(), X509_get0_pubkey(issuer.handle_.get())) == 1;
}

absl::StatusOr<PrivateKey> PrivateKey::FromPem(const SecretBytes& pem) {
  Bio bio = Reader(pem.Expose());
  std::shared_ptr<EVP_PKEY> handle(
      PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, const_cast<char*>("")), &EVP_PKEY_free);
  if (handle == nullptr) return Error(v1::REASON_INVALID_ARGUMENT, "not a PEM private key");
  return PrivateKey(std::move(handle));
}

absl::StatusOr<PrivateKey> PrivateKey::FromFile(const std::string& path) {
  HSM_ASSIGN_OR_RETURN(SecretBytes pem, ReadSecretFile(path, kPemBytesMax));
  auto key = FromPem(pem);
  if (!key.ok()) return Error(v1::REASON_INVALID_ARGUMENT, path + " is not a PEM private key");
  return key;
}

absl::StatusOr<PrivateKey> PrivateKey::MakeP256() {
  std::shared_ptr<EVP_PKEY> handle = NewP256();
  if (handle == nullptr) return Error(v1::REASON_INTERNAL, "cannot make a P-256 key");
  return PrivateKey(std::move(handle));
}

SecretBytes PrivateKey::Pem() const {
  Bio bio(BIO_new(BIO_s_secmem()));
  PEM_write_bio_PKCS8PrivateKey(bio.get(), handle_.get(), nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  long size = BIO_get_mem_data(bio.get(), &data);
  return SecretBytes(Bytes(data, data + size));
}

Bytes PrivateKey::Spki() const { return KeySpki(handle_.get()); }

absl::StatusOr<Bytes> PrivateKey::Sign(ByteView data) const {
  DigestContext context(EVP_MD_CTX_new());
  size_t size = 0;
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, handle_.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, data.data(), data.size()) != 1) {
    return Error(v1::REASON_INTERNAL, "cannot sign with this key");
  }
  Bytes signature(size);
  if (EVP_DigestSign(context.get(), signature.data(), &size, data.data(), data.size()) != 1) {
    return Error(v1::REASON_INTERNAL, "cannot sign with this key");
  }
  signature.resize(size);
  return signature;
}

// A sealed text is: 2 bytes length of the sender's SPKI, that SPKI, AES-256-GCM ciphertext and tag.
absl::StatusOr<SecretBytes> PrivateKey::Decrypt(ByteView sealed, std::string_view purpose) const {
  absl::Status failed =
      Error(v1::REASON_DECRYPTION_FAILED, "the text was not encrypted to this key for this purpose");
  if (sealed.size() < 2 || sealed.size() > kSealedBytesMax) return failed;
  size_t size = static_cast<size_t>(sealed[0]) << 8 | sealed[1];
  if (sealed.size() < 2 + size) return failed;
  ByteView sender = sealed.subspan(2, size);
  std::shared_ptr<EVP_PKEY> peer = PublicKeyFromSpki(sender);
  if (peer == nullptr) return failed;
  auto shared = SharedSecret(handle_.get(), peer.get());
  if (!shared.ok()) return failed;
  Bytes own = Spki();
  auto opened =
      AeadOpen(SealingKey(*shared, purpose, sender, own), ZeroNonce(), sealed.subspan(2 + size), {});
  if (!opened.ok()) return failed;
  return opened;
}

bool VerifySignature(ByteView spki, ByteView data, ByteView signature) {
  std::shared_ptr<EVP_PKEY> key = PublicKeyFromSpki(spki);
  DigestContext context(EVP_MD_CTX_new());
  return key != nullptr && context != nullptr &&
         EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), signature.data(), signature.size(), data.data(), data.size()) == 1;
}

absl::StatusOr<Bytes> EncryptTo(ByteView spki, std::string_view purpose, const SecretBytes& plaintext) {
  std::shared_ptr<EVP_PKEY> recipient = PublicKeyFromSpki(spki);
  std::shared_ptr<EVP_PKEY> ephemeral = NewP256();
  if (recipient == nullptr || ephemeral == nullptr) {
    return Error(v1::REASON_INVALID_ARGUMENT, "not a public key that can be encrypted to");
  }
  HSM_ASSIGN_OR_RETURN(SecretBytes shared, SharedSecret(ephemeral.get(), recipient.get()));
  Bytes sender = KeySpki(ephemeral.get());
  Bytes canonical = KeySpki(recipient.get());
  HSM_ASSIGN_OR_RETURN(Bytes sealed, AeadSeal(SealingKey(shared, purpose, sender, canonical), ZeroNonce(),
                                              plaintext.Expose(), {}));
  Bytes out = {static_cast<uint8_t>(sender.size() >> 8), static_cast<uint8_t>(sender.size())};
  out.insert(out.end(), sender.begin(), sender.end());
  out.insert(out.end(), sealed.begin(), sealed.end());
  if (out.size() > kSealedBytesMax) return Error(v1::REASON_LIMIT_EXCEEDED, "the secret is too long");
  return out;
}

// Friend of both classes: builds them from raw handles.
class CertificateMaker {
 public:
  static absl::StatusOr<IssuedCertificate> Make(const CertificateRequest& request,
                                                const IssuedCertificate* issuer) {
    std::shared_ptr<EVP_PKEY> key = NewP256();
    std::shared_ptr<X509> made(X509_new(), &X509_free);
    if (key == nullptr || made == nullptr) return Error(v1::REASON_INTERNAL, "cannot make a certificate");
    X509* certificate = made.get();
    X509* signer = issuer == nullptr ? certificate : issuer->certificate.handle_.get();
    EVP_PKEY* signing_key = issuer == nullptr ? key.get() : issuer->key.handle_.get();
    if (!SetFields(certificate, key.get(), request) ||
        X509_set_issuer_name(certificate, X509_get_subject_name(signer)) != 1 ||
        !SetExtensions(certificate, signer, request) ||
        X509_sign(certificate, signing_key, EVP_sha256()) == 0) {
      return Error(v1::REASON_INVALID_ARGUMENT, "cannot make a certificate for " + request.common_name);
    }
    return IssuedCertificate{Certificate(std::move(made)), PrivateKey(std::move(key))};
  }

 private:
  static bool SetFields(X509* certificate, EVP_PKEY* key, const CertificateRequest& request) {
    uint8_t serial[16];
    SystemRandom().Fill(serial);
    serial[0] &= 0x7f;
    std::unique_ptr<BIGNUM, decltype(&BN_free)> number(BN_bin2bn(serial, sizeof serial, nullptr), &BN_free);
    X509_NAME* subject = X509_get_subject_name(certificate);
    return number != nullptr && X509_set_version(certificate, X509_VERSION_3) == 1 &&
           BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr &&
           X509_gmtime_adj(X509_getm_notBefore(certificate), -300) != nullptr &&  // clocks differ a little
           X509_gmtime_adj(X509_getm_notAfter(certificate), static_cast<long>(request.days) * 86400) !=
               nullptr &&
           X509_set_pubkey(certificate, key) == 1 &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(request.common_name.data()),
                                      static_cast<int>(request.common_name.size()), -1, 0) == 1;
  }

  static bool SetExtensions(X509* certificate, X509* signer, const CertificateRequest& request) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, signer, certificate, nullptr, nullptr, 0);
    auto add = [&](int id, const std::string& value) {
      X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
      if (extension == nullptr) return false;
      bool added = X509_add_ext(certificate, extension, -1) == 1;
      X509_EXTENSION_free(extension);
      return added;
    };
    bool ok =
        add(NID_basic_constraints, request.authority ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE") &&
        add(NID_key_usage,
            request.authority ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature") &&
        add(NID_subject_key_identifier, "hash") &&
        (signer == certificate || add(NID_authority_key_identifier, "keyid:always"));
    if (!request.authority) ok = ok && add(NID_ext_key_usage, "serverAuth,clientAuth");
    return ok && AddNames(certificate, request);
  }

  static bool AddNames(X509* certificate, const CertificateRequest& request) {
    std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> names(sk_GENERAL_NAME_new_null(),
                                                                        &GENERAL_NAMES_free);
    bool ok = names != nullptr;
    auto add = [&](int type, const std::string& text) {
      GENERAL_NAME* name = a2i_GENERAL_NAME(nullptr, nullptr, nullptr, type, text.c_str(), 0);
      ok = ok && name != nullptr && sk_GENERAL_NAME_push(names.get(), name) > 0;
    };
    for (const std::string& uri : request.uris) add(GEN_URI, uri);
    for (const std::string& dns : request.dns_names) add(GEN_DNS, dns);
    for (const std::string& ip : request.ip_addresses) add(GEN_IPADD, ip);
    if (!ok || sk_GENERAL_NAME_num(names.get()) == 0) return ok;
    return X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, X509V3_ADD_DEFAULT) == 1;
  }
};

absl::StatusOr<IssuedCertificate> IssueCertificate(const CertificateRequest& request,
                                                   const IssuedCertificate* issuer) {
  return CertificateMaker::Make(request, issuer);
}

}  // namespace hsm
