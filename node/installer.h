#pragma once
// Takes sealed records in: STAGED with a proof, ACTIVE from the catalogue, revoked by control, out again.
// Whatever comes, its MAC is checked first, a tombstoned incarnation is refused, and immutable fields stay
// what they are. Thread-safe.
#include "absl/status/statusor.h"
#include "hsm/internal/v1/partition.pb.h"
#include "node/core.h"
#include "node/prover.h"

namespace hsm {

class Installer {
 public:
  Installer(NodeCore& core, NodeProver& prover) : core_(core), prover_(prover) {}

  absl::StatusOr<rpc::InstallResponse> Install(const rpc::InstallRequest& request);
  absl::StatusOr<rpc::ActivateResponse> Activate(const rpc::ActivateRequest& request);
  absl::StatusOr<rpc::DiscardResponse> Discard(const rpc::DiscardRequest& request);
  absl::StatusOr<rpc::ProveResponse> Prove(const rpc::ProveRequest& request);
  absl::StatusOr<rpc::PutRecordsResponse> PutRecords(const rpc::PutRecordsRequest& request);
  absl::StatusOr<rpc::QuarantineResponse> Quarantine(const rpc::QuarantineRequest& request);
  // A committed head that revokes. True when it is durable here, calls in flight on the key have ended, and
  // no object of the key that allows more is left in the token.
  absl::StatusOr<bool> TakeHead(const rpc::ControlRequest& request);

 private:
  absl::Status CheckAgainstHeld(const KeyHead& head, const IndexEntryPtr& held) const;
  absl::Status CheckVersion(const KeyHead& head, const VersionRecord& version) const;
  // A version that has answered its challenge, and what is to be kept of that.
  struct Proven {
    KeyUid uid;
    KeyVersion version;
    CachedKeyPtr key;
    bool news = false;  // it was not proved before
  };
  // One item that has been looked at and proved, before its rows are durable.
  struct Staged {
    IndexEntry entry;
    std::vector<std::pair<KeyVersion, CachedKeyPtr>> keys;
  };
  absl::StatusOr<rpc::InstallAnswer> StageOne(const std::shared_ptr<KeyIndex>& index,
                                              const rpc::InstallItem& item, BlobBatch& batch,
                                              Staged& staged) const;
  absl::StatusOr<rpc::ProveAnswer> ProveOne(const std::shared_ptr<KeyIndex>& index,
                                            const rpc::ProveItem& subject, BlobBatch& batch,
                                            std::vector<Proven>& proven) const;
  bool EndUses(const std::shared_ptr<KeyIndex>& index, const KeyUid& uid);

  NodeCore& core_;
  NodeProver& prover_;
};

}  // namespace hsm
