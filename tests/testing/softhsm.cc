#include "tests/testing/softhsm.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "common/check.h"
#include "common/status_macros.h"
#include "node/domain_keys.h"

namespace hsm {
namespace {

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  out.close();
  std::filesystem::permissions(path,
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

}  // namespace

SoftHsm::SoftHsm() {
  char pattern[] = "/tmp/qhsm-softhsm-XXXXXX";
  HSM_CHECK(mkdtemp(pattern) != nullptr);
  directory_ = pattern;
  std::filesystem::create_directory(token_directory());
  WriteFile(directory_ + "/softhsm2.conf", "directories.tokendir = " + token_directory() +
                                               "\nobjectstore.backend = file\nlog.level = ERROR\n"
                                               "slots.removable = false\n");
  WriteFile(directory_ + "/pin", "271828\n");
  WriteFile(directory_ + "/so_pin", "3141592653\n");
}

SoftHsm::~SoftHsm() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

SoftHsm& SoftHsm::OfThisProcess() {
  static SoftHsm softhsm;
  return softhsm;
}

TokenConfig SoftHsm::Config(const std::string& label) const {
  TokenConfig config;
  config.module = kSoftHsmModule;
  config.label = label;
  config.pin_file = directory_ + "/pin";
  config.so_pin_file = directory_ + "/so_pin";
  config.environment["SOFTHSM2_CONF"] = directory_ + "/softhsm2.conf";
  return config;
}

std::string SoftHsm::FilesOf(const std::string& serial) const {
  for (const auto& entry : std::filesystem::directory_iterator(token_directory())) {
    std::ifstream in(entry.path() / "token.object", std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    if (bytes.find(serial) != std::string::npos) return entry.path().string();
  }
  return "";
}

HsmId TestHsmId() {
  HsmId id;
  for (size_t i = 0; i < id.value.size(); ++i) id.value[i] = static_cast<uint8_t>(0xa0 + i);
  return id;
}

absl::StatusOr<SoftHsmDomain> MakeSoftHsmDomain(const std::string& label) {
  SoftHsmDomain domain;
  domain.config = SoftHsm::OfThisProcess().Config(label);
  HSM_RETURN_IF_ERROR(ProvisionToken(domain.config).status());
  HSM_ASSIGN_OR_RETURN(auto keys, DomainKeys::Open(domain.config));
  HSM_ASSIGN_OR_RETURN(domain.bundle, keys->Make(TestHsmId(), 1));
  return domain;
}

absl::StatusOr<TokenConfig> JoinSoftHsmDomain(const SoftHsmDomain& domain, const std::string& label) {
  TokenConfig config = SoftHsm::OfThisProcess().Config(label);
  HSM_RETURN_IF_ERROR(ProvisionToken(config).status());
  HSM_ASSIGN_OR_RETURN(auto joiner, DomainKeys::Open(config));
  HSM_ASSIGN_OR_RETURN(auto join_key, joiner->BeginJoin(TestHsmId(), 1));
  HSM_ASSIGN_OR_RETURN(auto sponsor, DomainKeys::Open(domain.config));
  HSM_ASSIGN_OR_RETURN(auto keks, sponsor->Sponsor(View(join_key.spki()), join_key.oaep_hash()));
  HSM_RETURN_IF_ERROR(joiner->CompleteJoin(keks, domain.bundle));
  return config;
}

}  // namespace hsm
