#include <unistd.h>

#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/documents.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/x509.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

struct StatusArguments {
  bool watch = false;
  std::string name, fingerprint, certificate, pin_file;
  uint32_t from = 1, page_size = 100;
};

// What a node opens the sponsor's PIN with; must match node/handover.
constexpr char kSoPinPurpose[] = "qhsm so pin";

absl::Status ShowStatus(const StatusArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  for (;;) {
    absl::StatusOr<v1::HsmStatus> status = client->GetStatus();
    if (!a.watch) {
      HSM_RETURN_IF_ERROR(status.status());
      Print(StatusJson(*status), StatusTable(*status));
      return absl::OkStatus();
    }
    if (isatty(STDOUT_FILENO) == 1) fmt::print("\x1b[H\x1b[2J");
    if (status.ok()) {
      Print(StatusJson(*status), StatusTable(*status));
    } else {
      fmt::print(stderr, "{}\n", MessageOf(status.status()));
    }
    Pause(absl::Seconds(1));
  }
}

absl::StatusOr<v1::PartitionStatus> FindPartition(Client& client, const std::string& name) {
  HSM_ASSIGN_OR_RETURN(v1::HsmStatus status, client.GetStatus());
  for (const v1::PartitionStatus& partition : status.partitions()) {
    if (partition.name() == name) return partition;
  }
  return Error(v1::REASON_NOT_FOUND, fmt::format("no partition is called {}", name));
}

void PrintPartition(const v1::PartitionStatus& p) {
  Print(PartitionJson(p),
        Fields({{"name", p.name()},
                {"state", PartitionStateText(p.state())},
                {"key versions", fmt::format("{}, {} proved", p.keys(), p.proved())},
                {"load", fmt::format("{:.0f} ops/s, {} in flight", p.ops_per_second(), p.in_flight())},
                {"busy", p.busy().empty() ? "-" : p.busy()},
                {"backend", p.backend()},
                {"token serial", p.token_serial()},
                {"profile", p.profile()},
                {"address", p.address()},
                {"message", p.message().empty() ? "-" : p.message()}}));
}

absl::Status ListPartitions(const StatusArguments&) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::HsmStatus status, client->GetStatus());
  Json all = StatusJson(status);
  Print(Json::Object({{"partitions", *all.Find("partitions")}}), PartitionsTable(status));
  return absl::OkStatus();
}

absl::Status ShowPartition(const StatusArguments& a) {
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::PartitionStatus partition, FindPartition(*client, a.name));
  PrintPartition(partition);
  return absl::OkStatus();
}

absl::Status Drain(const StatusArguments& a) {
  v1::PartitionRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::PartitionResponse response, client->DrainPartition(request));
  PrintPartition(response.partition());
  return absl::OkStatus();
}

absl::Status Resume(const StatusArguments& a) {
  v1::PartitionRequest request;
  request.set_name(a.name);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::PartitionResponse response, client->ResumePartition(request));
  PrintPartition(response.partition());
  return absl::OkStatus();
}

// The name in a node's certificate: URI urn:qhsm:node:NAME.
absl::StatusOr<std::string> NodeNameOf(const Certificate& certificate, const std::string& file) {
  constexpr std::string_view kPrefix = "urn:qhsm:node:";
  for (const std::string& uri : certificate.Uris()) {
    if (uri.starts_with(kPrefix)) return uri.substr(kPrefix.size());
  }
  return Error(v1::REASON_INVALID_ARGUMENT, file + " is not a partition's certificate");
}

absl::Status Approve(const StatusArguments& a) {
  HSM_ASSIGN_OR_RETURN(Certificate sponsor, Certificate::FromFile(a.certificate));
  HSM_ASSIGN_OR_RETURN(std::string sponsor_name, NodeNameOf(sponsor, a.certificate));
  HSM_ASSIGN_OR_RETURN(SecretBytes pin, ReadSecretFile(a.pin_file, 256));
  HSM_ASSIGN_OR_RETURN(Bytes sealed, EncryptTo(sponsor.Spki(), kSoPinPurpose, pin));
  v1::ApprovePartitionRequest request;
  request.set_name(a.name);
  request.set_fingerprint(a.fingerprint);
  request.set_sealed_so_pin(ToString(sealed));
  request.set_sponsor(sponsor_name);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::PartitionResponse response, client->ApprovePartition(request));
  PrintPartition(response.partition());
  return absl::OkStatus();
}

absl::Status ShowAudit(const StatusArguments& a) {
  v1::ListAuditRequest request;
  request.set_from(a.from);
  request.set_page_size(a.page_size);
  HSM_ASSIGN_OR_RETURN(auto client, Connect());
  HSM_ASSIGN_OR_RETURN(v1::ListAuditResponse page, client->ListAudit(request));
  std::vector<std::vector<std::string>> rows = {
      {"SEQUENCE", "TIME", "PRINCIPAL", "OPERATION", "OBJECT", "OUTCOME"}};
  for (const v1::AuditEntry& entry : page.entries()) {
    rows.push_back({fmt::format("{}", entry.sequence()), TimeText(entry.time_ms() / 1000), entry.principal(),
                    entry.operation(), entry.object(), entry.outcome()});
  }
  Print(AuditJson(page), Columns(rows) + (page.chain_ok() ? "" : "the chain of hashes is BROKEN\n"));
  return absl::OkStatus();
}

}  // namespace

void AddStatusCommands(Command& root) {
  auto a = std::make_shared<StatusArguments>();
  auto does = [a](Command& verb, absl::Status (*action)(const StatusArguments&)) {
    verb.Does([a, action] { return action(*a); });
  };

  Command status = root.Sub("status", "The HSM, its partitions, its quorum");
  status.Flag("--watch", a->watch, "again every second, until interrupted");
  does(status, &ShowStatus);
  status.Example("qhsm status");
  status.Example("qhsm status --query partitions[].state");

  Command partition = root.Sub("partition", "Partitions: look at, take out of rotation, bring back");
  Command list = partition.Sub("list", "List all partitions");
  does(list, &ListPartitions);
  auto verb = [&](const std::string& name, const std::string& about,
                  absl::Status (*action)(const StatusArguments&)) {
    Command made = partition.Sub(name, about);
    made.Text("-n,--name,NAME", a->name, "name of the partition").Required();
    does(made, action);
    return made;
  };
  verb("show", "Show one partition", &ShowPartition).Example("qhsm partition show p2");
  verb("drain", "Take a partition out of rotation; calls in flight end normally", &Drain)
      .Example("qhsm partition drain p2");
  verb("resume", "Bring a drained partition back", &Resume).Example("qhsm partition resume p2");
  Command approve = verb("approve", "Let a new or wiped partition receive the domain keys", &Approve);
  approve.Text("--fingerprint", a->fingerprint, "of its join key: status says it; compare it at the node")
      .Required();
  approve
      .Text("--sponsor-certificate", a->certificate, "PEM file: certificate of the partition that hands over")
      .Required();
  approve
      .Text("--so-pin-file", a->pin_file,
            "file with the sponsor's SO PIN; only the sponsor can read what is sent")
      .Required();
  approve.Example("qhsm partition show p2 --query message    # names the fingerprint");
  approve.Example(
      "qhsm partition approve p2 --fingerprint 1f0c... --sponsor-certificate p1.pem --so-pin-file p1-so-pin");

  Command audit = root.Sub("audit", "What was changed, by whom");
  Command show = audit.Sub("show", "Show audit entries");
  show.Number("--from", a->from, "first sequence number");
  show.Number("--max-results", a->page_size, "at most that many");
  does(show, &ShowAudit);
}

}  // namespace hsm::cli
