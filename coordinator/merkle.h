#pragma once
// A Merkle tree over leaves that come one by one, hashed as RFC 6962 section 2.1 says: leaf SHA-256(0x00 ||
// data), node SHA-256(0x01 || left || right), no leaves SHA-256(""). Memory grows with the logarithm of the
// number of leaves. Not thread-safe.
#include <array>
#include <cstdint>
#include <vector>

#include "common/bytes.h"

namespace hsm {

using Sha256Hash = std::array<uint8_t, 32>;

class MerkleTree {
 public:
  void Add(ByteView leaf);
  Sha256Hash Root() const;
  uint64_t leaves() const { return leaves_; }

 private:
  struct Subtree {
    Sha256Hash hash;
    uint64_t leaves;  // a power of two, falling from left to right
  };
  std::vector<Subtree> subtrees_;
  uint64_t leaves_ = 0;
};

}  // namespace hsm
