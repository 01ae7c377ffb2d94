// The security domain file, the restore blob and the JWEs inside. What parses opens only with the right keys:
// never with those tried here.
#include "common/check.h"
#include "common/security_domain_file.h"
#include "common/shamir.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {

void SecurityDomain(ByteView input) {
  const std::string_view text = StringView(input);
  if (auto file = SecurityDomainFile::Parse(text); file.ok()) {
    HSM_CHECK(file->quorum() >= kDomainQuorumMin);
    HSM_CHECK(file->Officers().size() >= static_cast<size_t>(file->quorum()));
    HSM_CHECK(!file->Open({}).ok());
  }
  static const auto* exchange =
      new Certificate(IssueCertificate({.common_name = "exchange"}, nullptr)->certificate);
  auto unwrap = [](ByteView) { return absl::StatusOr<SecretBytes>(SecretBytes(kJweKeyBytes)); };
  HSM_CHECK(!OpenRestoreBlob(text, *exchange, unwrap).ok());
  (void)JweOpenWith(text, unwrap);
  (void)JweOpen(text, SecretBytes(kJweKeyBytes), "tag");
  // The input as shares of one length, the first byte says how many.
  if (input.size() < 5) return;
  const size_t count = 2 + input[0] % 4, size = (input.size() - 1) / count;
  std::vector<SecretBytes> shares;
  for (size_t i = 0; i < count; ++i) {
    const ByteView share = input.subspan(1 + i * size, size);
    shares.emplace_back(Bytes(share.begin(), share.end()));
  }
  if (auto secret = JoinShares(shares, 2); secret.ok()) HSM_CHECK(secret->size() == size / 2);
}

}  // namespace hsm::fuzz
