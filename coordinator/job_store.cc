#include "coordinator/job_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "common/aead.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace hsm {
namespace store_key {

std::string ActiveJob() { return "/active-job"; }
std::string JobPartPrefix(const JobId& job) { return fmt::format("/part/{}/", job.ToHex()); }
std::string JobPart(const JobId& job, uint32_t part) {
  return fmt::format("{}{:010}", JobPartPrefix(job), part);
}

}  // namespace store_key
namespace {

int64_t Seconds(absl::Time time) { return absl::ToUnixSeconds(time); }

absl::StatusOr<JobRow> RowOf(const CatalogueRow<rpc::StoredJob>& row) {
  std::optional<JobId> id = JobId::FromHexText(row.value.job().id());
  if (!id) return Error(v1::REASON_RECORD_CORRUPT, "a job's row has no id");
  return JobRow{*id, row.value, row.mod_revision, row.create_revision};
}

// What an op id stands for: the operation and everything asked for.
std::string RequestHash(std::string_view operation, const std::string& request) {
  std::string text(operation);
  text.push_back('\0');
  text += request;
  return ToString(Sha256(View(text)));
}

}  // namespace

absl::StatusOr<JobId> JobStore::Create(const Caller& caller, const std::string& op_id,
                                       std::string_view operation, JobRow row) {
  const std::string request_hash = RequestHash(operation, row.stored.request());
  const int64_t now_ms = absl::ToUnixMillis(core_.clock.Now());
  std::optional<OpId> op;
  if (!op_id.empty()) {
    op = OpId::From(op_id);
    if (!op) return Error(v1::REASON_INVALID_ARGUMENT, "an op id has 16 bytes");
    const int64_t age_ms = now_ms - OpIdTimeMs(*op);
    if (age_ms > limits::kOpIdAgeMsMax || age_ms < -limits::kOpIdFutureMsMax) {
      return Error(v1::REASON_OP_ID_EXPIRED, "the op id's time is too far from now");
    }
    HSM_ASSIGN_OR_RETURN(auto known,
                         core_.catalogue.Read<rpc::StoredOp>(store_key::Op(*op, caller.principal)));
    if (known) {
      if (known->value.request_hash() != request_hash) {
        return Error(v1::REASON_OP_ID_CONFLICT, "the op id was used for another request");
      }
      v1::StartJobResponse answer;
      answer.ParseFromString(known->value.response());
      std::optional<JobId> id = JobId::FromHexText(answer.job_id());
      if (!id) return Error(v1::REASON_RECORD_CORRUPT, "the op id's record names no job");
      return *id;
    }
  }
  row.id = core_.random.NewId<JobId>();
  row.job().set_id(row.id.ToHex());
  row.job().set_status(v1::JOB_STATUS_IN_PROGRESS);
  row.job().set_started(Seconds(core_.clock.Now()));
  row.stored.set_principal(caller.principal.Raw());
  row.stored.set_op_id(op_id);

  const HsmViewPtr view = core_.state.View();
  Change change;
  change.guards = {StoreGuard::Absent(store_key::ActiveJob()), StoreGuard::Absent(store_key::Job(row.id)),
                   StoreGuard::ModRevisionIs(store_key::Hsm(), view->store_revision)};
  change.ops = {StoreOp::Put(store_key::ActiveJob(), row.id.ToHex()),
                StoreOp::Put(store_key::Job(row.id), row.stored.SerializeAsString())};
  if (op) {
    v1::StartJobResponse answer;
    answer.set_job_id(row.id.ToHex());
    rpc::StoredOp record;
    record.set_request_hash(request_hash);
    record.set_operation(std::string(operation));
    record.set_response(answer.SerializeAsString());
    record.set_time_ms(now_ms);
    change.guards.push_back(StoreGuard::Absent(store_key::Op(*op, caller.principal)));
    change.ops.push_back(StoreOp::Put(store_key::Op(*op, caller.principal), record.SerializeAsString()));
  }
  change.read_on_conflict = {store_key::ActiveJob()};
  change.audit = AuditOf(caller, operation, row.id.ToHex());
  change.audit->request_hash = request_hash;
  const ChangeResult result = core_.committer.Commit(std::move(change));
  if (result.outcome == StoreOutcome::kConflict) {
    return Error(v1::REASON_CONFLICT, result.found.empty() ? "the HSM's state changed meanwhile: try again"
                                                           : "another backup or restore runs: one at a time");
  }
  HSM_RETURN_IF_ERROR(result.status);
  return row.id;
}

absl::StatusOr<std::optional<JobRow>> JobStore::Active() {
  const std::string key = store_key::ActiveJob();
  HSM_ASSIGN_OR_RETURN(std::vector<StoreRecord> found, core_.catalogue.store().Get(std::span(&key, 1)));
  if (found.empty()) return std::optional<JobRow>();
  std::optional<JobId> id = JobId::FromHexText(found[0].value);
  if (!id) return Error(v1::REASON_RECORD_CORRUPT, "the active job's row names no job");
  return Read(*id);
}

