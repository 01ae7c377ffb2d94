#include "cli/dev_cluster.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <filesystem>

#include "common/error.h"
#include "common/file.h"
#include "common/json.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/virtual_clock.h"
#include "common/x509.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr size_t kClusterFileBytesMax = 256 * 1024;
constexpr uint32_t kPartitionsMax = 16;
constexpr int kPortAttempts = 50;

std::vector<std::string> ModulePlaces() {
  return {"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
          "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so",
          "/usr/lib64/libsofthsm2.so"};
}

absl::Status WriteSecret(const std::string& path, const SecretBytes& secret) {
  return WriteFileAtomic(path, secret.Expose(), 0600);
}

absl::Status WritePin(const std::string& path) {
  SecretBytes pin(ToBytes(Hex(SystemRandom().Draw(8))));
  return WriteSecret(path, pin);
}

absl::Status WriteIdentity(const std::string& folder, const IssuedCertificate& identity) {
  HSM_RETURN_IF_ERROR(MakeDirectories(folder));
  HSM_RETURN_IF_ERROR(WriteFileAtomic(folder + "/tls.crt", View(identity.certificate.Pem()), 0644));
  return WriteSecret(folder + "/tls.key", identity.key.Pem());
}

absl::Status MakeServerIdentity(const DevCluster& cluster, const DevProcess& process, std::string_view kind,
                                const IssuedCertificate& authority) {
  CertificateRequest request{.common_name = process.name,
                             .uris = {fmt::format("urn:qhsm:{}:{}", kind, process.name)},
                             .dns_names = {process.name, "localhost"},
                             .ip_addresses = {"127.0.0.1"}};
  HSM_ASSIGN_OR_RETURN(IssuedCertificate identity, IssueCertificate(request, &authority));
  return WriteIdentity(cluster.Folder(process), identity);
}

absl::Status MakeToken(const std::string& folder) {
  HSM_RETURN_IF_ERROR(MakeDirectories(folder + "/tokens"));
  HSM_RETURN_IF_ERROR(MakeDirectories(folder + "/data"));
  HSM_RETURN_IF_ERROR(WritePin(folder + "/pin"));
  HSM_RETURN_IF_ERROR(WritePin(folder + "/so-pin"));
  return WriteFileAtomic(folder + "/softhsm2.conf",
                         View(fmt::format("directories.tokendir = {}/tokens\nobjectstore.backend = file\n"
                                          "log.level = ERROR\nslots.removable = false\n",
                                          folder)),
                         0600);
}

Json ProcessJson(const DevProcess& process) {
  return Json::Object({{"name", process.name}, {"program", process.program}, {"port", process.port}});
}

absl::StatusOr<DevProcess> ReadProcess(const Json* json) {
  if (json == nullptr) return Error(v1::REASON_CONFIG_INVALID, "cluster.json names no coordinator");
  auto text = [&](const char* key) {
    const Json* found = json->Find(key);
    return found == nullptr ? std::string() : found->AsString().value_or("");
  };
  const Json* port = json->Find("port");
  DevProcess process{text("name"), text("program"),
                     static_cast<uint32_t>(port == nullptr ? 0 : port->AsInteger().value_or(0))};
  if (process.name.empty() || process.program.empty()) {
    return Error(v1::REASON_CONFIG_INVALID, "cluster.json has a process without a name");
  }
  return process;
}

bool PortIsFree(uint32_t port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  int one = 1;  // connections in TIME_WAIT do not count
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bool free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 && listen(fd, 1) == 0;
  close(fd);
  return free;
}

bool AllFree(uint32_t base, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (!PortIsFree(base + static_cast<uint32_t>(i))) return false;
  }
  return true;
}

void TakePorts(DevCluster& cluster, uint32_t base) {
  cluster.coordinator.port = base;
  for (DevProcess& partition : cluster.partitions) partition.port = ++base;
}

std::string Quoted(const std::string& text) {  // a TOML basic string
  return Json(text).Dump();
}

absl::StatusOr<std::string> CertificateHash(const DevCluster& cluster, const DevProcess& process) {
  HSM_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromFile(cluster.Folder(process) + "/tls.crt"));
  return Hex(certificate.Fingerprint());
}

