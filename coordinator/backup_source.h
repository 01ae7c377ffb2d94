#pragma once
// Reads a snapshot as the export wants it: in name order, in batches of one call, batches grouped into
// chunks. What was written from an older snapshot is compared here with a newer one after a restart. Not
// thread-safe.
#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hsm/internal/v1/job_state.pb.h"
#include "store/catalogue.h"

namespace hsm {

// One Export call.
struct PlannedBatch {
  std::vector<rpc::KeyRecords> records;  // at most kExportVersionsPerCall versions
  uint32_t versions = 0;
  bool ends_chunk = false;
  std::string last;    // with ends_chunk: name of the chunk's last key
  std::string source;  // with ends_chunk: digest of the chunk's keys, see StoredChunk.source
};

class BackupSource {
 public:
  BackupSource(CatalogueSnapshot& snapshot, DataSet data_set) : snapshot_(snapshot), data_set_(data_set) {}

  // Begins after `name`. `keys_per_batch` limits a batch further; 0 = by versions only.
  void Seek(const std::string& name, size_t keys_per_batch);
  // The next batch; one without records at the end.
  absl::StatusOr<PlannedBatch> Next();

  // How many of `parts` from the front still hold exactly what the snapshot has: no key of their ranges has
  // changed, come or gone. Tombstone parts count as no longer holding: they are cheap.
  absl::StatusOr<uint32_t> StillHold(const std::vector<rpc::StoredChunk>& parts);

 private:
  absl::StatusOr<const CatalogueKey*> Peek();
  void Pop();

  CatalogueSnapshot& snapshot_;
  const DataSet data_set_;
  std::deque<CatalogueKey> page_;
  std::string after_;
  bool exhausted_ = false;
  size_t keys_per_batch_ = 0;
  // Of the chunk being planned.
  std::string digest_text_;
  uint32_t chunk_versions_ = 0;
  size_t chunk_bytes_ = 0;
  int versions_taken_ = 0;  // of the key at the front
};

}  // namespace hsm
