#include "cli/metrics.h"

#include <cmath>

#include "cli/documents.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

std::string Escaped(std::string_view label) {
  std::string out;
  for (char c : label) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

// One metric with its lines: a name and help once, then a line per set of labels.
class Metric {
 public:
  Metric(std::string& out, std::string_view name, std::string_view type, std::string_view help)
      : out_(out), name_(name) {
    out_ += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }
  void Line(std::initializer_list<std::pair<std::string_view, std::string_view>> labels, double value) {
    std::string text;
    for (const auto& [name, label] : labels) {
      text += fmt::format("{}{}=\"{}\"", text.empty() ? "" : ",", name, Escaped(label));
    }
    out_ += name_ + (text.empty() ? "" : "{" + text + "}");
    out_ += value == std::floor(value) && std::fabs(value) < 1e15 ? fmt::format(" {:.0f}\n", value)
                                                                  : fmt::format(" {:.6g}\n", value);
  }

 private:
  std::string& out_;
  const std::string name_;
};

constexpr v1::PartitionState kStates[] = {v1::PARTITION_STATE_STARTING, v1::PARTITION_STATE_SYNCING,
                                          v1::PARTITION_STATE_READY,    v1::PARTITION_STATE_DRAINED,
                                          v1::PARTITION_STATE_SUSPECT,  v1::PARTITION_STATE_DOWN,
                                          v1::PARTITION_STATE_REFUSED};

void PartitionMetrics(std::string& out, const v1::HsmStatus& status) {
  const std::string& hsm = status.name();
  Metric info(out, "qhsm_partition_info", "gauge", "1; what the partition is made of");
  for (const auto& p : status.partitions())
    info.Line({{"hsm", hsm}, {"partition", p.name()}, {"backend", p.backend()}, {"profile", p.profile()}}, 1);
  Metric state(out, "qhsm_partition_state", "gauge", "1 for the state the partition is in, 0 for the others");
  for (const auto& p : status.partitions()) {
    for (v1::PartitionState each : kStates)
      state.Line({{"hsm", hsm}, {"partition", p.name()}, {"state", PartitionStateText(each)}},
                 p.state() == each);
  }
  auto each = [&](std::string_view name, std::string_view type, std::string_view help, auto value) {
    Metric metric(out, name, type, help);
    for (const auto& p : status.partitions()) {
      if (p.state() != v1::PARTITION_STATE_DOWN)
        metric.Line({{"hsm", hsm}, {"partition", p.name()}}, static_cast<double>(value(p)));
    }
  };
  each("qhsm_partition_key_versions", "gauge", "Key versions the partition holds",
       [](const auto& p) { return p.keys(); });
  each("qhsm_partition_proved_key_versions", "gauge", "Of them, those it has proved",
       [](const auto& p) { return p.proved(); });
  each("qhsm_partition_operations_total", "counter", "Operations with keys since its process started",
       [](const auto& p) { return p.operations_total(); });
  each("qhsm_partition_operations_per_second", "gauge", "Operations with keys, over the last second or more",
       [](const auto& p) { return p.ops_per_second(); });
  each("qhsm_partition_in_flight", "gauge", "Operations sent to it and not answered yet",
       [](const auto& p) { return p.in_flight(); });
  each("qhsm_partition_busy", "gauge", "1 while a backup or restore works on it",
       [](const auto& p) { return !p.busy().empty(); });
}

void JobMetrics(std::string& out, const std::string& hsm, const v1::Job& job) {
  Metric(out, "qhsm_job_done", "gauge", "Key versions the running job has done")
      .Line({{"hsm", hsm}, {"kind", job.kind()}}, static_cast<double>(job.done()));
  Metric(out, "qhsm_job_total", "gauge", "Key versions the running job has to do")
      .Line({{"hsm", hsm}, {"kind", job.kind()}}, static_cast<double>(job.total()));
  if (job.backup().forecast().has_ratio())
    Metric(out, "qhsm_backup_forecast_ratio", "gauge", "Throughput during the backup / before, as forecast")
        .Line({{"hsm", hsm}}, job.backup().forecast().ratio());
  if (job.backup().measured().has_ratio())
    Metric(out, "qhsm_backup_measured_ratio", "gauge", "Throughput during the backup / before, as measured")
        .Line({{"hsm", hsm}}, job.backup().measured().ratio());
}

}  // namespace

std::string PrometheusText(const v1::HsmStatus& status, const std::optional<v1::Job>& job) {
  std::string out;
  const std::string& hsm = status.name();
  auto one = [&](std::string_view name, std::string_view help, double value) {
    Metric(out, name, "gauge", help).Line({{"hsm", hsm}}, value);
  };
  Metric state(out, "qhsm_state", "gauge", "1 for the state the HSM is in, 0 for the others");
  for (const char* each : {"provisioned", "active", "restoring", "stopped"})
    state.Line({{"hsm", hsm}, {"state", each}}, status.state() == each);
  one("qhsm_quorum_have", "READY partitions", status.quorum_have());
  one("qhsm_quorum_need", "READY partitions that changes need", status.quorum_need());
  one("qhsm_keys", "Keys, by name", static_cast<double>(status.keys()));
  one("qhsm_key_versions", "Key versions", static_cast<double>(status.versions()));
  one("qhsm_epoch", "Leadership epoch: grows with each restart or fail-over",
      static_cast<double>(status.epoch()));
  one("qhsm_data_set", "Data set that serves: grows with each restore",
      static_cast<double>(status.data_set()));
  one("qhsm_warnings", "Warnings that qhsm status shows", status.warnings_size());
  one("qhsm_job_active", "1 while a backup or restore runs", job.has_value());
  PartitionMetrics(out, status);
  if (job) JobMetrics(out, hsm, *job);
  return out;
}

}  // namespace hsm::cli
