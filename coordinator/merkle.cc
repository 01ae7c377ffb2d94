#include "coordinator/merkle.h"

#include <openssl/evp.h>

#include <span>

#include "common/check.h"

namespace hsm {
namespace {

// Several parts hashed one after the other, without joining them first.
Sha256Hash HashParts(std::initializer_list<ByteView> parts) {
  Sha256Hash out;
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  HSM_CHECK(context != nullptr && EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1);
  for (ByteView part : parts) HSM_CHECK(EVP_DigestUpdate(context, part.data(), part.size()) == 1);
  HSM_CHECK(EVP_DigestFinal_ex(context, out.data(), nullptr) == 1);
  EVP_MD_CTX_free(context);
  return out;
}

constexpr uint8_t kLeaf[] = {0};
constexpr uint8_t kNode[] = {1};

}  // namespace

void MerkleTree::Add(ByteView leaf) {
  subtrees_.push_back({HashParts({kLeaf, leaf}), 1});
  ++leaves_;
  while (subtrees_.size() >= 2 && subtrees_[subtrees_.size() - 2].leaves == subtrees_.back().leaves) {
    const Subtree right = subtrees_.back();
    subtrees_.pop_back();
    Subtree& left = subtrees_.back();
    left = {HashParts({kNode, left.hash, right.hash}), left.leaves * 2};
  }
}

Sha256Hash MerkleTree::Root() const {
  if (subtrees_.empty()) return HashParts({});
  Sha256Hash hash = subtrees_.back().hash;
  for (size_t i = subtrees_.size() - 1; i-- > 0;) hash = HashParts({kNode, subtrees_[i].hash, hash});
  return hash;
}

}  // namespace hsm
