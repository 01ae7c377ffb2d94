#pragma once
// Makes keys, versions and new heads. A generated key is a session object that is tried, wrapped, sealed and
// thrown away: what counts is the record. Nothing is stored here. Thread-safe.
#include "absl/status/statusor.h"
#include "hsm/internal/v1/partition.pb.h"
#include "node/core.h"

namespace hsm {

class Generator {
 public:
  explicit Generator(NodeCore& core) : core_(core) {}
  absl::StatusOr<rpc::GenerateResponse> Generate(const rpc::GenerateRequest& request);
  // From this node's own newest head: revision + 1, immutable fields kept, purge protection only rises.
  absl::StatusOr<rpc::TransitionResponse> Transition(const rpc::TransitionRequest& request);

 private:
  absl::StatusOr<KeyHead> NewHead(const rpc::NewKey& key, DataSet data_set) const;
  absl::StatusOr<KeyHead> HeldHead(DataSet data_set, const std::string& uid, Revision revision);
  absl::Status CheckTombstone(const KeyHead& head);
  absl::StatusOr<VersionRecord> MakeVersion(const KeyHead& head, int64_t now);
  absl::Status PairwiseTest(const KeySpec& spec, const GeneratedKey& made) const;

  NodeCore& core_;
};

}  // namespace hsm
