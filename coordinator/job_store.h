#pragma once
// The rows of durable jobs. One row, /active-job, names the backup or restore that runs: a job exists from
// the commit that writes both, and the commit that ends it frees the place. Thread-safe.
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/core.h"
#include "hsm/internal/v1/job_state.pb.h"

namespace hsm {

namespace store_key {
std::string ActiveJob();
std::string JobPartPrefix(const JobId& job);
std::string JobPart(const JobId& job, uint32_t part);
}  // namespace store_key

struct JobRow {
  JobId id;
  rpc::StoredJob stored;
  StoreRevision revision = 0;  // of the row as we know it; the guard of the next Save
  StoreRevision created = 0;   // the store's revision at its creation: the order of jobs

  v1::Job& job() { return *stored.mutable_job(); }
  const v1::Job& job() const { return stored.job(); }
  bool Ended() const { return stored.job().ended() != 0; }
};

class JobStore {
 public:
  explicit JobStore(Core& core) : core_(core) {}

  // Creates the job, or gives the id of the one that the same caller made with the same op id and request.
  // CONFLICT while another job is active; OP_ID_CONFLICT for the op id with another request. `request` must
  // not hold the op id. `row.stored` has kind, request and state; the rest is filled in.
  absl::StatusOr<JobId> Create(const Caller& caller, const std::string& op_id, std::string_view operation,
                               JobRow row);

  absl::StatusOr<std::optional<JobRow>> Active();
  absl::StatusOr<std::optional<JobRow>> Read(const JobId& id);
  absl::StatusOr<std::vector<JobRow>> List(const std::string& after_id, size_t limit, bool* more);  // by id
  absl::StatusOr<std::vector<JobRow>> NewestFirst();                                                // all

  // Bookkeeping: cursor, figures. FENCED or CONFLICT if somebody else changed the row: then stop working on
  // it.
  absl::Status Save(JobRow& row);
  absl::Status SaveWithPart(JobRow& row, uint32_t part, const rpc::StoredChunk& chunk);
  absl::StatusOr<std::vector<rpc::StoredChunk>> Parts(const JobId& id, uint32_t count);
  // The end: status, time, error; frees the place. Audited. Parts are erased first.
  absl::Status Finish(JobRow& row, const absl::Status& outcome);

  // Deletes every row under `prefix`, a page at a time.
  absl::Status Erase(const std::string& prefix);

 private:
  absl::Status Write(JobRow& row, Change change);

  Core& core_;
};

}  // namespace hsm
