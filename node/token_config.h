#pragma once
// How a process reaches its one token. Filled from [token] of node.toml (node/config) and passed on to the
// helper (node/helper); secrets only as file paths.
#include <cstdint>
#include <map>
#include <string>

namespace hsm {

struct TokenConfig {
  std::string module;  // path of the PKCS#11 library; or:
  std::string
      uri;  // RFC 7512, with module-path; token=, serial= and pin-source= fill the fields below if empty
  std::string label;  // the token by label or serial, never by slot number; at least one of the two
  std::string serial;
  std::string init_args;    // CK_C_INITIALIZE_ARGS.pReserved, for modules like NSS softokn
  std::string pin_file;     // user PIN; one trailing newline is ignored
  std::string so_pin_file;  // read by the helper process only
  std::map<std::string, std::string> environment;  // set before the module is loaded, e.g. SOFTHSM2_CONF
  uint64_t kwp_mechanism = 0;                      // RFC 5649 id of this token; 0 = found by probe
  uint32_t sessions_max = 64;                      // leased sessions at once; callers beyond wait
};

}  // namespace hsm
