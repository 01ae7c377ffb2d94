#pragma once
// For std::unique_ptr over a C library's objects: Deleter<EVP_PKEY_CTX_free>.

namespace hsm {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};

}  // namespace hsm
