#include "common/sp800_108.h"

#include <openssl/hmac.h>

#include "common/check.h"

namespace hsm {

SecretBytes DeriveSp800108(const SecretBytes& key, std::string_view label, std::string_view context,
                           size_t size) {
  HSM_CHECK(!key.empty() && size > 0 && size <= kSp800108BytesMax);
  Bytes input = {0, 0, 0, 1};
  input.insert(input.end(), label.begin(), label.end());
  input.push_back(0);
  input.insert(input.end(), context.begin(), context.end());
  for (int shift = 24; shift >= 0; shift -= 8) input.push_back(static_cast<uint8_t>(8 * size >> shift));
  SecretBytes block(kSp800108BytesMax);
  unsigned made = 0;
  HSM_CHECK(HMAC(EVP_sha512(), key.Expose().data(), static_cast<int>(key.size()), input.data(), input.size(),
                 block.ExposeForWriting().data(), &made) != nullptr);
  HSM_CHECK(made == kSp800108BytesMax);
  return SecretBytes(
      Bytes(block.Expose().begin(), block.Expose().begin() + static_cast<std::ptrdiff_t>(size)));
}

}  // namespace hsm