absl::StatusOr<std::optional<JobRow>> JobStore::Read(const JobId& id) {
  HSM_ASSIGN_OR_RETURN(auto found, core_.catalogue.Read<rpc::StoredJob>(store_key::Job(id)));
  if (!found) return std::optional<JobRow>();
  HSM_ASSIGN_OR_RETURN(JobRow row, RowOf(*found));
  return std::optional<JobRow>(std::move(row));
}

absl::StatusOr<std::vector<JobRow>> JobStore::List(const std::string& after_id, size_t limit, bool* more) {
  const std::string after = after_id.empty() ? "" : store_key::JobPrefix() + after_id;
  HSM_ASSIGN_OR_RETURN(auto page, core_.catalogue.Scan<rpc::StoredJob>(store_key::JobPrefix(), after, limit));
  std::vector<JobRow> rows;
  for (const auto& found : page.rows) {
    HSM_ASSIGN_OR_RETURN(JobRow row, RowOf(found));
    rows.push_back(std::move(row));
  }
  *more = page.more;
  return rows;
}

absl::StatusOr<std::vector<JobRow>> JobStore::NewestFirst() {
  std::vector<JobRow> all;
  for (bool more = true; more;) {
    HSM_ASSIGN_OR_RETURN(std::vector<JobRow> rows,
                         List(all.empty() ? "" : all.back().job().id(), limits::kStorePageMax, &more));
    if (rows.empty()) break;
    all.insert(all.end(), std::make_move_iterator(rows.begin()), std::make_move_iterator(rows.end()));
  }
  std::sort(all.begin(), all.end(), [](const JobRow& a, const JobRow& b) { return a.created > b.created; });
  return all;
}

absl::Status JobStore::Write(JobRow& row, Change change) {
  change.guards.push_back(StoreGuard::ModRevisionIs(store_key::Job(row.id), row.revision));
  change.ops.push_back(StoreOp::Put(store_key::Job(row.id), row.stored.SerializeAsString()));
  const ChangeResult result = core_.committer.Commit(std::move(change));
  if (result.outcome == StoreOutcome::kConflict) {
    return Error(v1::REASON_FENCED, "somebody else works on the job");
  }
  HSM_RETURN_IF_ERROR(result.status);
  row.revision = result.revision;
  return absl::OkStatus();
}

absl::Status JobStore::Save(JobRow& row) {
  row.stored.set_epoch(core_.state.View()->epoch);
  return Write(row, {});
}

absl::Status JobStore::SaveWithPart(JobRow& row, uint32_t part, const rpc::StoredChunk& chunk) {
  row.stored.set_epoch(core_.state.View()->epoch);
  Change change;
  change.ops.push_back(StoreOp::Put(store_key::JobPart(row.id, part), chunk.SerializeAsString()));
  return Write(row, std::move(change));
}

absl::StatusOr<std::vector<rpc::StoredChunk>> JobStore::Parts(const JobId& id, uint32_t count) {
  std::vector<rpc::StoredChunk> parts;
  std::string after;
  while (parts.size() < count) {
    const size_t limit = std::min<size_t>(count - parts.size(), limits::kStorePageMax);
    HSM_ASSIGN_OR_RETURN(auto page,
                         core_.catalogue.Scan<rpc::StoredChunk>(store_key::JobPartPrefix(id), after, limit));
    for (auto& row : page.rows) {
      if (row.key != store_key::JobPart(id, static_cast<uint32_t>(parts.size()))) {
        return Error(v1::REASON_RECORD_CORRUPT, "a part of the job is missing");
      }
      parts.push_back(std::move(row.value));
    }
    if (page.rows.empty()) return Error(v1::REASON_RECORD_CORRUPT, "parts of the job are missing");
    after = page.rows.back().key;
  }
  return parts;
}

absl::Status JobStore::Finish(JobRow& row, const absl::Status& outcome) {
  HSM_RETURN_IF_ERROR(Erase(store_key::JobPartPrefix(row.id)));
  v1::Job& job = row.job();
  const bool cancelled = ReasonOf(outcome) == v1::REASON_CANCELLED;
  job.set_status(outcome.ok() ? v1::JOB_STATUS_SUCCEEDED
                 : cancelled  ? v1::JOB_STATUS_CANCELLED
                              : v1::JOB_STATUS_FAILED);
  job.set_ended(Seconds(core_.clock.Now()));
  job.set_message(DetailOf(outcome).message());
  if (!outcome.ok()) *job.mutable_error() = DetailOf(outcome);
  Change change;
  change.ops.push_back(StoreOp::Delete(store_key::ActiveJob()));
  change.audit = AuditOfSystem(job.kind() + (outcome.ok() ? " succeeded" : " failed"), row.id.ToHex());
  if (!outcome.ok()) change.audit->outcome = std::string(ReasonName(ReasonOf(outcome)));
  return Write(row, std::move(change));
}

absl::Status JobStore::Erase(const std::string& prefix) {
  for (;;) {
    HSM_ASSIGN_OR_RETURN(StorePage page, core_.catalogue.store().Scan(prefix, "", limits::kStoreOpsMax / 2));
    if (page.records.empty()) return absl::OkStatus();
    Change change;
    for (StoreRecord& record : page.records) change.ops.push_back(StoreOp::Delete(std::move(record.key)));
    HSM_RETURN_IF_ERROR(core_.committer.Commit(std::move(change)).status);
  }
}

}  // namespace hsm
