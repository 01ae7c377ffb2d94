#pragma once
// The attacks of DESIGN 4 on a token that holds domain keys. Each must be refused by the token itself.
#include <string>
#include <vector>

#include "node/kek_store.h"

namespace hsm {

struct SelfTestCheck {
  std::string name;  // "wrap-kek-under-kek"
  bool passed = false;
  std::string detail;  // of a failed check
};

// Runs every check on a session of its own, logged in as the user; leaves no object behind.
std::vector<SelfTestCheck> RunSelfTest(pkcs11::Session& session, const KekSet& keks, CK_MECHANISM_TYPE kwp);

// OK, or SELF_TEST_FAILED naming each failed check.
absl::Status SelfTestVerdict(const std::vector<SelfTestCheck>& checks);

}  // namespace hsm
