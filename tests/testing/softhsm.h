#pragma once
// SoftHSM for a test process: a temporary directory with a configuration, a token directory and PIN files.
// SoftHSM reads its configuration once per process, so there is one of these per process; tokens differ by
// label.
#include <memory>
#include <string>

#include "common/ids.h"
#include "hsm/internal/v1/sealed_record.pb.h"
#include "node/pkcs11_token.h"
#include "node/token_config.h"

namespace hsm {

class SoftHsm {
 public:
  SoftHsm();
  ~SoftHsm();  // removes the directory; never calls the module

  static SoftHsm& OfThisProcess();

  TokenConfig Config(const std::string& label) const;  // with both PINs
  const std::string& directory() const { return directory_; }
  std::string token_directory() const { return directory_ + "/tokens"; }
  // Where the token with this serial number keeps its files; "" if nowhere.
  std::string FilesOf(const std::string& serial) const;

 private:
  std::string directory_;
};

inline constexpr const char* kSoftHsmModule = "/usr/lib/softhsm/libsofthsm2.so";
HsmId TestHsmId();

// A provisioned token with domain keys of its own, in this process.
struct SoftHsmDomain {
  TokenConfig config;
  internal::v1::DomainBundle bundle;
};
absl::StatusOr<SoftHsmDomain> MakeSoftHsmDomain(const std::string& label);
// Another provisioned token that got the keys of `domain` by a hand-over.
absl::StatusOr<TokenConfig> JoinSoftHsmDomain(const SoftHsmDomain& domain, const std::string& label);

}  // namespace hsm
