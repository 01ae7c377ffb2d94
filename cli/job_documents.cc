#include <cctype>

#include "cli/documents.h"
#include "cli/output.h"
#include "common/error.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

template <typename Value>
Json Present(bool has, Value value) {
  return has ? Json(value) : Json();
}
Json TextOrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

Json LiveJson(const google::protobuf::RepeatedPtrField<v1::PartitionThroughput>& partitions) {
  Json live = Json::Array();
  for (const auto& partition : partitions) {
    live.Add(Json::Object({{"name", partition.name()},
                           {"ops_per_second", partition.ops_per_second()},
                           {"busy", partition.busy()}}));
  }
  return live;
}

// The total is known once the catalogue is pinned: until then nobody knows how many keys there are.
bool CountsKnown(const v1::Job& job) { return job.total() != 0 || job.status() == v1::JOB_STATUS_SUCCEEDED; }

std::string ForecastText(const v1::ThroughputForecast& forecast) {
  if (!forecast.has_ratio() && !forecast.has_seconds()) return "-";
  return fmt::format("throughput {} of baseline for {}, {} partition(s) busy",
                     RatioText(forecast.has_ratio(), forecast.ratio()),
                     SecondsText(forecast.has_seconds(), forecast.seconds()),
                     forecast.has_busy_partitions() ? fmt::format("{}", forecast.busy_partitions()) : "-");
}

std::string MeasuredText(const v1::ThroughputMeasured& measured) {
  if (!measured.has_ratio()) return "-";
  return fmt::format("throughput {} of baseline for {} ({:.0f} -> {:.0f} ops/s, by {}, confidence {})",
                     RatioText(measured.has_ratio(), measured.ratio()),
                     SecondsText(measured.has_seconds(), measured.seconds()), measured.baseline_ops(),
                     measured.during_ops(), measured.source(), measured.confidence());
}

}  // namespace

Json ForecastJson(const v1::ThroughputForecast& forecast) {
  return Json::Object(
      {{"ratio", Present(forecast.has_ratio(), forecast.ratio())},
       {"seconds", Present(forecast.has_seconds(), forecast.seconds())},
       {"busy_partitions", Present(forecast.has_busy_partitions(), forecast.busy_partitions())}});
}

Json MeasuredJson(const v1::ThroughputMeasured& measured) {
  return Json::Object({{"ratio", Present(measured.has_ratio(), measured.ratio())},
                       {"seconds", Present(measured.has_seconds(), measured.seconds())},
                       {"baseline_ops", Present(measured.has_baseline_ops(), measured.baseline_ops())},
                       {"during_ops", Present(measured.has_during_ops(), measured.during_ops())},
                       {"source", TextOrNull(measured.source())},
                       {"window_seconds", Present(measured.has_window_seconds(), measured.window_seconds())},
                       {"confidence", TextOrNull(measured.confidence())}});
}

Json PlanJson(const v1::BackupPlan& plan) {
  return Json::Object({{"keys", plan.keys()},
                       {"versions", plan.versions()},
                       {"forecast", ForecastJson(plan.forecast())},
                       {"partitions", LiveJson(plan.partitions())},
                       {"profile", TextOrNull(plan.profile())},
                       {"backend", TextOrNull(plan.backend())}});
}

std::string PlanTable(const v1::BackupPlan& plan) {
  std::string out = Fields({{"keys", fmt::format("{} ({} versions)", plan.keys(), plan.versions())},
                            {"forecast", ForecastText(plan.forecast())},
                            {"backend", plan.backend()},
                            {"profile", plan.profile()}});
  std::vector<std::vector<std::string>> rows = {{"PARTITION", "OPS/S NOW"}};
  for (const auto& p : plan.partitions())
    rows.push_back({p.name(), fmt::format("{:.0f}", p.ops_per_second())});
  return out + (rows.size() > 1 ? Columns(rows) : "");
}

Json BackupSummaryJson(const v1::BackupSummary& backup) {
  return Json::Object({{"folder", backup.folder()},
                       {"complete", backup.complete()},
                       {"message", TextOrNull(backup.message())},
                       {"keys", Present(backup.complete(), backup.keys())},
                       {"versions", Present(backup.complete(), backup.versions())},
                       {"bytes", Present(backup.complete(), backup.bytes())},
                       {"hsm_name", TextOrNull(backup.hsm_name())},
                       {"created", Present(backup.created() != 0, backup.created())}});
}

