// Texts for other programs: completions for the shell, the manual page, figures for Prometheus.
#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/metrics.h"
#include "cli/output.h"
#include "cli/texts.h"
#include "common/error.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

// To standard output, or to a file that is either the old one or the new one whole: whoever reads it while it
// is written, as node_exporter may, sees no half.
absl::Status Deliver(const std::string& text, const std::string& file) {
  if (!file.empty()) return WriteFileAtomic(file, View(text), 0644);
  fmt::print("{}", text);
  return absl::OkStatus();
}

absl::Status PrintMetrics(const std::string& file) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::HsmStatus status, client->GetStatus());
  std::optional<v1::Job> job;
  if (!status.active_job().empty()) {
    v1::GetJobRequest request;
    request.set_id(status.active_job());
    // It may have ended meanwhile, or the caller may not see it: then there are no figures of it.
    if (absl::StatusOr<v1::Job> found = client->GetJob(request); found.ok()) job = *std::move(found);
  }
  return Deliver(PrometheusText(status, job), file);
}

}  // namespace

void AddTextCommands(Command& root, const Options& options, const std::string& version) {
  auto file = std::make_shared<std::string>();
  Command metrics = root.Sub("metrics", "The HSM's figures in the text format of Prometheus");
  metrics.Text("--to-file", *file,
               "replace this file in one step, e.g. for node_exporter's textfile collector");
  metrics.Does([file] { return PrintMetrics(*file); });
  metrics.Example("qhsm metrics");
  metrics.Example("qhsm metrics --to-file /var/lib/prometheus/node-exporter/qhsm.prom");

  Command completion = root.Sub("completion", "Completions for a shell");
  Command bash = completion.Sub("bash", "Print a script for bash to source");
  bash.Does([&options] { return Deliver(BashCompletion(options.Describe()), ""); });
  bash.Example("source <(qhsm completion bash)");

  Command man = root.Sub("man", "Print the manual page");
  man.Does([&options, version] { return Deliver(ManPage(options.Describe(), version), ""); });
  man.Example("qhsm man | man -l -");
}

}  // namespace hsm::cli
