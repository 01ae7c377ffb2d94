// qhsm: the command line. Exit codes: cli/output.h and docs/operations.md.
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/options.h"
#include "cli/output.h"
#include "common/log.h"
#include "fmt/format.h"

namespace {

constexpr char kVersion[] = "qhsm 0.1.0";

// Needed before parsing, because a command line that does not parse is also answered in JSON.
bool WantsJson(int argc, char** argv) {
  const char* variable = std::getenv("QHSM_OUTPUT");
  bool json = variable != nullptr && std::string_view(variable) == "json";
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    std::string_view next = i + 1 < argc ? argv[i + 1] : "";
    if (argument == "-o" || argument == "--output") json = next == "json";
    if (argument == "-ojson" || argument == "--output=json") json = true;
  }
  return json;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace hsm::cli;
  hsm::SetLogProgram("qhsm");
  hsm::SetLogLevel(hsm::LogLevel::kWarning);
  SetJsonOutput(WantsJson(argc, argv));

  Options options("qhsm",
                  "Quorum HSM: keys that live in several HSM partitions at once.\n"
                  "Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no answer, 4 outcome unknown.");
  Command& root = options.root();
  std::string output = "table", query;
  std::optional<double> timeout;
  bool version = false;
  root.Text("-o,--output", output, "for people, or one JSON document")
      .OneOf({"table", "json"})
      .FromEnvironment("QHSM_OUTPUT");
  root.Text("--query", query,
            "print only this part of the JSON document, e.g. key.kid or partitions[].state");
  root.Number("--timeout", timeout,
              "seconds a call may take, repetitions included; 30, crypto 5 if left out");
  root.Flag("--version", version, "print the version");
  root.Example("qhsm dev up --name demo --data ~/demo --detach    # a cluster on this machine");
  root.Example("eval \"$(qhsm dev env --data ~/demo)\"             # use it");
  root.Example("qhsm key create --name invoices --kty EC-HSM");
  root.Example("qhsm key sign --name invoices --algorithm ES256 --data-file invoice.pdf");
  root.Example("qhsm status --query partitions[].state");
  root.Does([&version]() -> absl::Status {
    if (!version) return absl::InvalidArgumentError("say what to do");
    fmt::print("{}\n", kVersion);
    return absl::OkStatus();
  });
  SetQuery(&query);
  SetTimeout(&timeout);
  AddKeyCommands(root);
  AddStatusCommands(root);
  AddRoleCommands(root);
  AddBackupCommands(root);
  AddDevCommands(root);
  AddBenchCommand(root);
  AddTextCommands(root, options, kVersion);

  Options::Outcome outcome = options.Parse(argc, argv);
  if (!outcome.text.empty()) {
    fmt::print("{}", outcome.text);
    return kExitDone;
  }
  if (outcome.status.ok()) return kExitDone;
  return PrintFailure(outcome.status, outcome.usage_error, outcome.help_for);
}
