#pragma once
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bytes.h"
#include "common/secret.h"
#include "pkcs11/attributes.h"
#include "pkcs11/library.h"
#include "pkcs11/mechanism.h"
#include "pkcs11/rv.h"

namespace hsm::pkcs11 {

struct KeyPair {
  CK_OBJECT_HANDLE public_key = CK_INVALID_HANDLE;
  CK_OBJECT_HANDLE private_key = CK_INVALID_HANDLE;
};

// One open read-write session with a token; closed on destruction. Move-only. Not thread-safe: a session
// holds the operation in progress (C_SignInit .. C_Sign), so it serves one caller at a time
// (node/session_pool.h). It never logs in or out: login state belongs to the token, and C_Logout in a
// destructor would log out every other session of this process. Spec: PKCS#11 v2.40 base, section 5.6.
//
// Output goes into buffers of the largest possible size: opencryptoki overruns short ones, others truncate.
class Session {
 public:
  // Read-write: a read-only session would keep the SO from logging in.
  static absl::StatusOr<Session> Open(const Library& library, CK_SLOT_ID slot);
  Session(Session&& other) noexcept
      : library_(other.library_),
        handle_(std::exchange(other.handle_, CK_INVALID_HANDLE)),
        poisoned_(other.poisoned_) {}
  Session& operator=(Session&& other) noexcept;
  ~Session();

  CK_SESSION_HANDLE handle() const { return handle_; }
  // An operation failed after its Init, or the session is lost. It may hold half an operation: close it.
  bool poisoned() const { return poisoned_; }
  bool Alive() const;  // C_GetSessionInfo answers

  // --- objects; they belong to this session unless CKA_TOKEN says otherwise ---
  absl::StatusOr<CK_OBJECT_HANDLE> GenerateKey(Mechanism mechanism, Template attributes);
  absl::StatusOr<KeyPair> GenerateKeyPair(Mechanism mechanism, Template public_part, Template private_part);
  absl::StatusOr<CK_OBJECT_HANDLE> CreateObject(Template attributes);
  absl::StatusOr<CK_OBJECT_HANDLE> CopyObject(CK_OBJECT_HANDLE object, Template changes);
  absl::Status DestroyObject(CK_OBJECT_HANDLE object);
  absl::Status SetAttributes(CK_OBJECT_HANDLE object, Template attributes);
  absl::StatusOr<CK_OBJECT_HANDLE> Unwrap(Mechanism mechanism, CK_OBJECT_HANDLE key, ByteView wrapped,
                                          Template attributes);
  absl::StatusOr<Bytes> Wrap(Mechanism mechanism, CK_OBJECT_HANDLE key, CK_OBJECT_HANDLE target);
  absl::StatusOr<std::vector<CK_OBJECT_HANDLE>> Find(Template attributes);  // at most 100,000
  absl::StatusOr<Bytes> Attribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type);
  // Several at once; absent is what the object lacks or does not reveal. At most 512 bytes each.
  absl::StatusOr<std::vector<std::optional<Bytes>>> Attributes(CK_OBJECT_HANDLE object,
                                                               std::span<const CK_ATTRIBUTE_TYPE> types);
  absl::StatusOr<CK_ULONG> UlongAttribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type);
  absl::StatusOr<bool> BoolAttribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type);

  // --- operations ---
  // Signs `data` (a digest for CKM_ECDSA) and returns the token's raw signature bytes. ECDSA gives r||s,
  // big-endian, each half the curve size. Spec: section 5.11.
  absl::StatusOr<Bytes> Sign(Mechanism mechanism, CK_OBJECT_HANDLE key, ByteView data);
  // `mechanism` stays the caller's: a GCM IV may be written back into it.
  absl::StatusOr<Bytes> Encrypt(Mechanism& mechanism, CK_OBJECT_HANDLE key, ByteView plaintext);
  // `refused_at_init`, if given, tells a mechanism the token does not take from a ciphertext that does not
  // open.
  absl::StatusOr<SecretBytes> Decrypt(Mechanism mechanism, CK_OBJECT_HANDLE key, ByteView ciphertext,
                                      bool* refused_at_init = nullptr);
  absl::StatusOr<Bytes> Random(size_t size);

 private:
  Session(const Library* library, CK_SESSION_HANDLE handle) : library_(library), handle_(handle) {}
  void Close();
  absl::Status Checked(CK_RV rv, const char* function, Input input = Input::kOwn);

  const Library* library_;  // outlives this and stays put
  CK_SESSION_HANDLE handle_;
  bool poisoned_ = false;
};

}  // namespace hsm::pkcs11
