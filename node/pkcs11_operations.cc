// The use of keys: Pkcs11Token's calls that sign, encrypt and decrypt.
#include "common/status_macros.h"
#include "node/key_encoding.h"
#include "node/pkcs11_token_impl.h"
#include "node/token_templates.h"

namespace hsm {

using pkcs11::Mechanism;
using pkcs11::Session;
using pkcs11::Template;

namespace {

CK_MECHANISM_TYPE HashMechanism(Hash hash) {
  switch (hash) {
    case Hash::kSha1:
      return CKM_SHA_1;
    case Hash::kSha384:
      return CKM_SHA384;
    case Hash::kSha512:
      return CKM_SHA512;
    default:
      return CKM_SHA256;
  }
}

CK_MECHANISM_TYPE HmacMechanism(Hash hash) {
  switch (hash) {
    case Hash::kSha384:
      return CKM_SHA384_HMAC;
    case Hash::kSha512:
      return CKM_SHA512_HMAC;
    default:
      return CKM_SHA256_HMAC;
  }
}

bool IsPss(v1::Algorithm algorithm) {
  return algorithm == v1::ALGORITHM_PS256 || algorithm == v1::ALGORITHM_PS384 ||
         algorithm == v1::ALGORITHM_PS512;
}

absl::Status DecryptionFailed() { return Error(v1::REASON_DECRYPTION_FAILED, "decryption failed"); }

// RFC 3394 works on the key's bytes as a session object of its own, for as long as the call takes.
Template PlaintextKeyTemplate() {
  return Template()
      .Ulong(CKA_CLASS, CKO_SECRET_KEY)
      .Ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET)
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_PRIVATE, true)
      .Bool(CKA_EXTRACTABLE, true)
      .Bool(CKA_SENSITIVE, false)
      .Bool(CKA_SIGN, false)
      .Bool(CKA_VERIFY, false)
      .Bool(CKA_ENCRYPT, false)
      .Bool(CKA_DECRYPT, false)
      .Bool(CKA_WRAP, false)
      .Bool(CKA_UNWRAP, false)
      .Bool(CKA_DERIVE, false);
}

}  // namespace

absl::StatusOr<CK_OBJECT_HANDLE> Pkcs11Token::Impl::HmacHandle(Object& object) {
  if (object.policy.use == KeyUse::kRecordMac) return object.handle.load();
  if (CK_OBJECT_HANDLE known = object.hmac_handle; known != CK_INVALID_HANDLE) return known;
  Bytes blob = object.blob;
  if (blob.empty()) {
    HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE kek, KekHandle(Kek::kReplication));
    HSM_ASSIGN_OR_RETURN(SessionPool::Lease lease, pool.Take());
    HSM_ASSIGN_OR_RETURN(blob, lease->Wrap(Mechanism::Plain(kwp), kek, object.handle));
  }
  HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE made, UnwrapObject(object.kek, blob, HmacTemplate()));
  CK_OBJECT_HANDLE expected = CK_INVALID_HANDLE;
  if (object.hmac_handle.compare_exchange_strong(expected, made)) return made;
  DestroyHandle(made);
  return expected;
}

absl::StatusOr<Bytes> Pkcs11Token::Sign(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                                        ByteView data) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kSign, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckSignInput(spec, algorithm, data));
  if (!(spec == object->spec)) return Error(v1::REASON_ALGORITHM_MISMATCH, "the key is of another kind");
  const Hash hash = HashOf(algorithm);
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) -> absl::StatusOr<Bytes> {
    switch (spec.type) {
      case v1::KEY_TYPE_OCT_HSM: {
        HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE hmac, impl_->HmacHandle(*object));
        return session.Sign(Mechanism::Plain(HmacMechanism(hash)), hmac, data);
      }
      case v1::KEY_TYPE_EC_HSM:
        return session.Sign(Mechanism::Plain(CKM_ECDSA), handle, data);
      default:
        // No module here hashes and signs in one mechanism for all algorithms; all of them take DigestInfo.
        if (!IsPss(algorithm))
          return session.Sign(Mechanism::Plain(CKM_RSA_PKCS), handle, DigestInfo(hash, data));
        return session.Sign(Mechanism::Pss(HashMechanism(hash), HashBytes(hash)), handle, data);
    }
  });
}

