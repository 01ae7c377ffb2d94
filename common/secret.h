#pragma once
#include <utility>

#include "common/bytes.h"

namespace hsm {

// Bytes that must not be seen: PINs, plaintext the caller sent to be wrapped, AEAD keys. Move-only, wiped
// when destroyed or overwritten, no printing. Opened only by Expose(), so that one grep finds every use.
class SecretBytes {
 public:
  SecretBytes() = default;
  explicit SecretBytes(Bytes bytes) : bytes_(std::move(bytes)) {}
  explicit SecretBytes(size_t size) : bytes_(size) {}
  SecretBytes(SecretBytes&& other) noexcept : bytes_(std::move(other.bytes_)) { other.bytes_.clear(); }
  SecretBytes& operator=(SecretBytes&& other) noexcept;
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes() { Wipe(); }

  ByteView Expose() const { return bytes_; }
  std::span<uint8_t> ExposeForWriting() { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  SecretBytes Clone() const { return SecretBytes(bytes_); }
  bool Equals(ByteView other) const { return EqualConstantTime(bytes_, other); }

 private:
  void Wipe();
  Bytes bytes_;
};

}  // namespace hsm
