#pragma once
// The only place that logs in and out. Login is a state of the token, shared by all sessions of the process.
#include "absl/status/status.h"
#include "common/secret.h"
#include "pkcs11/session.h"
#include "pkcs11/slot.h"
#include "pkcs11/softhsm_files.h"

namespace hsm::pkcs11 {

// A PIN from a file of at most 255 bytes; one trailing newline is dropped. CONFIG_INVALID.
absl::StatusOr<SecretBytes> ReadPinFile(const std::string& path);

// Not thread-safe. One per token and process.
class TokenLogin {
 public:
  TokenLogin(const Library& library, CK_SLOT_ID slot) : library_(library), slot_(slot) {}

  // Logs in on `session`. Each of the two PINs is tried at most once in the life of this object, whatever the
  // outcome; a token that says that one more failure locks it is not asked at all. A copy of SoftHSM's
  // token.object is kept first. PIN_INCORRECT; CONFLICT if somebody is logged in already, since the token
  // then does not check the PIN.
  absl::Status Login(Session& session, CK_USER_TYPE user, const SecretBytes& pin);

  // Ends the login of all sessions; private session objects die, public ones stay.
  absl::Status Logout(Session& session);

 private:
  const Library& library_;
  const CK_SLOT_ID slot_;
  bool user_tried_ = false;
  bool so_tried_ = false;
};

}  // namespace hsm::pkcs11