absl::StatusOr<SecretBytes> Pkcs11Token::RsaDecrypt(TokenKey key, const KeySpec& spec,
                                                    v1::Algorithm algorithm, ByteView ciphertext) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kRsaDecrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckRsaDecryptInput(object->spec, algorithm, ciphertext));
  if (!(spec == object->spec)) return Error(v1::REASON_ALGORITHM_MISMATCH, "the key is of another kind");
  const Hash hash = HashOf(algorithm);
  const bool oaep_sha256 = algorithm == v1::ALGORITHM_RSA_OAEP_256;

  if (algorithm == v1::ALGORITHM_RSA1_5 || !oaep_sha256 || impl_->oaep_sha256 != Impl::Known::kNo) {
    bool refused = false;
    auto plain = impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
      Mechanism mechanism = algorithm == v1::ALGORITHM_RSA1_5 ? Mechanism::Plain(CKM_RSA_PKCS)
                                                              : Mechanism::Oaep(HashMechanism(hash));
      return session.Decrypt(std::move(mechanism), handle, ciphertext, &refused);
    });
    if (plain.ok() || !refused || !oaep_sha256) return plain;
    pkcs11::RvClass klass = pkcs11::ClassOf(pkcs11::RvOf(plain.status()));
    if (klass != pkcs11::RvClass::kUnsupported && klass != pkcs11::RvClass::kRequest) return plain;
    impl_->oaep_sha256 = Impl::Known::kNo;
  }
  // The private operation happens in the token, the unpadding here.
  auto raw = impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
    return session.Decrypt(Mechanism::Plain(CKM_RSA_X_509), handle, ciphertext);
  });
  HSM_RETURN_IF_ERROR(raw.status());
  const size_t size = object->spec.size_bits / 8;
  if (raw->size() > size) return DecryptionFailed();
  SecretBytes encoded(size);  // leading zeros may be missing
  std::copy(raw->Expose().begin(), raw->Expose().end(),
            encoded.ExposeForWriting().begin() + static_cast<std::ptrdiff_t>(size - raw->size()));
  return OaepDecode(hash, encoded.Expose());
}

absl::StatusOr<Bytes> Pkcs11Token::Impl::DrawIv(Session& session) {
  constexpr size_t kIvBytes = 12, kIvsDrawn = 64;
  {
    MutexLock lock(ivs_mutex);
    if (!ivs.empty()) {
      Bytes iv(ivs.end() - kIvBytes, ivs.end());
      ivs.resize(ivs.size() - kIvBytes);
      return iv;
    }
  }
  HSM_ASSIGN_OR_RETURN(Bytes drawn, session.Random(kIvBytes * kIvsDrawn));
  Bytes iv(drawn.end() - kIvBytes, drawn.end());
  drawn.resize(drawn.size() - kIvBytes);
  MutexLock lock(ivs_mutex);
  ivs = std::move(drawn);  // of two who drew at once, one's are dropped
  return iv;
}

absl::StatusOr<GcmResult> Pkcs11Token::GcmEncrypt(TokenKey key, ByteView plaintext, ByteView aad) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kGcmEncrypt, object->spec, object->policy));
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) -> absl::StatusOr<GcmResult> {
    constexpr size_t kTagBytes = 16;
    HSM_ASSIGN_OR_RETURN(Bytes iv, impl_->DrawIv(session));
    Mechanism mechanism = Mechanism::Gcm(iv, aad, 8 * kTagBytes);
    GcmResult result;
    HSM_ASSIGN_OR_RETURN(result.ciphertext, session.Encrypt(mechanism, handle, plaintext));
    if (result.ciphertext.size() != plaintext.size() + kTagBytes)
      return Error(v1::REASON_UNSUPPORTED, "the token appends more than a tag to GCM ciphertexts");
    result.tag.assign(result.ciphertext.end() - kTagBytes, result.ciphertext.end());
    result.ciphertext.resize(plaintext.size());
    ByteView used = mechanism.UsedIv();  // some tokens put their own there
    result.iv.assign(used.begin(), used.end());
    return result;
  });
}

absl::StatusOr<SecretBytes> Pkcs11Token::GcmDecrypt(TokenKey key, ByteView ciphertext, ByteView iv,
                                                    ByteView tag, ByteView aad) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kGcmDecrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckGcmInput(iv, tag));
  Bytes sealed(ciphertext.begin(), ciphertext.end());
  sealed.insert(sealed.end(), tag.begin(), tag.end());
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
    return session.Decrypt(Mechanism::Gcm(iv, aad, 8 * tag.size()), handle, sealed);
  });
}