std::string TlsTable(const DevCluster& cluster) {
  return fmt::format("[tls]\nca = {}\ncertificate = \"tls.crt\"\nkey = \"tls.key\"\n",
                     Quoted(cluster.Path("ca/tls.crt")));
}

std::string ClockTable(const DevCluster& cluster) {
  if (!cluster.virtual_clock) return "";
  return fmt::format("\n[dev]\nclock_file = {}\n", Quoted(cluster.ClockFile()));
}

constexpr char kHeading[] = "# Written by `qhsm dev up` at every start; changes made here are lost.\n";

absl::StatusOr<std::string> NodeConfig(const DevCluster& cluster, const DevProcess& node) {
  std::string out = kHeading;
  out += fmt::format("name = {}\nlisten = {}\ndata_dir = \"data\"\ncoordinators = [{}]\nhealing = {}\n\n",
                     Quoted(node.name), Quoted(node.Address()), Quoted(cluster.coordinator.Address()),
                     Quoted(cluster.healing));
  out += TlsTable(cluster);
  out += fmt::format("\n[token]\nmodule = {}\nlabel = {}\npin_file = \"pin\"\n", Quoted(cluster.module),
                     Quoted(node.name));
  // With "approved" the officer copies so-pin there for the time of a join.
  out += fmt::format("so_pin_file = \"{}\"\n", cluster.healing == "automatic" ? "so-pin" : "so-pin-for-join");
  out += fmt::format("\n[token.environment]\nSOFTHSM2_CONF = {}\n",
                     Quoted(cluster.Folder(node) + "/softhsm2.conf"));
  out += "\n[peers]\n";
  for (const DevProcess& peer : cluster.partitions) {
    if (peer.name == node.name) continue;
    HSM_ASSIGN_OR_RETURN(std::string hash, CertificateHash(cluster, peer));
    out += fmt::format("{} = {}\n", peer.name, Quoted(hash));
  }
  if (cluster.profile != "none") {
    out += fmt::format("\n[profile]\nfile = {}\n", Quoted(ProfileFile(cluster.profile)));
  }
  return out + ClockTable(cluster);
}

absl::StatusOr<std::string> CoordinatorConfig(const DevCluster& cluster) {
  std::string out = kHeading;
  out += fmt::format("name = {}\nlisten = {}\ndata_dir = \"data\"\n\n", Quoted(cluster.coordinator.name),
                     Quoted(cluster.coordinator.Address()));
  out += fmt::format("[hsm]\nname = {}\nhealing = {}\nretention_days = {}\npurge_protection = {}\n\n",
                     Quoted(cluster.name), Quoted(cluster.healing), cluster.retention_days,
                     cluster.purge_protection);
  out += TlsTable(cluster);
  for (const DevProcess& node : cluster.partitions) {
    HSM_ASSIGN_OR_RETURN(std::string hash, CertificateHash(cluster, node));
    out += fmt::format("\n[[partition]]\nname = {}\naddress = {}\ncertificate_sha256 = {}\n",
                       Quoted(node.name), Quoted(node.Address()), Quoted(hash));
  }
  out += fmt::format("\n[[administrator]]\nprincipal = {}\n", Quoted(cluster.administrator));
  // An administrator holds no right over keys; whoever tries things out needs both.
  for (const char* role : {"Managed HSM Crypto User", "Managed HSM Crypto Officer"}) {
    out += fmt::format("\n[[assignment]]\nprincipal = {}\nrole = {}\nscope = \"/\"\n",
                       Quoted(cluster.administrator), Quoted(role));
  }
  return out + ClockTable(cluster);
}

}  // namespace

std::string DevCluster::ConfigFile(const DevProcess& process) const {
  return Folder(process) + (process.name == coordinator.name ? "/coordinator.toml" : "/node.toml");
}

std::vector<DevProcess> DevCluster::Processes() const {
  std::vector<DevProcess> all{coordinator};
  all.insert(all.end(), partitions.begin(), partitions.end());
  return all;
}

std::string ProgramDirectory() {
  std::error_code failed;
  auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  return failed ? "." : self.parent_path().string();
}

