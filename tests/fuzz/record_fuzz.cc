// Bodies of sealed records. Canonical: what decodes encodes to the same bytes, or two nodes could disagree on
// a digest.
#include "common/check.h"
#include "common/record.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {

void Record(ByteView input) {
  if (auto head = DecodeHead(input); head.ok()) {
    HSM_CHECK(Encode(*head) == Bytes(input.begin(), input.end()));
    (void)CheckSpec(head->spec.type, head->spec.curve, head->spec.size_bits);
    (void)OperationsThatFit(head->spec);
  }
  if (auto version = DecodeVersion(input); version.ok()) {
    HSM_CHECK(Encode(*version) == Bytes(input.begin(), input.end()));
  }
}

}  // namespace hsm::fuzz
