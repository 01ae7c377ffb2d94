#pragma once
// The domain KEKs as they lie in a token, and start-up order in it. Used by the node and by the helper.
#include <array>
#include <optional>
#include <string>

#include "node/token.h"
#include "node/token_config.h"
#include "pkcs11/library.h"
#include "pkcs11/session.h"
#include "pkcs11/slot.h"

namespace hsm {

struct KekSet {
  std::array<CK_OBJECT_HANDLE, 2> handles{};  // by Kek
  std::string domain_tag;
  CK_OBJECT_HANDLE operator[](Kek kek) const { return handles[static_cast<size_t>(kek)]; }
};

// Loads the module of `config` (restoring a cut-off token.object first) and gives its options filled from the
// URI.
absl::StatusOr<TokenConfig> ResolveConfig(TokenConfig config);
absl::StatusOr<std::unique_ptr<pkcs11::Library>> LoadModule(const TokenConfig& resolved);

// Destroys what an interrupted call left behind: token objects whose class cannot be read, keys with neither
// label nor id, our own probe objects, and KEKs that cannot wrap. Needs the user's login. Returns how many.
absl::StatusOr<int> RemoveGarbage(pkcs11::Session& session, CK_MECHANISM_TYPE kwp);

// The one complete pair of KEKs; nothing if there is none. CONFLICT if there are pairs of several domains.
absl::StatusOr<std::optional<KekSet>> FindKeks(pkcs11::Session& session);
absl::Status DestroyKeks(pkcs11::Session& session);  // every KEK object of the token

// SHA-256 of the KWP of a public constant under `kek`: equal exactly when the KEKs are equal.
absl::StatusOr<Bytes> KekFingerprintOf(pkcs11::Session& session, CK_OBJECT_HANDLE kek, CK_MECHANISM_TYPE kwp);

}  // namespace hsm
