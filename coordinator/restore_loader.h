#pragma once
// Brings keys of a backup into a data set that does not serve yet: partitions open them and seal them anew,
// all partitions take the records as staged and prove every version, and only then the catalogue gets them,
// the head of each key last. Repeatable: the same keys again change nothing. Not thread-safe.
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/core.h"
#include "hsm/internal/v1/backup_file.pb.h"

namespace hsm {

struct RestoreSubject;  // one version to prove, with the answers

class RestoreLoader {
 public:
  RestoreLoader(Core& core, std::string backup_id, DataSet into)
      : core_(core), backup_id_(std::move(backup_id)), into_(into) {}

  struct Item {
    rpc::BackupKey key;
    uint32_t incarnation = 0;  // 0 = as in the backup
    // A later head of the same key: what it does not allow is not given back. Empty = none.
    rpc::SealedRecord narrowed_by;
  };
  // All of `items`, or an error after which the same call is to be made again. NO_QUORUM when fewer than W
  // partitions have taken and proved them.
  absl::Status Load(const std::vector<Item>& items);

 private:
  // `work(partition, item)` for each of `items` numbers, on `lanes` threads per partition of `partitions`;
  // each item on one of them, tried elsewhere when a partition fails.
  absl::Status ShareOut(const std::vector<size_t>& partitions, uint32_t lanes, size_t items,
                        const std::function<absl::Status(size_t partition, size_t item)>& work);
  absl::StatusOr<std::vector<rpc::KeyRecords>> Import(const std::vector<Item>& items);
  // Which partitions hold and have proved all of `keys`.
  absl::StatusOr<std::vector<size_t>> Stage(const std::vector<rpc::KeyRecords>& keys);
  // `partition`'s answers for all of `subjects`, judged, go to their places; what fails leaves no answer
  // there.
  void ProveAll(size_t partition, std::vector<RestoreSubject>& subjects);
  absl::Status PutAll(size_t partition, const std::vector<rpc::KeyRecords>& keys);
  absl::Status Write(const std::vector<rpc::KeyRecords>& keys, const std::vector<size_t>& proved);
  rpc::Fence NewFence() const;  // of the data set being loaded

  Core& core_;
  const std::string backup_id_;
  const DataSet into_;
};

}  // namespace hsm
