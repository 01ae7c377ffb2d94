#include "pkcs11/library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <p11-kit/uri.h>

#include <atomic>
#include <cstdlib>

#include "common/error.h"
#include "common/status_macros.h"
#include "pkcs11/rv.h"

namespace hsm::pkcs11 {
namespace {

// An atexit handler has no argument, hence a variable of the process. Handlers run in the reverse order of
// their registration: ours comes after the module's objects exist, so it runs before they are destroyed.
std::atomic<bool> exiting{false};
void NoteExit() { exiting = true; }

std::string Padded(const unsigned char* field, size_t size) {
  std::string text(reinterpret_cast<const char*>(field), size);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\0')) text.pop_back();
  return text;
}

}  // namespace

absl::StatusOr<TokenUri> ParseTokenUri(const std::string& uri) {
  std::unique_ptr<P11KitUri, decltype(&p11_kit_uri_free)> parsed(p11_kit_uri_new(), p11_kit_uri_free);
  int result = p11_kit_uri_parse(uri.c_str(), P11_KIT_URI_FOR_ANY, parsed.get());
  if (result != P11_KIT_URI_OK)
    return Error(
        v1::REASON_CONFIG_INVALID,
        fmt::format("not a PKCS#11 URI: {}", p11_kit_uri_message(static_cast<P11KitUriResult>(result))));
  auto text = [](const char* value) { return std::string(value != nullptr ? value : ""); };
  if (*text(p11_kit_uri_get_pin_value(parsed.get())).c_str() != '\0')
    return Error(v1::REASON_CONFIG_INVALID, "a PIN does not belong in a URI; use pin_file");
  const CK_TOKEN_INFO* info = p11_kit_uri_get_token_info(parsed.get());
  TokenUri out;
  out.module_path = text(p11_kit_uri_get_module_path(parsed.get()));
  out.pin_source = text(p11_kit_uri_get_pin_source(parsed.get()));
  if (out.pin_source.starts_with("file:")) out.pin_source.erase(0, 5);
  out.label = Padded(info->label, sizeof info->label);
  out.serial = Padded(info->serialNumber, sizeof info->serialNumber);
  return out;
}

absl::StatusOr<std::unique_ptr<Library>> Library::Load(const LibraryOptions& options) {
  for (const auto& [name, value] : options.environment) setenv(name.c_str(), value.c_str(), 1);
  if (options.path.empty()) return Error(v1::REASON_CONFIG_INVALID, "no PKCS#11 module is configured");
  void* handle = dlopen(options.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    return Error(v1::REASON_CONFIG_INVALID, fmt::format("cannot load the PKCS#11 module: {}", dlerror()));
  auto get_list = reinterpret_cast<CK_C_GetFunctionList>(dlsym(handle, "C_GetFunctionList"));
  CK_FUNCTION_LIST* functions = nullptr;
  if (get_list == nullptr || get_list(&functions) != CKR_OK || functions == nullptr)
    return Error(v1::REASON_CONFIG_INVALID, fmt::format("{} is not a PKCS#11 module", options.path));

  CK_C_INITIALIZE_ARGS arguments = {};
  arguments.flags = CKF_OS_LOCKING_OK;
  std::string reserved = options.init_args;
  if (!reserved.empty()) arguments.pReserved = reserved.data();
  CK_RV rv = functions->C_Initialize(&arguments);
  std::unique_ptr<Library> library(new Library(functions, options.path));
  library->initialized_here_ = rv == CKR_OK;
  if (rv == CKR_OK) std::atexit(NoteExit);
  if (rv != CKR_CRYPTOKI_ALREADY_INITIALIZED) HSM_RETURN_IF_ERROR(FromRv(rv, "C_Initialize"));
  return library;
}

bool Library::Usable() { return !exiting; }

void Library::Finalize() {
  if (initialized_here_ && Usable()) functions_->C_Finalize(nullptr);
  initialized_here_ = false;
}

}  // namespace hsm::pkcs11