std::string ProfileFile(const std::string& profile) {
  return std::filesystem::path(ProgramDirectory()).parent_path().string() + "/share/profiles/" + profile +
         ".toml";
}

absl::StatusOr<std::string> DevDirectory(const std::string& given) {
  std::string chosen = given;
  const char* home = std::getenv("HOME");
  if (chosen.empty()) {
    const char* variable = std::getenv("QHSM_DEV_DATA");
    if (variable != nullptr && *variable != 0) {
      chosen = variable;
    } else if (home != nullptr && *home != 0) {
      chosen = std::string(home) + "/.local/state/qhsm/dev";
    } else {
      return Error(v1::REASON_INVALID_ARGUMENT, "say where the cluster lives: --data DIR");
    }
  } else if (chosen.starts_with("~/") && home != nullptr) {
    chosen = home + chosen.substr(1);
  }
  std::error_code failed;
  std::filesystem::path path = std::filesystem::absolute(chosen, failed).lexically_normal();
  if (failed) return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("no such place: {}", chosen));
  std::string text = path.string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

bool DevClusterExists(const std::string& data) { return FileExists(data + "/cluster.json"); }

absl::StatusOr<DevCluster> LoadDevCluster(const std::string& data) {
  if (!DevClusterExists(data)) {
    return Error(v1::REASON_NOT_FOUND,
                 fmt::format("there is no dev cluster in {} (qhsm dev up makes one)", data));
  }
  HSM_ASSIGN_OR_RETURN(std::string text, ReadTextFile(data + "/cluster.json", kClusterFileBytesMax));
  HSM_ASSIGN_OR_RETURN(Json json, Json::Parse(text));
  auto value = [&](const char* key) {
    const Json* found = json.Find(key);
    return found == nullptr ? std::string() : found->AsString().value_or("");
  };
  DevCluster cluster{.data = data,
                     .name = value("name"),
                     .profile = value("profile"),
                     .virtual_clock = value("clock") == "virtual",
                     .module = value("module"),
                     .administrator = value("administrator")};
  if (const Json* days = json.Find("retention_days")) {
    cluster.retention_days = static_cast<uint32_t>(days->AsNumber().value_or(90));
  }
  const Json* protection = json.Find("purge_protection");
  cluster.purge_protection = protection != nullptr && protection->AsBool().value_or(false);
  HSM_ASSIGN_OR_RETURN(cluster.coordinator, ReadProcess(json.Find("coordinator")));
  const Json* partitions = json.Find("partitions");
  if (partitions == nullptr || partitions->items().empty()) {
    return Error(v1::REASON_CONFIG_INVALID, "cluster.json names no partition");
  }
  for (const Json& item : partitions->items()) {
    HSM_ASSIGN_OR_RETURN(DevProcess process, ReadProcess(&item));
    cluster.partitions.push_back(std::move(process));
  }
  return cluster;
}

