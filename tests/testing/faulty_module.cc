// A PKCS#11 module for tests: SoftHSM, until a file beside $SOFTHSM2_CONF says otherwise. While `fault-hang`
// is there, C_Sign does not come back; while `fault-lie` is there, one bit of each signature longer than a
// MAC is wrong.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "pkcs11/cryptoki.h"

namespace {

CK_FUNCTION_LIST* real = nullptr;
CK_FUNCTION_LIST ours;

bool Fault(const char* name) {
  const char* configuration = std::getenv("SOFTHSM2_CONF");
  if (configuration == nullptr) return false;
  std::string path = configuration;
  return access((path.substr(0, path.rfind('/') + 1) + name).c_str(), F_OK) == 0;
}

CK_RV Sign(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG data_size, CK_BYTE_PTR signature,
           CK_ULONG_PTR size) {
  while (Fault("fault-hang")) usleep(20'000);
  CK_RV result = real->C_Sign(session, data, data_size, signature, size);
  if (result == CKR_OK && signature != nullptr && *size > 32 && Fault("fault-lie")) signature[*size / 2] ^= 1;
  return result;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list) {
  if (real == nullptr) {
    void* library = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return CKR_GENERAL_ERROR;
    auto get = reinterpret_cast<CK_RV (*)(CK_FUNCTION_LIST_PTR_PTR)>(dlsym(library, "C_GetFunctionList"));
    if (get == nullptr || get(&real) != CKR_OK) return CKR_GENERAL_ERROR;
    ours = *real;
    ours.C_Sign = Sign;
  }
  *list = &ours;
  return CKR_OK;
}
