#include "node/config.h"

#include <algorithm>

#include "common/config.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

void ReadToken(Config table, TokenConfig& token) {
  table.ReadPath("module", token.module);
  table.Read("uri", token.uri);
  table.Read("label", token.label);
  table.Read("serial", token.serial);
  table.Read("init_args", token.init_args);
  table.ReadPath("pin_file", token.pin_file);
  table.ReadPath("so_pin_file", token.so_pin_file);
  table.Read("kwp_mechanism", token.kwp_mechanism);
  table.Read("sessions_max", token.sessions_max);
  token.environment = table.Strings("environment");
  if (token.module.empty() == token.uri.empty()) table.Fail("module", "give either module or uri");
  if (!token.module.empty() && token.label.empty() && token.serial.empty()) {
    table.Fail("label", "the token is named by its label or its serial");
  }
}

void ReadPeers(Config& file, std::map<std::string, std::string>& peers) {
  peers = file.Strings("peers");
  for (auto& [name, fingerprint] : peers) {
    std::transform(fingerprint.begin(), fingerprint.end(), fingerprint.begin(),
                   [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
    bool hex = fingerprint.size() == 64 && FromHex(fingerprint).has_value();
    if (!hex) file.Fail("peers", name + " is not the SHA-256 of a certificate in hex");
  }
}

}  // namespace

absl::StatusOr<NodeConfig> NodeConfig::Load(const std::string& path) {
  HSM_ASSIGN_OR_RETURN(Config file, Config::Load(path));
  NodeConfig out;
  out.path = path;
  file.Require("name", out.name);
  file.Require("listen", out.listen);
  file.RequirePath("data_dir", out.data_dir);
  file.Read("coordinators", out.coordinators);
  if (out.coordinators.empty()) file.Fail("coordinators", "name at least one");
  file.Read("healing", out.healing);
  if (out.healing != "approved" && out.healing != "automatic") {
    file.Fail("healing", "is \"approved\" or \"automatic\"");
  }
  Config tls = file.Table("tls");
  tls.RequirePath("ca", out.tls.ca);
  tls.RequirePath("certificate", out.tls.certificate);
  tls.RequirePath("key", out.tls.key);
  ReadToken(file.Table("token"), out.token);
  ReadPeers(file, out.peers);
  Config limits = file.Table("limits");
  limits.Read("workers", out.limits.workers);
  limits.Read("key_cache_max", out.limits.key_cache_max);
  limits.Read("queue_max", out.limits.queue_max);
  limits.Read("call_timeout_ms", out.limits.call_timeout_ms);
  if (out.limits.workers == 0 || out.limits.workers > 512) limits.Fail("workers", "is 1 to 512");
  if (out.limits.call_timeout_ms < 100) limits.Fail("call_timeout_ms", "is at least 100");
  Config crypto = file.Table("crypto");
  crypto.Read("verify_after_sign", out.verify_after_sign);
  if (out.verify_after_sign != "rsa" && out.verify_after_sign != "all" && out.verify_after_sign != "none") {
    crypto.Fail("verify_after_sign", "is \"rsa\", \"all\" or \"none\"");
  }
  file.Table("profile").ReadPath("file", out.profile_file);
  Config audit = file.Table("audit");
  audit.Read("use", out.audit_use);
  if (out.audit_use != "batch") audit.Fail("use", "is \"batch\"");
  file.Table("dev").ReadPath("clock_file", out.clock_file);
  HSM_RETURN_IF_ERROR(file.Finish());
  return out;
}

}  // namespace hsm
