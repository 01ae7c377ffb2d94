#include "pkcs11/probe.h"

#include <fmt/format.h>

#include <functional>

#include "common/error.h"
#include "common/json.h"
#include "common/status_macros.h"
#include "pkcs11/kwp.h"

namespace hsm::pkcs11 {
namespace {

constexpr std::string_view kIv = "0123456789abcdef";

struct Curve {
  const char* name;
  ByteView parameters;
  size_t digest_bytes;
};
constexpr uint8_t kP256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
constexpr uint8_t kP384[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22};
constexpr uint8_t kP521[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23};
constexpr uint8_t kP256K[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a};

absl::Status Wrong(std::string_view what) { return Error(v1::REASON_SELF_TEST_FAILED, what); }

Template NoUse() {
  return Template()
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_PRIVATE, true)
      .Bool(CKA_SENSITIVE, true)
      .Bool(CKA_EXTRACTABLE, true)
      .Bool(CKA_SIGN, false)
      .Bool(CKA_DECRYPT, false)
      .Bool(CKA_DERIVE, false)
      .Bool(CKA_UNWRAP, false)
      .Text(CKA_LABEL, "qhsm:probe:join");
}
Template Secret() { return NoUse().Bool(CKA_ENCRYPT, false).Bool(CKA_VERIFY, false).Bool(CKA_WRAP, false); }
Template PublicPart() {
  return Template().Bool(CKA_TOKEN, false).Bool(CKA_PRIVATE, false).Text(CKA_LABEL, "qhsm:probe:join");
}

class Probe {
 public:
  Probe(const Library& library, ProbeReport& report, const ProbeOptions& options)
      : library_(library), report_(report), options_(options) {}

  void Run() {
    auto session = Session::Open(library_, report_.token.slot);
    Check("session", ProbeNeed::kWrap, session.status());
    if (!session.ok()) return;
    session_ = &*session;
    Randomness();
    Check("kwp", ProbeNeed::kWrap, FindKwp());
    if (report_.kwp != 0) Check("own-kek", ProbeNeed::kWrap, MakeKek());
    Secrets();
    Curves();
    if (options_.rsa) Rsa();
    if (kek_ != CK_INVALID_HANDLE) Attacks();
    Check("sessions", ProbeNeed::kInformation, ManySessions());
    (void)session_->DestroyObject(kek_);
    (void)session_->DestroyObject(plain_kek_);
  }

  ProbeGrade Grade() const {
    ProbeGrade grade = ProbeGrade::kStrong;
    for (const ProbeCheck& check : report_.checks) {
      if (check.passed || check.need == ProbeNeed::kInformation) continue;
      if (check.need == ProbeNeed::kWrap) return ProbeGrade::kNoWrap;
      grade = ProbeGrade::kInteropOnly;
    }
    return grade;
  }

 private:
  void Check(std::string name, ProbeNeed need, const absl::Status& status) {
    report_.checks.push_back({std::move(name), need, status.ok(), std::string(DetailOf(status).message())});
  }
  // The token must refuse. A device or an object that is gone refuses everything, which proves nothing.
  void Refused(std::string name, const absl::Status& tried) {
    RvClass klass = ClassOf(RvOf(tried));
    bool passed =
        !tried.ok() && klass != RvClass::kDevice && klass != RvClass::kHandle && klass != RvClass::kSession;
    report_.checks.push_back(
        {std::move(name), ProbeNeed::kEnforcement, passed, passed ? "" : "the token allowed it"});
  }
  void RefusedObject(std::string name, const absl::StatusOr<CK_OBJECT_HANDLE>& tried) {
    Refused(std::move(name), tried.status());
    if (tried.ok()) (void)session_->DestroyObject(*tried);
  }

  // An operation that fails may leave a session unusable: each check that can has its own.
  absl::Status OnOwnSession(const std::function<absl::Status(Session&)>& body) {
    HSM_ASSIGN_OR_RETURN(Session session, Session::Open(library_, report_.token.slot));
    return body(session);
  }

  void Randomness() {
    auto first = session_->Random(32), second = session_->Random(32);
    absl::Status status = first.status();
    if (status.ok() && (!second.ok() || *first == *second)) status = Wrong("two draws are equal");
    Check("random", ProbeNeed::kWrap, status);
    Check("random-4096", ProbeNeed::kInformation, session_->Random(4096).status());
  }

  absl::Status FindKwp() {
    HSM_ASSIGN_OR_RETURN(report_.kwp, FindKwpMechanism(*session_, options_.kwp));
    return absl::OkStatus();
  }

  // A KEK by the user: all of the domain KEK's rules but TRUSTED, which only an SO can give.
  absl::Status MakeKek() {
    Template unwrap = Template()
                          .Bool(CKA_SENSITIVE, true)
                          .Bool(CKA_WRAP_WITH_TRUSTED, true)
                          .Bool(CKA_PRIVATE, true)
                          .Bool(CKA_TOKEN, false)
                          .Bool(CKA_COPYABLE, false);
    const CK_MECHANISM_TYPE allowed[] = {report_.kwp};
    Template kek = Secret()
                       .Bool(CKA_WRAP, true)
                       .Bool(CKA_UNWRAP, true)
                       .Mechanisms(allowed)
                       .Nested(CKA_UNWRAP_TEMPLATE, unwrap)
                       .Ulong(CKA_VALUE_LEN, 32);
    auto made = session_->GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), kek);
    // A module that does not know the template attributes at all can still replicate, unsafely.
    bool knows = made.ok();
    if (!knows) {
      kek.Remove(CKA_UNWRAP_TEMPLATE).Remove(CKA_ALLOWED_MECHANISMS);
      made = session_->GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), kek);
    }
    Check("knows-unwrap-template", ProbeNeed::kEnforcement,
          knows ? absl::OkStatus() : Wrong("unknown attribute"));
    HSM_ASSIGN_OR_RETURN(kek_, std::move(made));
    Template plain = Secret().Bool(CKA_WRAP, true).Bool(CKA_UNWRAP, true).Ulong(CKA_VALUE_LEN, 32);
    HSM_ASSIGN_OR_RETURN(plain_kek_, session_->GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), plain));
    return absl::OkStatus();
  }

  // wrap -> unwrap -> wrap gives the same blob; under a KEK without rules, since what comes out of the other
  // one can be wrapped by TRUSTED keys only.
  absl::Status RoundTrip(CK_OBJECT_HANDLE key, Template kind) {
    if (plain_kek_ == CK_INVALID_HANDLE) return Wrong("no KEK");
    HSM_ASSIGN_OR_RETURN(Bytes blob, session_->Wrap(Mechanism::Plain(report_.kwp), plain_kek_, key));
    HSM_ASSIGN_OR_RETURN(CK_OBJECT_HANDLE copy, session_->Unwrap(Mechanism::Plain(report_.kwp), plain_kek_,
                                                                 blob, kind.Merge(NoUse())));
    auto again = session_->Wrap(Mechanism::Plain(report_.kwp), plain_kek_, copy);
    (void)session_->DestroyObject(copy);
    HSM_RETURN_IF_ERROR(again.status());
    return *again == blob ? absl::OkStatus() : Wrong("another key came back");
  }
  Template Unwrapped() { return NoUse().Bool(CKA_WRAP_WITH_TRUSTED, true).Bool(CKA_COPYABLE, false); }

  void Secrets() {
    for (CK_ULONG bytes : {16, 24, 32}) {
      Template attributes = Secret()
                                .Bool(CKA_ENCRYPT, true)
                                .Bool(CKA_DECRYPT, true)
                                .Bool(CKA_SIGN, true)
                                .Ulong(CKA_VALUE_LEN, bytes);
      auto key = session_->GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), attributes);
      std::string name = fmt::format("aes-{}", 8 * bytes);
      Check(name, ProbeNeed::kWrap, key.status());
      if (!key.ok()) continue;
      Check(name + "-gcm", ProbeNeed::kInformation, Gcm(*key));
      Check(name + "-cbc", ProbeNeed::kInformation, Cbc(*key, CKM_AES_CBC));
      Check(name + "-cbc-pad", ProbeNeed::kInformation, Cbc(*key, CKM_AES_CBC_PAD));
      Check(name + "-cmac", ProbeNeed::kInformation, OnOwnSession([&](Session& session) {
              return session.Sign(Mechanism::Plain(CKM_AES_CMAC), *key, View("x")).status();
            }));
      if (plain_kek_ != CK_INVALID_HANDLE)
        Check(name + "-replicates", ProbeNeed::kWrap,
              RoundTrip(*key, Template().Ulong(CKA_CLASS, CKO_SECRET_KEY).Ulong(CKA_KEY_TYPE, CKK_AES)));
      (void)session_->DestroyObject(*key);
    }
    for (CK_ULONG bytes : {16, 32, 48, 64}) {
      auto key = session_->GenerateKey(Mechanism::Plain(CKM_GENERIC_SECRET_KEY_GEN),
                                       Secret().Bool(CKA_SIGN, true).Ulong(CKA_VALUE_LEN, bytes));
      for (auto [mechanism, hash] : {std::pair{CKM_SHA256_HMAC, 256}, std::pair{CKM_SHA384_HMAC, 384},
                                     std::pair{CKM_SHA512_HMAC, 512}}) {
        absl::Status status = key.status();
        if (status.ok())
          status = OnOwnSession([&, mechanism = mechanism](Session& session) {
            return session.Sign(Mechanism::Plain(mechanism), *key, View("x")).status();
          });
        bool needed = bytes == 32 && hash == 256;  // record MACs
        Check(fmt::format("hmac-sha{}-{}-byte-key", hash, bytes),
              needed ? ProbeNeed::kWrap : ProbeNeed::kInformation, status);
      }
      if (key.ok()) (void)session_->DestroyObject(*key);
    }
  }

  absl::Status Gcm(CK_OBJECT_HANDLE key) {
    return OnOwnSession([&](Session& session) -> absl::Status {
      for (std::string_view text : {std::string_view(), std::string_view("plaintext")}) {
        Mechanism mechanism = Mechanism::Gcm(View(kIv.substr(0, 12)), View("aad"), 128);
        HSM_ASSIGN_OR_RETURN(Bytes sealed, session.Encrypt(mechanism, key, View(text)));
        if (sealed.size() != text.size() + 16) return Wrong("the token appends more than a tag");
        Bytes iv(mechanism.UsedIv().begin(), mechanism.UsedIv().end());
        HSM_ASSIGN_OR_RETURN(SecretBytes opened,
                             session.Decrypt(Mechanism::Gcm(iv, View("aad"), 128), key, sealed));
        if (!opened.Equals(View(text))) return Wrong("another plaintext came back");
        sealed.back() ^= 1;
        auto forged = OnOwnSession([&](Session& other) {
          return other.Decrypt(Mechanism::Gcm(iv, View("aad"), 128), key, sealed).status();
        });
        if (forged.ok()) return Wrong("a wrong tag was accepted");
      }
      return absl::OkStatus();
    });
  }

  absl::Status Cbc(CK_OBJECT_HANDLE key, CK_MECHANISM_TYPE type) {
    return OnOwnSession([&](Session& session) -> absl::Status {
      Mechanism mechanism = Mechanism::Iv(type, View(kIv));
      HSM_ASSIGN_OR_RETURN(Bytes sealed, session.Encrypt(mechanism, key, View(kIv)));
      HSM_ASSIGN_OR_RETURN(SecretBytes opened, session.Decrypt(Mechanism::Iv(type, View(kIv)), key, sealed));
      return opened.Equals(View(kIv)) ? absl::OkStatus() : Wrong("another plaintext came back");
    });
  }

  void Pair(const std::string& name, Mechanism generate, Template public_part, CK_KEY_TYPE type,
            const std::function<absl::Status(CK_OBJECT_HANDLE)>& use) {
    auto pair = session_->GenerateKeyPair(std::move(generate), std::move(public_part),
                                          NoUse().Bool(CKA_SIGN, true).Bool(CKA_DECRYPT, type == CKK_RSA));
    Check(name, ProbeNeed::kInformation, pair.ok() ? use(pair->private_key) : pair.status());
    if (!pair.ok()) return;
    if (plain_kek_ != CK_INVALID_HANDLE)
      Check(name + "-replicates", ProbeNeed::kInformation,
            RoundTrip(pair->private_key,
                      Template().Ulong(CKA_CLASS, CKO_PRIVATE_KEY).Ulong(CKA_KEY_TYPE, type)));
    (void)session_->DestroyObject(pair->private_key);
    (void)session_->DestroyObject(pair->public_key);
  }

  void Curves() {
    const Curve curves[] = {
        {"p-256", kP256, 32}, {"p-384", kP384, 48}, {"p-521", kP521, 64}, {"p-256k", kP256K, 32}};
    for (const Curve& curve : curves)
      Pair(curve.name, Mechanism::Plain(CKM_EC_KEY_PAIR_GEN),
           PublicPart().Data(CKA_EC_PARAMS, curve.parameters), CKK_EC, [&](CK_OBJECT_HANDLE key) {
             return OnOwnSession([&](Session& session) {
               return session.Sign(Mechanism::Plain(CKM_ECDSA), key, Bytes(curve.digest_bytes, 7)).status();
             });
           });
  }

  void Rsa() {
    constexpr uint8_t kExponent[] = {1, 0, 1};
    Template public_part = PublicPart().Ulong(CKA_MODULUS_BITS, 2048).Data(CKA_PUBLIC_EXPONENT, kExponent);
    Pair("rsa-2048", Mechanism::Plain(CKM_RSA_PKCS_KEY_PAIR_GEN), public_part, CKK_RSA,
         [&](CK_OBJECT_HANDLE key) {
           auto sign = [&](std::function<Mechanism()> mechanism) {
             return OnOwnSession(
                 [&](Session& session) { return session.Sign(mechanism(), key, Bytes(32, 7)).status(); });
           };
           Check("rsa-pkcs1", ProbeNeed::kInformation, sign([] { return Mechanism::Plain(CKM_RSA_PKCS); }));
           Check("rsa-pss-sha256", ProbeNeed::kInformation,
                 sign([] { return Mechanism::Pss(CKM_SHA256, 32); }));
           for (auto [name, hash] :
                {std::pair{"rsa-oaep-sha1", CKM_SHA_1}, std::pair{"rsa-oaep-sha256", CKM_SHA256}})
             Check(name, ProbeNeed::kInformation, OnOwnSession([&, hash = hash](Session& session) {
                     bool refused = false;
                     // The ciphertext is nonsense: what counts is whether the mechanism is taken.
                     absl::Status status =
                         session.Decrypt(Mechanism::Oaep(hash), key, Bytes(256, 1), &refused).status();
                     return refused ? status : absl::OkStatus();
                   }));
           return absl::OkStatus();
         });
  }

  // Each must be refused for the grade "strong".
  void Attacks() {
    Template kind = Template().Ulong(CKA_CLASS, CKO_SECRET_KEY).Ulong(CKA_KEY_TYPE, CKK_AES);
    Template tied = Secret().Bool(CKA_WRAP_WITH_TRUSTED, true).Ulong(CKA_VALUE_LEN, 32);
    auto key = session_->GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), Secret().Ulong(CKA_VALUE_LEN, 32));
    auto tied_key = session_->GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN), tied);
    Check("knows-wrap-with-trusted", ProbeNeed::kEnforcement, tied_key.status());
    absl::StatusOr<Bytes> blob =
        key.ok() ? session_->Wrap(Mechanism::Plain(report_.kwp), kek_, *key) : key.status();
    if (!blob.ok()) return Check("attacks", ProbeNeed::kWrap, blob.status());
    auto unwrap = [&](ByteView bytes, Template change) {
      Template wanted = kind;
      return session_->Unwrap(Mechanism::Plain(report_.kwp), kek_, bytes,
                              wanted.Merge(Unwrapped()).Merge(change));
    };
    RefusedObject("unwrap-readable", unwrap(*blob, Template().Bool(CKA_SENSITIVE, false)));
    RefusedObject("unwrap-untied", unwrap(*blob, Template().Bool(CKA_WRAP_WITH_TRUSTED, false)));
    RefusedObject("unwrap-public", unwrap(*blob, Template().Bool(CKA_PRIVATE, false)));
    RefusedObject("unwrap-to-token", unwrap(*blob, Template().Bool(CKA_TOKEN, true)));
    RefusedObject("unwrap-copyable", unwrap(*blob, Template().Bool(CKA_COPYABLE, true)));
    Bytes spoiled = *blob;
    spoiled[10] ^= 1;
    RefusedObject("tampered-blob", unwrap(spoiled, Template()));
    RefusedObject("truncated-blob", unwrap(ByteView(*blob).first(blob->size() - 8), Template()));
    auto copy = unwrap(*blob, Template());
    Check("unwrap", ProbeNeed::kWrap, copy.status());
    if (copy.ok()) AttackUnwrapped(*copy);
    AttackKek();
    if (tied_key.ok()) {
      Refused("wrap-tied-key-under-untrusted",
              session_->Wrap(Mechanism::Plain(report_.kwp), kek_, *tied_key).status());
      (void)session_->DestroyObject(*tied_key);
    }
    Refused("user-sets-trusted", session_->SetAttributes(*key, Template().Bool(CKA_TRUSTED, true)));
    auto fixed = session_->GenerateKey(Mechanism::Plain(CKM_AES_KEY_GEN),
                                       Secret().Bool(CKA_EXTRACTABLE, false).Ulong(CKA_VALUE_LEN, 32));
    if (fixed.ok()) {
      Refused("wrap-unextractable", session_->Wrap(Mechanism::Plain(report_.kwp), kek_, *fixed).status());
      RefusedObject("copy-to-extractable",
                    session_->CopyObject(*fixed, Template().Bool(CKA_EXTRACTABLE, true)));
      (void)session_->DestroyObject(*fixed);
    }
    (void)session_->DestroyObject(*key);
  }

  void AttackUnwrapped(CK_OBJECT_HANDLE copy) {
    absl::Status kept;
    for (CK_ATTRIBUTE_TYPE must : {CKA_SENSITIVE, CKA_WRAP_WITH_TRUSTED, CKA_PRIVATE})
      if (!session_->BoolAttribute(copy, must).value_or(false)) kept = Wrong("the template was ignored");
    Check("unwrap-keeps-template", ProbeNeed::kEnforcement, kept);
    Refused("read-value", session_->Attribute(copy, CKA_VALUE).status());
    Refused("make-readable", session_->SetAttributes(copy, Template().Bool(CKA_SENSITIVE, false)));
    RefusedObject("copy-replicated-key", session_->CopyObject(copy, Template().Bool(CKA_TOKEN, false)));
    (void)session_->DestroyObject(copy);
  }

  void AttackKek() {
    Refused("decrypt-by-kek", OnOwnSession([&](Session& session) {
              return session.Decrypt(Mechanism::Iv(CKM_AES_CBC, View(kIv)), kek_, View(kIv)).status();
            }));
    absl::Status widened = session_->SetAttributes(kek_, Template().Bool(CKA_DECRYPT, true));
    if (widened.ok())  // allowed mechanisms must stop it then
      widened = OnOwnSession([&](Session& session) {
        return session.Decrypt(Mechanism::Iv(CKM_AES_CBC, View(kIv)), kek_, View(kIv)).status();
      });
    Refused("decrypt-by-widened-kek", widened);
  }

  absl::Status ManySessions() {
    std::vector<Session> open;
    for (size_t i = 0; i < options_.sessions; ++i) {
      HSM_ASSIGN_OR_RETURN(Session session, Session::Open(library_, report_.token.slot));
      open.push_back(std::move(session));
    }
    // One that failed must not disturb the others.
    if (!open.empty()) (void)open[0].Sign(Mechanism::Plain(CKM_AES_CMAC), CK_INVALID_HANDLE, View("x"));
    return open.size() > 1 ? open[1].Random(1).status() : absl::OkStatus();
  }

  const Library& library_;
  ProbeReport& report_;
  const ProbeOptions& options_;
  Session* session_ = nullptr;
  CK_OBJECT_HANDLE kek_ = CK_INVALID_HANDLE;
  CK_OBJECT_HANDLE plain_kek_ = CK_INVALID_HANDLE;
};

std::string_view NeedName(ProbeNeed need) {
  switch (need) {
    case ProbeNeed::kWrap:
      return "wrap";
    case ProbeNeed::kEnforcement:
      return "enforcement";
    default:
      return "information";
  }
}

}  // namespace

std::string_view ProbeGradeName(ProbeGrade grade) {
  switch (grade) {
    case ProbeGrade::kStrong:
      return "strong";
    case ProbeGrade::kInteropOnly:
      return "interop-only";
    default:
      return "no-wrap";
  }
}

std::string ProbeReport::ToJson() const {
  Json checks_json = Json::Array();
  for (const ProbeCheck& check : checks)
    checks_json.Add(Json::Object({{"name", check.name},
                                  {"need", NeedName(check.need)},
                                  {"passed", check.passed},
                                  {"detail", check.detail}}));
  return Json::Object({{"token", Json::Object({{"manufacturer", token.manufacturer},
                                               {"model", token.model},
                                               {"serial", token.serial},
                                               {"label", token.label}})},
                       {"grade", ProbeGradeName(grade)},
                       {"kwp_mechanism", fmt::format("{:#x}", kwp)},
                       {"checks", checks_json}})
      .Dump();
}

ProbeReport RunProbe(const Library& library, const TokenInfo& token, const ProbeOptions& options) {
  ProbeReport report;
  report.token = token;
  Probe probe(library, report, options);
  probe.Run();
  report.grade = probe.Grade();
  return report;
}

}  // namespace hsm::pkcs11
