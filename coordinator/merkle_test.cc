#include "coordinator/merkle.h"

#include <gtest/gtest.h>

namespace hsm {
namespace {

std::string RootOf(size_t count) {
  // The leaves of the test vectors that Certificate Transparency implementations share.
  const char* leaves[] = {
      "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"};
  MerkleTree tree;
  for (size_t i = 0; i < count; ++i) tree.Add(*FromHex(leaves[i]));
  return Hex(tree.Root());
}

TEST(MerkleTest, RootsAreThoseOfRfc6962) {
  EXPECT_EQ(RootOf(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(RootOf(1), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
  EXPECT_EQ(RootOf(2), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
  EXPECT_EQ(RootOf(3), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
  EXPECT_EQ(RootOf(5), "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4");
  EXPECT_EQ(RootOf(7), "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c");
  EXPECT_EQ(RootOf(8), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
}

TEST(MerkleTest, OrderAndBoundariesOfLeavesMatter) {
  MerkleTree ab, ba, joined;
  ab.Add(View("a"));
  ab.Add(View("b"));
  ba.Add(View("b"));
  ba.Add(View("a"));
  joined.Add(View("ab"));
  EXPECT_NE(ab.Root(), ba.Root());
  EXPECT_NE(ab.Root(), joined.Root());
}

}  // namespace
}  // namespace hsm
