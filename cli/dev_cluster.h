#pragma once
// A whole cluster on one machine under one data directory: what `qhsm dev` makes and finds again.
//
//   DATA/cluster.json              what there is: names, ports, profile
//   DATA/ca/ DATA/admin/           certificate authority; the administrator's certificate and key
//   DATA/coordinator/              coordinator.toml, certificate, key, data/
//   DATA/p1/ ...                   node.toml, certificate, key, pin, so-pin, softhsm2.conf, tokens/, data/
//   DATA/run/                      supervisor.pid, control.sock, *.log
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hsm::cli {

struct DevProcess {
  std::string name;     // "p1", "coordinator"
  std::string program;  // "qhsm-node"
  uint32_t port = 0;    // on 127.0.0.1

  std::string Address() const { return "127.0.0.1:" + std::to_string(port); }
};

struct DevCluster {
  std::string data;     // absolute
  std::string name;     // of the HSM
  std::string profile;  // "none", or a file in share/profiles
  std::string healing = "automatic";
  bool virtual_clock = false;
  uint32_t retention_days = 90;
  bool purge_protection = false;
  std::string module;         // PKCS#11 library of all partitions
  std::string administrator;  // GUID
  DevProcess coordinator;
  std::vector<DevProcess> partitions;

  std::string Path(const std::string& name) const { return data + "/" + name; }
  std::string Folder(const DevProcess& process) const { return data + "/" + process.name; }
  std::string LogFile(const DevProcess& process) const { return data + "/run/" + process.name + ".log"; }
  std::string ConfigFile(const DevProcess& process) const;
  std::string ClockFile() const { return virtual_clock ? data + "/clock" : ""; }
  std::vector<DevProcess> Processes() const;  // the coordinator first
};

constexpr char kCoordinatorName[] = "coordinator";

struct DevRequest {
  std::string name;
  uint32_t partitions = 3;
  std::string profile = "none";
  std::string module;  // empty = SoftHSM where Debian has it
  uint32_t port_base = 0;
};

// "~/x" and relative paths made absolute; empty = $QHSM_DEV_DATA, else ~/.local/state/qhsm/dev.
absl::StatusOr<std::string> DevDirectory(const std::string& given);
bool DevClusterExists(const std::string& data);
// NOT_FOUND if nothing was made there.
absl::StatusOr<DevCluster> LoadDevCluster(const std::string& data);
// Makes directories, certificates and PINs. Nothing runs yet, and there are no ports.
absl::StatusOr<DevCluster> MakeDevCluster(const std::string& data, const DevRequest& request);
// Keeps the ports it has if they are free, takes free ones below the ephemeral range otherwise; with
// `port_base` exactly port_base (coordinator), port_base + 1 ... CONFLICT if one of those is taken.
absl::Status ChoosePorts(DevCluster& cluster, uint32_t port_base);
// Writes cluster.json and all TOML files.
absl::Status WriteDevConfigs(const DevCluster& cluster);

std::string ProgramDirectory();                       // where this program is
std::string ProfileFile(const std::string& profile);  // whether or not it exists

}  // namespace hsm::cli