absl::StatusOr<DevCluster> MakeDevCluster(const std::string& data, const DevRequest& request) {
  if (request.partitions < 1 || request.partitions > kPartitionsMax) {
    return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("--partitions takes 1 to {}", kPartitionsMax));
  }
  DevCluster cluster{
      .data = data, .name = request.name, .profile = request.profile, .module = request.module};
  cluster.administrator = GuidText(SystemRandom().NewId<PrincipalId>());
  cluster.coordinator = {kCoordinatorName, "qhsm-coordinator", 0};
  for (uint32_t i = 1; i <= request.partitions; ++i) {
    cluster.partitions.push_back({fmt::format("p{}", i), "qhsm-node", 0});
  }
  for (const std::string& place : ModulePlaces()) {
    if (cluster.module.empty() && FileExists(place)) cluster.module = place;
  }
  if (cluster.module.empty() || !FileExists(cluster.module)) {
    return Error(v1::REASON_NOT_FOUND, cluster.module.empty()
                                           ? "SoftHSM is not installed (package softhsm2)"
                                           : fmt::format("no PKCS#11 library {}", cluster.module));
  }
  HSM_RETURN_IF_ERROR(MakeDirectories(data));
  HSM_RETURN_IF_ERROR(MakeDirectories(cluster.Path("run")));
  HSM_ASSIGN_OR_RETURN(
      IssuedCertificate authority,
      IssueCertificate({.common_name = cluster.name + " dev CA", .authority = true}, nullptr));
  HSM_RETURN_IF_ERROR(WriteIdentity(cluster.Path("ca"), authority));
  HSM_ASSIGN_OR_RETURN(
      IssuedCertificate administrator,
      IssueCertificate({.common_name = "admin", .uris = {"urn:uuid:" + cluster.administrator}}, &authority));
  HSM_RETURN_IF_ERROR(WriteIdentity(cluster.Path("admin"), administrator));
  HSM_RETURN_IF_ERROR(MakeServerIdentity(cluster, cluster.coordinator, "coordinator", authority));
  HSM_RETURN_IF_ERROR(MakeDirectories(cluster.Folder(cluster.coordinator) + "/data"));
  for (const DevProcess& node : cluster.partitions) {
    HSM_RETURN_IF_ERROR(MakeServerIdentity(cluster, node, "node", authority));
    HSM_RETURN_IF_ERROR(MakeToken(cluster.Folder(node)));
  }
  return cluster;
}

absl::Status ChoosePorts(DevCluster& cluster, uint32_t port_base) {
  size_t count = cluster.partitions.size() + 1;
  if (port_base != 0) {
    if (port_base < 1024 || port_base + count > 65535) {
      return Error(v1::REASON_INVALID_ARGUMENT, "--port-base takes 1024 to 65000");
    }
    if (!AllFree(port_base, count)) {
      return Error(v1::REASON_INVALID_ARGUMENT,
                   fmt::format("a port of {} .. {} is taken: choose another --port-base, or none", port_base,
                               port_base + count - 1));
    }
    TakePorts(cluster, port_base);
    return absl::OkStatus();
  }
  bool kept = true;
  for (const DevProcess& process : cluster.Processes()) kept &= process.port != 0 && PortIsFree(process.port);
  if (kept) return absl::OkStatus();
  // Below the ephemeral range (32768 and up), so that no outgoing connection takes the port of a stopped
  // process.
  for (int attempt = 0; attempt < kPortAttempts; ++attempt) {
    uint32_t base = 20000 + static_cast<uint32_t>(SystemRandom().Below(600)) * 20;
    if (!AllFree(base, count)) continue;
    TakePorts(cluster, base);
    return absl::OkStatus();
  }
  return Error(v1::REASON_CONFLICT, "no free ports found between 20000 and 32000");
}

absl::Status WriteDevConfigs(const DevCluster& cluster) {
  if (cluster.virtual_clock && !FileExists(cluster.ClockFile())) {
    HSM_RETURN_IF_ERROR(WriteClockShift(cluster.ClockFile(), {}));
  }
  for (const DevProcess& node : cluster.partitions) {
    HSM_ASSIGN_OR_RETURN(std::string text, NodeConfig(cluster, node));
    HSM_RETURN_IF_ERROR(WriteFileAtomic(cluster.ConfigFile(node), View(text)));
  }
  HSM_ASSIGN_OR_RETURN(std::string text, CoordinatorConfig(cluster));
  HSM_RETURN_IF_ERROR(WriteFileAtomic(cluster.ConfigFile(cluster.coordinator), View(text)));
  Json partitions = Json::Array();
  for (const DevProcess& node : cluster.partitions) partitions.Add(ProcessJson(node));
  Json json = Json::Object({{"format", 1},
                            {"name", cluster.name},
                            {"profile", cluster.profile},
                            {"retention_days", cluster.retention_days},
                            {"purge_protection", cluster.purge_protection},
                            {"clock", cluster.virtual_clock ? "virtual" : "system"},
                            {"module", cluster.module},
                            {"administrator", cluster.administrator},
                            {"coordinator", ProcessJson(cluster.coordinator)},
                            {"partitions", partitions}});
  return WriteFileAtomic(cluster.data + "/cluster.json", View(json.Dump(2) + "\n"));
}

}  // namespace hsm::cli
