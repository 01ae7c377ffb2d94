// The small encodings of identities and command lines: hexadecimal, base64url, names, GUIDs.
#include "common/check.h"
#include "common/ids.h"
#include "common/record.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {

void Text(ByteView input) {
  const std::string_view text = StringView(input);
  if (auto bytes = FromHex(text)) HSM_CHECK(Hex(*bytes).size() == text.size());
  if (auto bytes = FromBase64Url(text)) HSM_CHECK(FromBase64Url(Base64Url(*bytes)) == bytes);
  (void)ParsePrincipal(text);
  (void)KeyUid::From(text);
  (void)ParseCurve(text);
  (void)ParseKeyType(text);
  (void)ParseAlgorithm(text);
  (void)ParseOperation(text);
  (void)CheckKeyName(text);
}

}  // namespace hsm::fuzz
