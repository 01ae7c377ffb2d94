// JSON documents. What parses is written and parses again to the same text.
#include "common/check.h"
#include "common/json.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {

void JsonText(ByteView input) {
  auto value = Json::Parse(StringView(input));
  if (!value.ok()) return;
  const std::string text = value->Dump();
  auto again = Json::Parse(text);
  HSM_CHECK(again.ok());
  HSM_CHECK(again->Dump() == text);
  (void)value->Dump(2);
}

}  // namespace hsm::fuzz
