#include "pkcs11/token_login.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/error.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm::pkcs11 {

absl::StatusOr<SecretBytes> ReadPinFile(const std::string& path) {
  constexpr size_t kPinBytesMax = 255;
  if (path.empty()) return Error(v1::REASON_CONFIG_INVALID, "no PIN file is configured");
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Error(v1::REASON_CONFIG_INVALID, "cannot open the PIN file " + path);
  SecretBytes buffer(kPinBytesMax + 2);
  ssize_t size = read(fd, buffer.ExposeForWriting().data(), buffer.size());
  close(fd);
  if (size < 0) return Error(v1::REASON_CONFIG_INVALID, "cannot read the PIN file " + path);
  ByteView pin = buffer.Expose().first(static_cast<size_t>(size));
  if (!pin.empty() && pin.back() == '\n') pin = pin.first(pin.size() - 1);
  if (pin.empty() || pin.size() > kPinBytesMax)
    return Error(v1::REASON_CONFIG_INVALID, "a PIN has 1 to 255 bytes: " + path);
  return SecretBytes(Bytes(pin.begin(), pin.end()));
}

absl::Status TokenLogin::Login(Session& session, CK_USER_TYPE user, const SecretBytes& pin) {
  bool& tried = user == CKU_SO ? so_tried_ : user_tried_;
  if (tried && !HSM_MUTANT("pin-tried-again"))
    return Error(v1::REASON_PIN_INCORRECT, "the PIN is tried once per start");
  HSM_ASSIGN_OR_RETURN(TokenInfo info, ReadTokenInfo(library_, slot_));
  const CK_FLAGS danger = user == CKU_SO ? CKF_SO_PIN_FINAL_TRY | CKF_SO_PIN_LOCKED
                                         : CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED;
  if (info.flags & danger)
    return Error(v1::REASON_PIN_INCORRECT, "the token is locked or one try away from it: unlock it by hand");
  if (info.IsSoftHsm()) HSM_RETURN_IF_ERROR(SoftHsmFiles::FromEnvironment().KeepCopies());
  tried = true;
  ByteView bytes = pin.Expose();
  CK_RV rv = library_->C_Login(session.handle(), user, const_cast<CK_BYTE*>(bytes.data()), bytes.size());
  // Whether the PIN was right is unknown then: a second C_Login with a wrong PIN gives the same answer.
  if (rv == CKR_USER_ALREADY_LOGGED_IN || rv == CKR_USER_ANOTHER_ALREADY_LOGGED_IN)
    return Error(v1::REASON_CONFLICT, "this process is logged in to the token already");
  return FromRv(rv, "C_Login");
}

absl::Status TokenLogin::Logout(Session& session) {
  return FromRv(library_->C_Logout(session.handle()), "C_Logout");
}

}  // namespace hsm::pkcs11
