#pragma once
// Making, handing over and receiving a domain's keys inside a token: DESIGN 4 and 9, and the flows of
// reference "KEK hand-over" steps 1 to 5. Runs in the helper process only: it logs in as the SO, which ends
// every other login of the process. A failure anywhere leaves nothing persistent behind.
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/ids.h"
#include "common/secret.h"
#include "hsm/internal/v1/helper.pb.h"
#include "hsm/internal/v1/sealed_record.pb.h"
#include "node/token_config.h"

namespace hsm {

// Initialises the token of `config` (C_InitToken, C_InitPIN) if no token with its label exists; PINs from the
// files. Returns whether it did. A token that exists is left alone.
absl::StatusOr<bool> ProvisionToken(const TokenConfig& config);

class DomainKeys {
 public:
  // Loads the module and finds the token; nobody is logged in yet. `so_pin` replaces so_pin_file if not
  // empty.
  static absl::StatusOr<std::unique_ptr<DomainKeys>> Open(const TokenConfig& config, SecretBytes so_pin = {});
  ~DomainKeys();

  // New KEKs as the token's domain, and the bundle under them. Existing KEKs of the token are destroyed.
  absl::StatusOr<internal::v1::DomainBundle> Make(const HsmId& hsm, uint32_t generation);

  // Joiner, first half: an RSA-3072 session key pair that can only unwrap. The SO stays logged in.
  absl::StatusOr<internal::v1::HelperJoinKey> BeginJoin(const HsmId& hsm, uint32_t generation);
  // Second half: KEKs in, checked against the bundle's fingerprints (OTHER_DOMAIN), made durable.
  absl::Status CompleteJoin(const internal::v1::HelperKeks& keks, const internal::v1::DomainBundle& bundle);

  // Sponsor: both KEKs under the joiner's key.
  absl::StatusOr<internal::v1::HelperKeks> Sponsor(ByteView spki, std::string_view oaep_hash);

  std::string TokenSerial() const;
  std::string DomainTag() const;  // after success

 private:
  struct Impl;
  explicit DomainKeys(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm
