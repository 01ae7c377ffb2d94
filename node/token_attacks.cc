#include "node/token_attacks.h"

#include <fmt/format.h>

#include <functional>

#include "common/error.h"
#include "common/status_macros.h"
#include "node/token_templates.h"

namespace hsm {
namespace {

using pkcs11::Mechanism;
using pkcs11::Session;
using pkcs11::Template;

const KeySpec kOct256{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
constexpr std::string_view kIv = "0123456789abcdef";

class SelfTest {
 public:
  SelfTest(Session& session, const KekSet& keks, CK_MECHANISM_TYPE kwp)
      : session_(session), keks_(keks), kwp_(kwp) {}

  std::vector<SelfTestCheck> Run() {
    absl::Status ready = Prepare();
    Must("replicated-key-round-trip", ready);
    if (ready.ok()) {
      CheckAttributes();
      CheckKekUse();
      CheckUnwrapping();
      CheckReplicatedKey();
      CheckUntrustedKeys();
      CheckBlobs();
    }
    for (CK_OBJECT_HANDLE object : made_) (void)session_.DestroyObject(object);
    return std::move(checks_);
  }

 private:
  void Must(std::string name, const absl::Status& status) {
    checks_.push_back({std::move(name), status.ok(), std::string(status.message())});
  }
  // An attack: `tried` must have failed. A device or an object that is gone refuses
  // everything, which proves nothing.
  void Refused(std::string name, const absl::Status& tried) {
    pkcs11::RvClass klass = pkcs11::ClassOf(pkcs11::RvOf(tried));
    bool device = klass == pkcs11::RvClass::kDevice || klass == pkcs11::RvClass::kHandle ||
                  klass == pkcs11::RvClass::kSession;
    bool passed = !tried.ok() && !device;
    checks_.push_back({std::move(name), passed,
                       passed   ? ""
                       : device ? "the device failed"
                                : "the token allowed it"});
  }
  // An attack that makes an object when it succeeds.
  void RefusedObject(std::string name, const absl::StatusOr<CK_OBJECT_HANDLE>& tried) {
    if (tried.ok()) (void)session_.DestroyObject(*tried);
    Refused(std::move(name), tried.status());
  }

  absl::StatusOr<CK_OBJECT_HANDLE> Keep(absl::StatusOr<CK_OBJECT_HANDLE> object) {
    if (object.ok()) made_.push_back(*object);
    return object;
  }

  Template Replicated(KeyUse use) {
    return ObjectTemplate(kOct256, {use, 0}).Text(CKA_LABEL, "qhsm:probe:self-test");
  }
  Template ReplicatedUnwrapped() { return Replicated(KeyUse::kTransit).Merge(KindTemplate(kOct256, {})); }

  // A key of the user's own with every use, under no KEK's rules.
  Template OwnKey() {
    return Template()
        .Bool(CKA_TOKEN, false)
        .Bool(CKA_PRIVATE, true)
        .Bool(CKA_ENCRYPT, true)
        .Bool(CKA_DECRYPT, true)
        .Bool(CKA_WRAP, true)
        .Bool(CKA_UNWRAP, true)
        .Bool(CKA_EXTRACTABLE, true)
        .Text(CKA_LABEL, "qhsm:probe:own");
  }

  absl::Status Prepare() {
    Template generated = Replicated(KeyUse::kTransit).Ulong(CKA_VALUE_LEN, 32);
    HSM_ASSIGN_OR_RETURN(key_, Keep(session_.GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), generated)));
    HSM_ASSIGN_OR_RETURN(blob_, session_.Wrap(Mechanism::Plain(kwp_), keks_[Kek::kReplication], key_));
    HSM_ASSIGN_OR_RETURN(copy_, Keep(session_.Unwrap(Mechanism::Plain(kwp_), keks_[Kek::kReplication], blob_,
                                                     ReplicatedUnwrapped())));
    HSM_ASSIGN_OR_RETURN(Bytes again, session_.Wrap(Mechanism::Plain(kwp_), keks_[Kek::kReplication], copy_));
    if (!EqualConstantTime(again, blob_)) return Error(v1::REASON_TOKEN_FAILED, "another key came back");
    HSM_ASSIGN_OR_RETURN(own_, Keep(session_.GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN),
                                                         OwnKey().Ulong(CKA_VALUE_LEN, 32))));
    return absl::OkStatus();
  }

  void CheckAttributes() {
    absl::Status status;
    for (Kek kek : {Kek::kReplication, Kek::kBackup}) {
      auto expect = [&](CK_ATTRIBUTE_TYPE type, bool wanted, const char* name) {
        auto is = session_.BoolAttribute(keks_[kek], type);
        if (!is.ok() || *is != wanted)
          status = Error(v1::REASON_SELF_TEST_FAILED, fmt::format("{} is not {}", name, wanted));
      };
      expect(CKA_PRIVATE, true, "PRIVATE");
      expect(CKA_SENSITIVE, true, "SENSITIVE");
      expect(CKA_TRUSTED, true, "TRUSTED");
      expect(CKA_WRAP_WITH_TRUSTED, true, "WRAP_WITH_TRUSTED");
      expect(CKA_MODIFIABLE, false, "MODIFIABLE");
      for (CK_ATTRIBUTE_TYPE use : {CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_DERIVE})
        expect(use, false, "a use");
    }
    Must("kek-attributes", status);
  }

  void CheckKekUse() {
    for (Kek kek : {Kek::kReplication, Kek::kBackup}) {
      const char* name = kek == Kek::kReplication ? "replication" : "backup";
      for (Kek under : {Kek::kReplication, Kek::kBackup})
        Refused(fmt::format("wrap-{}-kek-under-{}-kek", name,
                            under == Kek::kReplication ? "replication" : "backup"),
                session_.Wrap(Mechanism::Plain(kwp_), keks_[under], keks_[kek]).status());
      Refused(fmt::format("wrap-{}-kek-under-untrusted-key", name),
              session_.Wrap(Mechanism::Plain(kwp_), own_, keks_[kek]).status());
      Refused(fmt::format("read-{}-kek", name), session_.Attribute(keks_[kek], CKA_VALUE).status());
      for (CK_MECHANISM_TYPE cipher : {CKM_AES_ECB, CKM_AES_CBC}) {
        Mechanism mechanism =
            cipher == CKM_AES_ECB ? Mechanism::Plain(cipher) : Mechanism::Iv(cipher, View(kIv));
        Refused(fmt::format("decrypt-by-{}-kek-{}", name, cipher == CKM_AES_ECB ? "ecb" : "cbc"),
                session_.Decrypt(std::move(mechanism), keks_[kek], View(kIv)).status());
      }
      Refused(fmt::format("make-{}-kek-decrypt", name),
              session_.SetAttributes(keks_[kek], Template().Bool(CKA_DECRYPT, true)));
      Refused(
          fmt::format("untie-{}-kek-mechanisms", name),
          session_.SetAttributes(keks_[kek], Template().Mechanisms(std::array{kwp_, CK_ULONG{CKM_AES_ECB}})));
      RefusedObject(fmt::format("copy-{}-kek", name),
                    session_.CopyObject(keks_[kek], Template().Bool(CKA_TOKEN, false)));
    }
  }

  void CheckUnwrapping() {
    auto unwrap = [&](Template change) {
      return session_.Unwrap(Mechanism::Plain(kwp_), keks_[Kek::kReplication], blob_,
                             ReplicatedUnwrapped().Merge(change));
    };
    RefusedObject("unwrap-public", unwrap(Template().Bool(CKA_PRIVATE, false)));
    RefusedObject("unwrap-to-token", unwrap(Template().Bool(CKA_TOKEN, true)));
    RefusedObject("unwrap-readable", unwrap(Template().Bool(CKA_SENSITIVE, false)));
    RefusedObject("unwrap-untied", unwrap(Template().Bool(CKA_WRAP_WITH_TRUSTED, false)));
    RefusedObject("unwrap-copyable", unwrap(Template().Bool(CKA_COPYABLE, true)));
    RefusedObject("unwrap-trusted", unwrap(Template().Bool(CKA_TRUSTED, true)));
    Template bare = Template().Bool(CKA_TOKEN, false).Merge(KindTemplate(kOct256, {}));
    // The standard lets a token refuse this or fill in the KEK's template.
    auto filled = session_.Unwrap(Mechanism::Plain(kwp_), keks_[Kek::kReplication], blob_, bare);
    bool safe = true;
    if (filled.ok()) {
      for (CK_ATTRIBUTE_TYPE must : {CKA_SENSITIVE, CKA_WRAP_WITH_TRUSTED, CKA_PRIVATE})
        safe = safe && session_.BoolAttribute(*filled, must).value_or(false);
      (void)session_.DestroyObject(*filled);
    }
    Must("unwrap-without-template",
         safe ? absl::OkStatus() : Error(v1::REASON_SELF_TEST_FAILED, "an open key"));
  }

  void CheckReplicatedKey() {
    RefusedObject("copy-replicated-key", session_.CopyObject(copy_, Template().Bool(CKA_TOKEN, true)));
    RefusedObject("copy-replicated-key-to-session",
                  session_.CopyObject(copy_, Template().Bool(CKA_TOKEN, false)));
    Refused("read-replicated-key", session_.Attribute(copy_, CKA_VALUE).status());
    Refused("make-replicated-key-readable",
            session_.SetAttributes(copy_, Template().Bool(CKA_SENSITIVE, false)));
    Refused("untie-replicated-key",
            session_.SetAttributes(copy_, Template().Bool(CKA_WRAP_WITH_TRUSTED, false)));
  }

  void CheckUntrustedKeys() {
    for (CK_MECHANISM_TYPE mechanism : {kwp_, CK_MECHANISM_TYPE{CKM_AES_KEY_WRAP}})
      Refused(fmt::format("wrap-replicated-key-under-untrusted-key-{:#x}", mechanism),
              session_.Wrap(Mechanism::Plain(mechanism), own_, copy_).status());
    Refused("user-sets-trusted", session_.SetAttributes(own_, Template().Bool(CKA_TRUSTED, true)));
    RefusedObject("user-makes-trusted",
                  session_.GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN),
                                       OwnKey().Ulong(CKA_VALUE_LEN, 32).Bool(CKA_TRUSTED, true)));
    RefusedObject("user-copies-to-trusted", session_.CopyObject(own_, Template().Bool(CKA_TRUSTED, true)));
  }

  void CheckBlobs() {
    auto unwrap = [&](ByteView blob) {
      return session_.Unwrap(Mechanism::Plain(kwp_), keks_[Kek::kReplication], blob, ReplicatedUnwrapped());
    };
    Bytes tampered = blob_;
    tampered[tampered.size() / 2] ^= 1;
    RefusedObject("tampered-blob", unwrap(tampered));
    RefusedObject("truncated-blob", unwrap(ByteView(blob_).first(blob_.size() - 8)));
    RefusedObject("blob-of-other-kek",
                  session_.Unwrap(Mechanism::Plain(kwp_), keks_[Kek::kBackup], blob_, ReplicatedUnwrapped()));
  }

  Session& session_;
  const KekSet& keks_;
  const CK_MECHANISM_TYPE kwp_;
  std::vector<SelfTestCheck> checks_;
  std::vector<CK_OBJECT_HANDLE> made_;
  CK_OBJECT_HANDLE key_ = CK_INVALID_HANDLE;   // generated
  CK_OBJECT_HANDLE copy_ = CK_INVALID_HANDLE;  // the same, unwrapped: what replication gives
  CK_OBJECT_HANDLE own_ = CK_INVALID_HANDLE;
  Bytes blob_;
};

}  // namespace

std::vector<SelfTestCheck> RunSelfTest(Session& session, const KekSet& keks, CK_MECHANISM_TYPE kwp) {
  return SelfTest(session, keks, kwp).Run();
}

absl::Status SelfTestVerdict(const std::vector<SelfTestCheck>& checks) {
  std::string failed;
  for (const SelfTestCheck& check : checks) {
    if (check.passed) continue;
    if (!failed.empty()) failed += ", ";
    failed += fmt::format("{} ({})", check.name, check.detail);
  }
  return failed.empty() ? absl::OkStatus() : Error(v1::REASON_SELF_TEST_FAILED, failed);
}

}  // namespace hsm