absl::StatusOr<Bytes> Pkcs11Token::CbcEncrypt(TokenKey key, ByteView plaintext, ByteView iv, bool pad) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kCbcEncrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckCbcInput(plaintext, iv, pad, false));
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
    Mechanism mechanism = Mechanism::Iv(pad ? CKM_AES_CBC_PAD : CKM_AES_CBC, iv);
    return session.Encrypt(mechanism, handle, plaintext);
  });
}

absl::StatusOr<SecretBytes> Pkcs11Token::CbcDecrypt(TokenKey key, ByteView ciphertext, ByteView iv,
                                                    bool pad) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kCbcDecrypt, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckCbcInput(ciphertext, iv, pad, true));
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
    return session.Decrypt(Mechanism::Iv(pad ? CKM_AES_CBC_PAD : CKM_AES_CBC, iv), handle, ciphertext);
  });
}

absl::StatusOr<Bytes> Pkcs11Token::KeyWrap(TokenKey key, ByteView plaintext_key) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kKeyWrap, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckKeyWrapInput(plaintext_key));
  CK_OBJECT_HANDLE value = CK_INVALID_HANDLE;
  {
    MutexLock lock(impl_->mutations);
    HSM_ASSIGN_OR_RETURN(value,
                         impl_->keeper.CreateObject(PlaintextKeyTemplate().Data(CKA_VALUE, plaintext_key)));
  }
  auto wrapped = impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
    return session.Wrap(Mechanism::Plain(CKM_AES_KEY_WRAP), handle, value);
  });
  impl_->DestroyHandle(value);
  return wrapped;
}

absl::StatusOr<SecretBytes> Pkcs11Token::KeyUnwrap(TokenKey key, ByteView wrapped) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kKeyUnwrap, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckKeyUnwrapInput(wrapped));
  return impl_->Run(*object, [&](Session&, CK_OBJECT_HANDLE handle) -> absl::StatusOr<SecretBytes> {
    MutexLock lock(impl_->mutations);
    auto made =
        impl_->keeper.Unwrap(Mechanism::Plain(CKM_AES_KEY_WRAP), handle, wrapped, PlaintextKeyTemplate());
    if (!made.ok()) {
      pkcs11::RvClass klass = pkcs11::ClassOf(pkcs11::RvOf(made.status()));
      if (klass == pkcs11::RvClass::kBadInput || klass == pkcs11::RvClass::kAmbiguous)
        return TokenError(v1::REASON_DECRYPTION_FAILED, pkcs11::RvOf(made.status()), "C_UnwrapKey");
      return made.status();
    }
    auto value = impl_->keeper.Attribute(*made, CKA_VALUE);
    (void)impl_->keeper.DestroyObject(*made);
    HSM_RETURN_IF_ERROR(value.status());
    if (value->size() != wrapped.size() - 8) return DecryptionFailed();
    return SecretBytes(*std::move(value));
  });
}

absl::StatusOr<Bytes> Pkcs11Token::Hmac(TokenKey key, ByteView data) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kHmac, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckMacInput(data, kHmacBytesMax));
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE) -> absl::StatusOr<Bytes> {
    HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE hmac, impl_->HmacHandle(*object));
    return session.Sign(Mechanism::Plain(CKM_SHA256_HMAC), hmac, data);
  });
}

absl::StatusOr<Bytes> Pkcs11Token::Cmac(TokenKey key, ByteView data) {
  HSM_ASSIGN_OR_RETURN(Impl::ObjectPtr object, impl_->Find(key));
  HSM_RETURN_IF_ERROR(CheckUse(TokenCall::kCmac, object->spec, object->policy));
  HSM_RETURN_IF_ERROR(CheckMacInput(data, kCmacBytesMax));
  return impl_->Run(*object, [&](Session& session, CK_OBJECT_HANDLE handle) {
    return session.Sign(Mechanism::Plain(CKM_AES_CMAC), handle, data);
  });
}

absl::StatusOr<Bytes> Pkcs11Token::RandomBytes(size_t size) {
  HSM_RETURN_IF_ERROR(CheckRandomSize(size));
  HSM_ASSIGN_OR_RETURN(SessionPool::Lease lease, impl_->pool.Take());
  return lease->Random(size);
}

}  // namespace hsm
