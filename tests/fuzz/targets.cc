#include "tests/fuzz/targets.h"

#include "tests/fuzz/fuzz.h"

namespace hsm::fuzz {

constexpr Target kTargets[] = {
    {"record", Record},
    {"catalogue", CatalogueRows},
    {"manifest", Manifest},
    {"chunk", Chunk},
    {"uri", Uri},
    {"config", ConfigFile},
    {"json", JsonText},
    {"x509", X509},
    {"key_encoding", KeyEncoding},
    {"text", Text},
    {"token_object", TokenObject},
    {"use_audit", UseAuditFile},
    {"security_domain", SecurityDomain},
};

std::span<const Target> Targets() { return kTargets; }

const Target* FindTarget(std::string_view name) {
  for (const Target& target : kTargets) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

}  // namespace hsm::fuzz