std::string JobStatusText(v1::JobStatus status) {
  std::string text = v1::JobStatus_Name(status).substr(sizeof("JOB_STATUS_") - 1);
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

Json JobJson(const v1::Job& job) {
  Json out = Json::Object({{"job_id", job.id()},
                           {"kind", job.kind()},
                           {"status", JobStatusText(job.status())},
                           {"step", TextOrNull(job.step())},
                           {"message", TextOrNull(job.message())},
                           {"started", Present(job.started() != 0, job.started())},
                           {"ended", Present(job.ended() != 0, job.ended())},
                           {"done", job.done()},
                           {"total", Present(CountsKnown(job), job.total())}});
  if (job.has_error() && job.error().reason() != v1::REASON_UNSPECIFIED) {
    out.Add("error", Json::Object({{"code", ReasonName(job.error().reason())},
                                   {"message", job.error().message()},
                                   {"hint", ReasonHint(job.error().reason())}}));
  }
  if (job.kind() == "backup") {
    const v1::BackupResult& backup = job.backup();
    Json skipped = Json::Array();
    for (const std::string& entry : backup.skipped()) skipped.Add(entry);
    const bool known = CountsKnown(job);
    out.Add("folder", TextOrNull(backup.folder()));
    out.Add("keys", Present(known, backup.keys()));
    out.Add("versions", Present(known, backup.versions()));
    out.Add("bytes", Present(known, backup.bytes()));
    out.Add("snapshot_revision", Present(known, backup.snapshot_revision()));
    out.Add("forecast", ForecastJson(backup.forecast()));
    out.Add("live", LiveJson(backup.live()));
    out.Add("measured", MeasuredJson(backup.measured()));
    out.Add("skipped", skipped);
    out.Add("profile", TextOrNull(backup.profile()));
    out.Add("backend", TextOrNull(backup.backend()));
  }
  if (job.kind() == "restore") {
    const v1::RestoreResult& restore = job.restore();
    bool known = job.status() == v1::JOB_STATUS_SUCCEEDED;
    Json back = Json::Array();
    for (const std::string& entry : restore.new_incarnations()) back.Add(entry);
    out.Add("folder", TextOrNull(restore.folder()));
    out.Add("keys_restored", Present(known, restore.keys_restored()));
    out.Add("versions_restored", Present(known, restore.versions_restored()));
    out.Add("data_set", Present(known, restore.data_set()));
    out.Add("new_incarnations", back);
  }
  return out;
}

std::string JobTable(const v1::Job& job) {
  std::vector<std::pair<std::string, std::string>> fields = {
      {"job", job.id()},
      {"kind", job.kind()},
      {"status", JobStatusText(job.status())},
      {"step", job.step().empty() ? "-" : job.step()},
      {"progress", CountsKnown(job) ? fmt::format("{} of {}", job.done(), job.total()) : "-"},
      {"started", TimeText(job.started())},
      {"ended", TimeText(job.ended())}};
  if (!job.message().empty()) fields.emplace_back("message", job.message());
  if (job.has_error() && job.error().reason() != v1::REASON_UNSPECIFIED) {
    fields.emplace_back("error",
                        fmt::format("{}: {}", ReasonName(job.error().reason()), job.error().message()));
  }
  if (job.kind() == "backup" && job.has_backup()) {
    const v1::BackupResult& backup = job.backup();
    fields.emplace_back("folder", backup.folder().empty() ? "-" : backup.folder());
    fields.emplace_back("keys", CountsKnown(job) ? fmt::format("{} ({} versions, {} bytes)", backup.keys(),
                                                               backup.versions(), backup.bytes())
                                                 : "-");
    fields.emplace_back("forecast", ForecastText(backup.forecast()));
    for (const auto& p : backup.live()) {
      fields.emplace_back("live " + p.name(),
                          fmt::format("{:.0f} ops/s{}", p.ops_per_second(), p.busy() ? ", busy" : ""));
    }
    fields.emplace_back("measured", MeasuredText(backup.measured()));
    for (const std::string& entry : backup.skipped()) fields.emplace_back("skipped", entry);
    fields.emplace_back(
        "figures from",
        backup.backend().empty() ? "-" : fmt::format("{}, profile {}", backup.backend(), backup.profile()));
  }
  if (job.kind() == "restore" && job.has_restore()) {
    const v1::RestoreResult& restore = job.restore();
    fields.emplace_back("folder", restore.folder());
    const bool done = job.status() == v1::JOB_STATUS_SUCCEEDED;
    fields.emplace_back(
        "keys restored",
        done ? fmt::format("{} ({} versions)", restore.keys_restored(), restore.versions_restored()) : "-");
    for (const std::string& entry : restore.new_incarnations()) fields.emplace_back("came back", entry);
  }
  return Fields(fields);
}

}  // namespace hsm::cli
