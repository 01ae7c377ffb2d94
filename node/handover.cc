#include "node/handover.h"

#include "common/error.h"
#include "common/file.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr size_t kFileBytesMax = 256 * 1024;

Bytes Fields(std::initializer_list<std::string_view> fields) {
  Bytes out;
  for (std::string_view field : fields) {
    for (int shift = 24; shift >= 0; shift -= 8)
      out.push_back(static_cast<uint8_t>(field.size() >> shift & 255));
    out.insert(out.end(), field.begin(), field.end());
  }
  return out;
}

Bytes JoinBytes(const internal::v1::JoinKey& key, const std::string& hsm_id) {
  return Fields({"QHJ1", "join key", hsm_id, key.node(), key.spki(), key.oaep_hash()});
}

Bytes HandoverBytes(const internal::v1::Handover& handover) {
  const internal::v1::DomainBundle& bundle = handover.bundle();
  std::string generation = std::to_string(bundle.generation());
  return Fields({"QHO1", "hand-over", handover.handover_id(), handover.node(), handover.replication_kek(),
                 handover.backup_kek(), bundle.hsm_id(), generation, bundle.record_mac_key(),
                 bundle.metadata_key(), bundle.manifest_key(), bundle.manifest_spki(),
                 bundle.replication_kek_fingerprint(), bundle.backup_kek_fingerprint()});
}

bool IsNode(const Certificate& certificate, const std::string& node) {
  for (const std::string& uri : certificate.Uris()) {
    if (uri == "urn:qhsm:node:" + node) return true;
  }
  return false;
}

absl::Status Denied(std::string_view why) { return Error(v1::REASON_PERMISSION_DENIED, why); }

}  // namespace

absl::StatusOr<internal::v1::JoinKey> SignJoinKey(internal::v1::JoinKey key, const std::string& hsm_id,
                                                  const Certificate& certificate,
                                                  const PrivateKey& private_key) {
  key.set_certificate(ToString(certificate.Der()));
  HSM_ASSIGN_OR_RETURN(Bytes signature, private_key.Sign(JoinBytes(key, hsm_id)));
  key.set_signature(ToString(signature));
  return key;
}

absl::Status CheckJoinKey(const internal::v1::JoinKey& key, const std::string& hsm_id, const Pins& pins) {
  if (HSM_MUTANT("join-unpinned")) return absl::OkStatus();
  auto pin = pins.find(key.node());
  if (pin == pins.end()) return Denied("no certificate is pinned here for partition '" + key.node() + "'");
  HSM_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromDer(View(key.certificate())));
  if (Hex(certificate.Fingerprint()) != pin->second || !IsNode(certificate, key.node())) {
    return Denied("the joiner's certificate is not the one pinned here for '" + key.node() + "'");
  }
  if (!VerifySignature(certificate.Spki(), JoinBytes(key, hsm_id), View(key.signature()))) {
    return Denied("the join key is not signed by the joiner's certificate");
  }
  return absl::OkStatus();
}

absl::StatusOr<internal::v1::Handover> SignHandover(internal::v1::Handover handover,
                                                    const Certificate& certificate,
                                                    const PrivateKey& private_key) {
  handover.set_sponsor_certificate(ToString(certificate.Der()));
  HSM_ASSIGN_OR_RETURN(Bytes signature, private_key.Sign(HandoverBytes(handover)));
  handover.set_sponsor_signature(ToString(signature));
  return handover;
}

absl::Status CheckHandover(const internal::v1::Handover& handover, const std::string& node,
                           const Pins& pins) {
  if (handover.node() != node) return Denied("the hand-over is for another partition");
  HSM_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromDer(View(handover.sponsor_certificate())));
  std::string fingerprint = Hex(certificate.Fingerprint());
  bool pinned = false;
  for (const auto& [peer, pin] : pins) pinned |= pin == fingerprint && IsNode(certificate, peer);
  if (!pinned) return Denied("the sponsor's certificate is not pinned here");
  if (!VerifySignature(certificate.Spki(), HandoverBytes(handover), View(handover.sponsor_signature()))) {
    return Denied("the hand-over is not signed by the sponsor's certificate");
  }
  return absl::OkStatus();
}

std::string HandoverFiles::Path(std::string_view name) const { return JoinPath(directory_, name); }

absl::Status HandoverFiles::PutRequest(const std::string& id, const internal::v1::JoinKey& key) {
  HSM_RETURN_IF_ERROR(MakeDirectories(directory_));
  internal::v1::SponsorRequest request;
  *request.mutable_join_key() = key;
  HSM_RETURN_IF_ERROR(RemoveFile(Path("result")));
  std::string bytes = id + request.SerializeAsString();
  return WriteFileAtomic(Path("request"), View(bytes));
}

absl::StatusOr<std::optional<HandoverFiles::Request>> HandoverFiles::TakeRequest() {
  if (!FileExists(Path("request"))) return std::nullopt;
  HSM_ASSIGN_OR_RETURN(Bytes bytes, ReadFile(Path("request"), kFileBytesMax));
  HSM_RETURN_IF_ERROR(RemoveFile(Path("request")));
  internal::v1::SponsorRequest request;
  if (bytes.size() < 16 || !request.ParseFromArray(bytes.data() + 16, static_cast<int>(bytes.size() - 16))) {
    return Error(v1::REASON_RECORD_CORRUPT, "the hand-over request on disk is damaged");
  }
  return Request{std::string(StringView(ByteView(bytes).first(16))), request.join_key()};
}

absl::Status HandoverFiles::PutResult(const std::string& id,
                                      const absl::StatusOr<internal::v1::Handover>& result) {
  HSM_RETURN_IF_ERROR(MakeDirectories(directory_));
  internal::v1::TakeHandoverResponse response;
  if (result.ok()) {
    *response.mutable_handover() = *result;
  } else {
    response.set_failure(std::string(result.status().message()));
  }
  std::string bytes = id + response.SerializeAsString();
  return WriteFileAtomic(Path("result"), View(bytes));
}

absl::StatusOr<internal::v1::TakeHandoverResponse> HandoverFiles::Result(const std::string& id) {
  internal::v1::TakeHandoverResponse response;
  if (FileExists(Path("result"))) {
    HSM_ASSIGN_OR_RETURN(Bytes bytes, ReadFile(Path("result"), kFileBytesMax));
    if (bytes.size() < 16 ||
        !response.ParseFromArray(bytes.data() + 16, static_cast<int>(bytes.size() - 16))) {
      return Error(v1::REASON_RECORD_CORRUPT, "the hand-over result on disk is damaged");
    }
    if (StringView(ByteView(bytes).first(16)) == id) return response;
    response.Clear();
  }
  response.set_pending(true);
  return response;
}

}  // namespace hsm
