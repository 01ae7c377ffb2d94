#pragma once
// The security domain file: what a quorum of officers needs to bring an HSM's domain keys back, in the format
// that Azure's tools read and write (docs/security_domain.md has its grammar), and the restore blob that is
// made from it for the HSM to be recovered.
//
// A random master of 32 bytes is shared out among the officers (common/shamir), each share encrypted to one
// officer's certificate; every item is encrypted under a key derived from master and tag. Items are opaque
// here. Pure functions; the officers' keys stay where they are read.
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/jwe.h"
#include "common/random.h"
#include "common/rsa_oaep.h"
#include "common/secret.h"
#include "common/x509.h"

namespace hsm {

inline constexpr int kOfficersMin = 3, kOfficersMax = 10, kDomainQuorumMin = 2;
inline constexpr int kOfficerRsaBitsMin = 2048, kOfficerRsaBitsMax = 8192;
inline constexpr size_t kDomainItemsMax = 64;
inline constexpr size_t kDomainFileBytesMax = 1024 * 1024;

struct DomainItem {
  std::string tag;    // 1 to 128 printable characters, unique in a file
  SecretBytes value;  // at most 32 KiB
};

// An officer who opens a file: the key, and the certificate by whose thumbprint the file knows it.
struct OfficerKey {
  Certificate certificate;
  RsaPrivateKey key;
};

// INVALID_ARGUMENT: not 3 to 10 officers, a quorum that is not 2 to their number, one certificate or key
// twice, a certificate without an RSA key of 2,048 to 8,192 bits, no items, too many or large ones, a tag
// twice.
absl::StatusOr<std::string> MakeSecurityDomainFile(std::span<const DomainItem> items,
                                                   std::span<const Certificate> officers, int quorum,
                                                   Random& random);

class SecurityDomainFile {
 public:
  // INVALID_ARGUMENT names what is wrong. Members that are not ours are refused: what is not understood is
  // not kept.
  static absl::StatusOr<SecurityDomainFile> Parse(std::string_view text);

  int quorum() const { return quorum_; }
  // SHA-256 of each officer's certificate, as hex, in the file's order.
  std::vector<std::string> Officers() const;

  // With the keys of at least quorum() different officers. INVALID_ARGUMENT: too few, one twice, one who is
  // no officer of this file, a key that does not fit its certificate; DECRYPTION_FAILED: a share or item does
  // not open.
  absl::StatusOr<std::vector<DomainItem>> Open(std::span<const OfficerKey> officers) const;

 private:
  struct Share {
    Bytes thumbprint;
    std::string jwe;
  };
  struct SealedItem {
    std::string tag, jwe;
  };
  friend absl::StatusOr<std::vector<DomainItem>> OpenRestoreBlob(std::string_view, const Certificate&,
                                                                 const JweUnwrap&);
  static absl::StatusOr<std::vector<SealedItem>> ParseItems(const class Json& document);
  static absl::StatusOr<std::vector<DomainItem>> OpenItems(const std::vector<SealedItem>& items,
                                                           const SecretBytes& master);

  int quorum_ = 0;
  std::vector<Share> shares_;
  std::vector<SealedItem> items_;
};

// The same items for an HSM whose exchange key is certified by `exchange`. INVALID_ARGUMENT as above.
absl::StatusOr<std::string> MakeRestoreBlob(std::span<const DomainItem> items, const Certificate& exchange,
                                            Random& random);
// `unwrap` uses the exchange key inside the token. INVALID_ARGUMENT: malformed, or made for another exchange
// key.
absl::StatusOr<std::vector<DomainItem>> OpenRestoreBlob(std::string_view text, const Certificate& exchange,
                                                        const JweUnwrap& unwrap);

}  // namespace hsm
