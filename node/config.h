#pragma once
// node.toml. Each key is explained in deploy/config/node.toml.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tls.h"
#include "node/token_config.h"

namespace hsm {

struct NodeConfig {
  std::string path;  // of the file itself; the helper process reads it again
  std::string name;
  std::string listen;  // host:port
  std::string data_dir;
  std::vector<std::string> coordinators;  // host:port
  std::string healing = "approved";       // "approved" | "automatic"
  TlsFiles tls;
  TokenConfig token;
  std::map<std::string, std::string> peers;  // partition name -> SHA-256 of its certificate, lower-case hex
  struct Limits {
    uint32_t workers = 32;              // threads for operations that take long or wait
    uint32_t key_cache_max = 8192;      // session objects kept in the token
    uint32_t queue_max = 256;           // calls, and batches, that wait for a thread
    uint32_t call_timeout_ms = 10'000;  // a token call that takes longer ends the process
  } limits;
  std::string verify_after_sign = "rsa";  // "rsa" | "all" | "none"
  std::string profile_file;               // "" = none
  std::string clock_file;                 // common/virtual_clock.h; empty = the system's clock
  std::string audit_use = "batch";        // the only mode so far

  static absl::StatusOr<NodeConfig> Load(const std::string& path);
};

}  // namespace hsm
