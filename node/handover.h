#pragma once
// The trust rules of a KEK hand-over (DESIGN 9), without the token: who may join, what is signed, and the
// small files that carry a request over the restart of the sponsor. A sponsor believes only certificates
// pinned in its own configuration.
#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/x509.h"
#include "hsm/internal/v1/partition.pb.h"

namespace hsm {

using Pins = std::map<std::string, std::string>;  // partition name -> SHA-256 of its certificate in hex

inline constexpr std::string_view kSoPinPurpose =
    "qhsm so pin";  // of common/x509 EncryptTo, for sealed_so_pin

absl::StatusOr<internal::v1::JoinKey> SignJoinKey(internal::v1::JoinKey key, const std::string& hsm_id,
                                                  const Certificate& certificate,
                                                  const PrivateKey& private_key);
// PERMISSION_DENIED unless the key is signed by the certificate pinned for the node it names.
absl::Status CheckJoinKey(const internal::v1::JoinKey& key, const std::string& hsm_id, const Pins& pins);

absl::StatusOr<internal::v1::Handover> SignHandover(internal::v1::Handover handover,
                                                    const Certificate& certificate,
                                                    const PrivateKey& private_key);
// PERMISSION_DENIED unless it is for `node`, and signed by a pinned certificate.
absl::Status CheckHandover(const internal::v1::Handover& handover, const std::string& node, const Pins& pins);

// Files of a sponsor: DIRECTORY/request (one at most) and DIRECTORY/result. An SO PIN is never in them.
class HandoverFiles {
 public:
  explicit HandoverFiles(std::string directory) : directory_(std::move(directory)) {}
  absl::Status PutRequest(const std::string& id, const internal::v1::JoinKey& key);
  struct Request {
    std::string id;
    internal::v1::JoinKey key;
  };
  absl::StatusOr<std::optional<Request>> TakeRequest();  // and removes it: tried once
  absl::Status PutResult(const std::string& id, const absl::StatusOr<internal::v1::Handover>& result);
  absl::StatusOr<internal::v1::TakeHandoverResponse> Result(
      const std::string& id);  // pending until there is one

 private:
  std::string Path(std::string_view name) const;
  std::string directory_;
};

}  // namespace hsm
