#pragma once
// The join probe: what a token does, found by doing it, never by its mechanism list or version. The grade
// decides whether a partition may use it: "strong" tokens enforce the KEK's rules themselves; "interop-only"
// ones can wrap and unwrap but would let the host of the node read keys; "no-wrap" ones cannot hold
// replicated keys at all.
#include <string>
#include <vector>

#include "pkcs11/session.h"
#include "pkcs11/slot.h"

namespace hsm::pkcs11 {

enum class ProbeGrade { kStrong, kInteropOnly, kNoWrap };
std::string_view ProbeGradeName(ProbeGrade grade);  // "strong", "interop-only", "no-wrap"

// What a check decides when it fails.
enum class ProbeNeed {
  kInformation,  // an algorithm the token lacks
  kWrap,         // no replica without it
  kEnforcement,  // an attack that the token itself must refuse
};

struct ProbeCheck {
  std::string name;
  ProbeNeed need = ProbeNeed::kInformation;
  bool passed = false;
  std::string detail;
};

struct ProbeReport {
  TokenInfo token;
  CK_MECHANISM_TYPE kwp = 0;  // 0 = none
  std::vector<ProbeCheck> checks;
  ProbeGrade grade = ProbeGrade::kNoWrap;
  std::string ToJson() const;
};

struct ProbeOptions {
  CK_MECHANISM_TYPE kwp = 0;  // 0 = find it
  size_t sessions = 8;        // as many must be open at once
  bool rsa = true;            // RSA key generation takes a while
};

// The user must be logged in. Works on session objects of its own sessions; leaves nothing.
ProbeReport RunProbe(const Library& library, const TokenInfo& token, const ProbeOptions& options);

}  // namespace hsm::pkcs11
