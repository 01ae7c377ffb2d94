#pragma once
// Domain keys: makes them on the first partition of a new HSM, and brings them to partitions that have none
// by a hand-over from another one. DESIGN section 9. One partition at a time; the loop that calls it is the
// coordinator's.
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/core.h"
#include "hsm/v1/hsm.pb.h"

namespace hsm {

class Healer {
 public:
  explicit Healer(Core& core) : core_(core) {}

  // One look at the cluster; blocks while it makes domain keys or heals a partition.
  void Tick();
  // An operator approves the hand-over to a partition (policy "approved"). CONFLICT unless its join key has
  // this fingerprint.
  absl::Status Approve(const v1::ApprovePartitionRequest& request);

 private:
  struct Joiner {
    rpc::JoinKey key;
    std::string fingerprint;              // hex SHA-256 of the join key's public part
    uint64_t incarnation = 0;             // of the process that made it
    std::optional<std::string> approved;  // the sealed SO PIN; empty text = none needed
    std::optional<size_t> sponsor;        // who can open it; none = whoever is least loaded
  };
  absl::Status Bootstrap();
  absl::Status Provision();
  absl::StatusOr<rpc::DomainBundle> FindOrMakeDomain(const rpc::StoredHsm& hsm);
  std::optional<absl::StatusOr<rpc::MakeDomainResponse>> BeginJoins(
      std::vector<size_t> joiners, const HsmId& hsm, std::optional<size_t> maker = std::nullopt);
  std::optional<Joiner> Known(size_t index);
  absl::Status Heal(size_t index);
  absl::StatusOr<size_t> ChooseSponsor(size_t joiner, std::optional<size_t> wanted) const;
  absl::Status HandOver(size_t joiner, size_t sponsor, const Joiner& details);
  absl::StatusOr<rpc::Handover> AwaitHandover(size_t sponsor, const std::string& id);
  void Pause(absl::Duration time);

  Core& core_;
  std::string said_;  // the loop's thread only: why the HSM is not active, so that it is logged once
  std::map<size_t, std::string> problems_;  // the loop's thread only: why a join key was not made
  Mutex mutex_;
  std::map<size_t, Joiner> joiners_ HSM_GUARDED_BY(mutex_);
};

}  // namespace hsm
