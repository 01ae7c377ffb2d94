#pragma once
// One PKCS#11 module, loaded by path. The p11-kit registry is not used: it would load every module it knows.
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "pkcs11/cryptoki.h"

namespace hsm::pkcs11 {

struct LibraryOptions {
  std::string path;
  std::string init_args;                           // CK_C_INITIALIZE_ARGS.pReserved; empty = none
  std::map<std::string, std::string> environment;  // set before loading
};

// RFC 7512, by p11-kit's parser. Absent parts are empty.
struct TokenUri {
  std::string module_path, label, serial, pin_source;
};
absl::StatusOr<TokenUri> ParseTokenUri(const std::string& uri);  // CONFIG_INVALID

// Calls through `->` are thread-safe as far as the module is (CKF_OS_LOCKING_OK). The module is never
// unloaded and never finalised by a destructor: SoftHSM crashes when that happens among static destructors.
class Library {
 public:
  static absl::StatusOr<std::unique_ptr<Library>> Load(const LibraryOptions& options);

  const CK_FUNCTION_LIST* operator->() const { return functions_; }
  // False once exit() has begun: the module's own static objects may be gone, and no call may follow.
  static bool Usable();
  // C_Finalize, if this object initialised the module; from main only. No calls after.
  void Finalize();
  const std::string& path() const { return path_; }

 private:
  Library(CK_FUNCTION_LIST* functions, std::string path) : functions_(functions), path_(std::move(path)) {}
  CK_FUNCTION_LIST* functions_;
  std::string path_;
  bool initialized_here_ = false;
};

}  // namespace hsm::pkcs11
