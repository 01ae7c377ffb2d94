#pragma once
// Backup and restore, as far as they happen in a token: keys move between the replication KEK and the backup
// KEK without ever being usable for anything else on the way (KeyUse::kTransit). Nothing is stored here.
// Thread-safe.
#include "absl/status/statusor.h"
#include "hsm/internal/v1/partition.pb.h"
#include "node/core.h"

namespace hsm {

class Exporter {
 public:
  explicit Exporter(NodeCore& core) : core_(core) {}
  absl::StatusOr<rpc::ExportResponse> Export(const rpc::ExportRequest& request);
  absl::StatusOr<rpc::ImportResponse> Import(const rpc::ImportRequest& request);
  absl::StatusOr<rpc::DeriveAeadResponse> DeriveAead(const rpc::DeriveAeadRequest& request);
  absl::StatusOr<rpc::SignManifestResponse> SignManifest(const rpc::SignManifestRequest& request);
  absl::StatusOr<rpc::CheckManifestResponse> CheckManifest(const rpc::CheckManifestRequest& request);

 private:
  absl::StatusOr<Bytes> Rewrap(Kek from, Kek to, const KeySpec& spec, ByteView wrapped);
  absl::Status CheckReceipts(const rpc::SignManifestRequest& request);

  NodeCore& core_;
};

// SHA-256 over, for each key in order, its length (u32, big-endian) and its serialized bytes: what a receipt
// covers.
Bytes ExportBatchHash(const google::protobuf::RepeatedPtrField<internal::v1::BackupKey>& keys);

}  // namespace hsm
