#include "coordinator/status.h"

#include <algorithm>
#include <cctype>

#include "common/bytes.h"

namespace hsm {
namespace {

std::string_view StateName(const HsmView& view) {
  if (!view.stopped.empty()) return "stopped";
  switch (view.mode) {
    case rpc::HSM_MODE_ACTIVE:
      return "active";
    case rpc::HSM_MODE_RESTORING:
      return "restoring";
    default:
      return "provisioned";
  }
}

std::string_view BusyName(BusyWith busy) {
  switch (busy) {
    case BusyWith::kBackup:
      return "backup";
    case BusyWith::kRestore:
      return "restore";
    default:
      return "";
  }
}

bool IsSoftware(std::string backend) {
  std::transform(backend.begin(), backend.end(), backend.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return backend.find("softhsm") != std::string::npos || backend.find("fake") != std::string::npos;
}

}  // namespace

v1::PartitionStatus ShowPartition(const PartitionView& view) {
  v1::PartitionStatus out;
  out.set_name(view.name);
  out.set_state(view.state);
  out.set_keys(view.heartbeat.keys());
  out.set_proved(view.heartbeat.proved());
  out.set_busy(std::string(BusyName(view.busy)));
  out.set_ops_per_second(view.state == v1::PARTITION_STATE_DOWN ? 0 : view.ops_per_second);
  out.set_message(view.message);
  out.set_backend(view.heartbeat.backend());
  out.set_profile(view.heartbeat.profile().empty() ? "none" : view.heartbeat.profile());
  out.set_address(view.heartbeat.address());
  out.set_in_flight(view.in_flight);
  out.set_token_serial(view.heartbeat.token_serial());
  out.set_operations_total(view.heartbeat.total_ops());
  return out;
}

v1::HsmStatus BuildStatus(const Core& core) {
  HsmViewPtr view = core.state.View();
  v1::HsmStatus out;
  out.set_name(core.config.hsm_name);
  out.set_state(std::string(StateName(*view)));
  bool software = false;
  for (const PartitionView& partition : core.cluster.Views()) {
    *out.add_partitions() = ShowPartition(partition);
    software |= IsSoftware(partition.heartbeat.backend());
  }
  for (size_t i = 0; i < core.config.partitions.size() && i < core.cluster.size(); ++i) {
    auto* partition = out.mutable_partitions(static_cast<int>(i));
    if (partition->address().empty()) partition->set_address(core.config.partitions[i].address);
  }
  out.set_quorum_have(core.cluster.ReadyCount());
  out.set_quorum_need(core.cluster.quorum());
  out.set_epoch(view->epoch);
  out.set_data_set(view->data_set);
  bool automatic = core.config.healing == HealingPolicy::kAutomatic;
  out.set_healing(automatic ? "automatic" : "approved");
  if (!view->stopped.empty()) out.add_warnings("changes are stopped: " + view->stopped);
  // Until officers have downloaded the security domain, the loss of all tokens is the loss of all keys.
  if (view->mode != rpc::HSM_MODE_UNSPECIFIED) out.add_warnings("unprotected-domain");
  if (automatic)
    out.add_warnings("automatic-healing: the nodes' hosts hold the SO PIN and can read the KEKs");
  if (software) out.add_warnings("software-token");
  if (!core.config.clock_file.empty()) out.add_warnings("virtual-clock: time passes as it is told to");
  if (core.catalogue.store().Health().read_only) {
    out.add_warnings("short-of-space: the coordinator's disk is nearly full, only deletes are taken");
  }
  out.set_keys(core.table.keys() - core.table.deleted());
  out.set_deleted_keys(core.table.deleted());
  out.set_versions(core.table.versions());
  out.set_domain_fingerprint(Hex(View(view->stored.bundle().replication_kek_fingerprint())));
  return out;
}

}  // namespace hsm
