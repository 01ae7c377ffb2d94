// Domain keys on SoftHSM: made, handed over, refused. Each attack of the self-test has a token on which it
// works, made with one attribute of the templates wrong, and the self-test must name it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "common/check.h"
#include "common/error.h"
#include "node/domain_keys.h"
#include "node/kek_store.h"
#include "node/token_attacks.h"
#include "node/token_templates.h"
#include "pkcs11/kwp.h"
#include "pkcs11/probe.h"
#include "pkcs11/token_login.h"
#include "tests/testing/softhsm.h"

namespace hsm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Name(const absl::Status& status) { return std::string(ReasonName(ReasonOf(status))); }

TEST(DomainKeysTest, HandOverGivesTheSameKeys) {
  auto domain = MakeSoftHsmDomain("handover-1");
  ASSERT_TRUE(domain.ok()) << domain.status();
  EXPECT_EQ(domain->bundle.generation(), 1u);
  auto joined = JoinSoftHsmDomain(*domain, "handover-2");
  ASSERT_TRUE(joined.ok()) << joined.status();
  auto first = Pkcs11Token::Open(domain->config);
  auto second = Pkcs11Token::Open(*joined);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE((*second)->HasKeks());
  EXPECT_EQ((*second)->DomainTag(), (*first)->DomainTag());
  EXPECT_EQ(ToString(*(*second)->KekFingerprint(Kek::kReplication)),
            domain->bundle.replication_kek_fingerprint());
  EXPECT_EQ(ToString(*(*second)->KekFingerprint(Kek::kBackup)), domain->bundle.backup_kek_fingerprint());
  EXPECT_TRUE((*second)->SelfTest().ok()) << (*second)->SelfTest();
  // The bundle opens on the joiner.
  KeySpec oct{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
  auto mac = (*second)->Unwrap(Kek::kReplication, oct, {KeyUse::kRecordMac, 0},
                               View(domain->bundle.record_mac_key()));
  ASSERT_TRUE(mac.ok());
  auto mac_at_first = (*first)->Unwrap(Kek::kReplication, oct, {KeyUse::kRecordMac, 0},
                                       View(domain->bundle.record_mac_key()));
  EXPECT_EQ(*(*first)->Hmac(*mac_at_first, View("x")), *(*second)->Hmac(*mac, View("x")));
}

TEST(DomainKeysTest, ProvisioningTwiceChangesNothing) {
  TokenConfig config = SoftHsm::OfThisProcess().Config("twice");
  EXPECT_TRUE(*ProvisionToken(config));
  EXPECT_FALSE(*ProvisionToken(config));
}

TEST(DomainKeysTest, TokenWithoutDomainOpensAndSaysSo) {
  TokenConfig config = SoftHsm::OfThisProcess().Config("empty");
  ASSERT_TRUE(ProvisionToken(config).ok());
  auto token = Pkcs11Token::Open(config);
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_FALSE((*token)->HasKeks());
  EXPECT_EQ(Name((*token)->KekFingerprint(Kek::kBackup).status()), "NOT_ACTIVE");
  EXPECT_EQ(Name((*token)->Generate({v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256}, {}).status()),
            "NOT_ACTIVE");
  EXPECT_EQ(Name((*token)->SelfTest()), "NOT_ACTIVE");
  EXPECT_TRUE((*token)->Probe().ok());
}

TEST(DomainKeysTest, MissingTokenIsNotFound) {
  EXPECT_EQ(Name(Pkcs11Token::Open(SoftHsm::OfThisProcess().Config("nobody")).status()), "NOT_FOUND");
  TokenConfig unnamed = SoftHsm::OfThisProcess().Config("");
  EXPECT_EQ(Name(Pkcs11Token::Open(unnamed).status()), "CONFIG_INVALID");
  TokenConfig no_module = SoftHsm::OfThisProcess().Config("x");
  no_module.module = "/nonexistent.so";
  EXPECT_EQ(Name(Pkcs11Token::Open(no_module).status()), "CONFIG_INVALID");
}

TEST(DomainKeysTest, MakingAgainKeepsTheKeksAndAnotherDomainIsRefused) {
  auto domain = MakeSoftHsmDomain("again");
  ASSERT_TRUE(domain.ok());
  {
    auto keys = DomainKeys::Open(domain->config);
    auto bundle = (*keys)->Make(TestHsmId(), 1);
    ASSERT_TRUE(bundle.ok()) << bundle.status();
    EXPECT_EQ(bundle->replication_kek_fingerprint(), domain->bundle.replication_kek_fingerprint());
  }
  HsmId other = TestHsmId();
  other.value[0] ^= 1;
  {
    auto keys = DomainKeys::Open(domain->config);
    EXPECT_EQ(Name((*keys)->Make(other, 1).status()), "CONFLICT");
  }
  auto token = Pkcs11Token::Open(domain->config);
  EXPECT_EQ(ToString(*(*token)->KekFingerprint(Kek::kBackup)), domain->bundle.backup_kek_fingerprint());
}

TEST(DomainKeysTest, HandOverOfAnotherDomainIsRefusedAndLeavesNothing) {
  auto ours = MakeSoftHsmDomain("ours");
  auto theirs = MakeSoftHsmDomain("theirs");
  ASSERT_TRUE(ours.ok() && theirs.ok());
  TokenConfig config = SoftHsm::OfThisProcess().Config("deceived");
  ASSERT_TRUE(ProvisionToken(config).ok());
  {
    auto joiner = DomainKeys::Open(config);
    auto join_key = (*joiner)->BeginJoin(TestHsmId(), 1);
    ASSERT_TRUE(join_key.ok()) << join_key.status();
    EXPECT_EQ(join_key->oaep_hash(), "SHA-1");  // what SoftHSM 2.6 can open
    auto sponsor = DomainKeys::Open(theirs->config);
    auto keks = (*sponsor)->Sponsor(View(join_key->spki()), join_key->oaep_hash());
    ASSERT_TRUE(keks.ok()) << keks.status();
    EXPECT_EQ(Name((*joiner)->CompleteJoin(*keks, ours->bundle)), "OTHER_DOMAIN");
    EXPECT_EQ(Name((*joiner)->CompleteJoin(*keks, ours->bundle)), "CONFLICT") << "the join key is used once";
  }
  auto token = Pkcs11Token::Open(config);
  ASSERT_TRUE(token.ok());
  EXPECT_FALSE((*token)->HasKeks());
}

// The right replication KEK beside somebody else's backup KEK: only the fingerprint can tell.
TEST(DomainKeysTest, ForeignBackupKekIsRefused) {
  auto ours = MakeSoftHsmDomain("mixed-1");
  auto theirs = MakeSoftHsmDomain("mixed-2");
  TokenConfig config = SoftHsm::OfThisProcess().Config("mixed-3");
  ASSERT_TRUE(ProvisionToken(config).ok());
  auto joiner = DomainKeys::Open(config);
  auto join_key = (*joiner)->BeginJoin(TestHsmId(), 1);
  auto keks = (*DomainKeys::Open(ours->config))->Sponsor(View(join_key->spki()), join_key->oaep_hash());
  auto foreign = (*DomainKeys::Open(theirs->config))->Sponsor(View(join_key->spki()), join_key->oaep_hash());
  ASSERT_TRUE(keks.ok() && foreign.ok());
  keks->set_backup_kek(foreign->backup_kek());
  EXPECT_EQ(Name((*joiner)->CompleteJoin(*keks, ours->bundle)), "OTHER_DOMAIN");
}

TEST(DomainKeysTest, DamagedHandOverIsRefused) {
  auto domain = MakeSoftHsmDomain("damage-1");
  TokenConfig config = SoftHsm::OfThisProcess().Config("damage-2");
  ASSERT_TRUE(ProvisionToken(config).ok());
  auto joiner = DomainKeys::Open(config);
  auto join_key = (*joiner)->BeginJoin(TestHsmId(), 1);
  auto sponsor = DomainKeys::Open(domain->config);
  auto keks = (*sponsor)->Sponsor(View(join_key->spki()), join_key->oaep_hash());
  ASSERT_TRUE(keks.ok());
  (*keks->mutable_backup_kek())[10] ^= 1;
  EXPECT_FALSE((*joiner)->CompleteJoin(*keks, domain->bundle).ok());
}

TEST(DomainKeysTest, SponsorRefusesShortOrStrangeKeys) {
  auto domain = MakeSoftHsmDomain("strict");
  auto refuse = [&](ByteView spki, const char* hash) {
    return Name((*DomainKeys::Open(domain->config))->Sponsor(spki, hash).status());
  };
  EXPECT_EQ(refuse(View("junk"), "SHA-1"), "DATA_INVALID");
  EXPECT_EQ(refuse(View("junk"), "MD5"), "INVALID_ARGUMENT");
  TokenConfig without = SoftHsm::OfThisProcess().Config("without");
  ASSERT_TRUE(ProvisionToken(without).ok());
}

// --- the self-test ---

// A token whose replication KEK was made with `spoil` applied to its template.
struct Spoiled {
  std::unique_ptr<pkcs11::Library> library;
  std::optional<pkcs11::Session> session;
  std::optional<KekSet> keks;
  CK_MECHANISM_TYPE kwp = 0;
  CK_SLOT_ID slot = 0;
};

Spoiled MakeSpoiled(const std::string& label, const std::function<void(pkcs11::Template&)>& spoil,
                    bool modifiable = false) {
  TokenConfig config = SoftHsm::OfThisProcess().Config(label);
  HSM_CHECK(ProvisionToken(config).ok());
  Spoiled out;
  out.library = *LoadModule(config);
  auto info = pkcs11::FindToken(*out.library, label, "");
  out.slot = info->slot;
  out.session = *pkcs11::Session::Open(*out.library, info->slot);
  pkcs11::TokenLogin login(*out.library, info->slot);
  HSM_CHECK(login.Login(*out.session, CKU_SO, *pkcs11::ReadPinFile(config.so_pin_file)).ok());
  out.kwp = *pkcs11::FindKwpMechanism(*out.session, 0);
  std::vector<CK_OBJECT_HANDLE> made;
  for (Kek kek : {Kek::kReplication, Kek::kBackup}) {
    pkcs11::Template attributes = KekTemplate(kek, "spoiled:1", out.kwp).Ulong(CKA_VALUE_LEN, 32);
    spoil(attributes);
    auto key = out.session->GenerateKey(pkcs11::Mechanism::Plain(CKM_AES_KEY_GEN), attributes);
    EXPECT_TRUE(key.ok()) << key.status();
    made.push_back(*key);
  }
  HSM_CHECK(login.Logout(*out.session).ok());
  HSM_CHECK(login.Login(*out.session, CKU_USER, *pkcs11::ReadPinFile(config.pin_file)).ok());
  for (CK_OBJECT_HANDLE key : made) {
    pkcs11::Template promotion = KekPromotion();
    if (modifiable) promotion.Remove(CKA_MODIFIABLE);
    EXPECT_TRUE(out.session->CopyObject(key, promotion).ok());
    EXPECT_TRUE(out.session->DestroyObject(key).ok());
  }
  out.keks = *FindKeks(*out.session);
  HSM_CHECK(out.keks.has_value());
  return out;
}

std::string VerdictOn(Spoiled& spoiled) {
  return std::string(SelfTestVerdict(RunSelfTest(*spoiled.session, *spoiled.keks, spoiled.kwp)).message());
}

pkcs11::Template Wrapping() {
  return pkcs11::Template()
      .Bool(CKA_SENSITIVE, true)
      .Bool(CKA_WRAP_WITH_TRUSTED, true)
      .Bool(CKA_UNWRAP, false);
}
pkcs11::Template Unwrapping() {
  return pkcs11::Template()
      .Bool(CKA_SENSITIVE, true)
      .Bool(CKA_WRAP_WITH_TRUSTED, true)
      .Bool(CKA_PRIVATE, true)
      .Bool(CKA_TOKEN, false)
      .Bool(CKA_COPYABLE, false);
}

TEST(SelfTest, EveryCheckPassesOnARightToken) {
  Spoiled right = MakeSpoiled("right", [](pkcs11::Template&) {});
  auto checks = RunSelfTest(*right.session, *right.keks, right.kwp);
  EXPECT_GE(checks.size(), 40u);
  for (const SelfTestCheck& check : checks) EXPECT_TRUE(check.passed) << check.name << ": " << check.detail;
  // SoftHSM leaves half objects of refused copies in the session that tried; they go with it, which is why
  // the self-test has a session of its own. Then nothing is left but the KEKs.
  auto other = pkcs11::Session::Open(*right.library, right.slot);
  ASSERT_TRUE(other.ok());
  right.session.reset();
  auto left = other->Find(pkcs11::Template());
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(left->size(), 2u);
}

struct Wrong {
  const char* name;
  std::function<void(pkcs11::Template&)> spoil;
  bool modifiable;
  std::vector<std::string> found;  // names of checks that must fail
};

class WrongTemplate : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongTemplate, IsNamedByTheSelfTest) {
  const Wrong& wrong = GetParam();
  Spoiled spoiled = MakeSpoiled(std::string("wrong-") + wrong.name, wrong.spoil, wrong.modifiable);
  std::string verdict = VerdictOn(spoiled);
  for (const std::string& check : wrong.found) EXPECT_THAT(verdict, HasSubstr(check));
}

INSTANTIATE_TEST_SUITE_P(
    SelfTest, WrongTemplate,
    ::testing::Values(
        Wrong{"KekMayWrapKek",
              [](pkcs11::Template& kek) { kek.Nested(CKA_WRAP_TEMPLATE, Wrapping().Remove(CKA_UNWRAP)); },
              false,
              {"wrap-replication-kek-under-replication-kek", "wrap-backup-kek-under-replication-kek",
               "wrap-replication-kek-under-backup-kek", "wrap-backup-kek-under-backup-kek"}},
        Wrong{"NoUnwrapTemplate",
              [](pkcs11::Template& kek) { kek.Remove(CKA_UNWRAP_TEMPLATE); },
              false,
              {"unwrap-public", "unwrap-to-token", "unwrap-readable", "unwrap-untied", "unwrap-copyable"}},
        Wrong{
            "UnwrapsPublic",
            [](pkcs11::Template& kek) { kek.Nested(CKA_UNWRAP_TEMPLATE, Unwrapping().Remove(CKA_PRIVATE)); },
            false,
            {"unwrap-public"}},
        Wrong{"UnwrapsToToken",
              [](pkcs11::Template& kek) { kek.Nested(CKA_UNWRAP_TEMPLATE, Unwrapping().Remove(CKA_TOKEN)); },
              false,
              {"unwrap-to-token"}},
        Wrong{
            "UnwrapsCopyable",
            [](pkcs11::Template& kek) { kek.Nested(CKA_UNWRAP_TEMPLATE, Unwrapping().Remove(CKA_COPYABLE)); },
            false,
            {"unwrap-copyable"}},
        Wrong{"NotTied",
              [](pkcs11::Template& kek) { kek.Bool(CKA_WRAP_WITH_TRUSTED, false); },
              false,
              {"wrap-replication-kek-under-untrusted-key", "kek-attributes"}},
        Wrong{"AnyMechanism",
              [](pkcs11::Template& kek) {
                kek.Remove(CKA_ALLOWED_MECHANISMS).Bool(CKA_DECRYPT, true).Bool(CKA_ENCRYPT, true);
              },
              false,
              {"decrypt-by-replication-kek-ecb", "decrypt-by-backup-kek-cbc", "kek-attributes"}},
        Wrong{"Modifiable",
              [](pkcs11::Template&) {},
              true,
              {"kek-attributes", "make-replication-kek-decrypt", "copy-backup-kek"}}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(SelfTest, NodeRefusesATokenThatFailsNamingTheCheck) {
  {
    Spoiled spoiled = MakeSpoiled("refused", [](pkcs11::Template& kek) {
      kek.Nested(CKA_WRAP_TEMPLATE, Wrapping().Remove(CKA_UNWRAP));
    });
  }
  auto token = Pkcs11Token::Open(SoftHsm::OfThisProcess().Config("refused"));
  ASSERT_TRUE(token.ok()) << token.status();
  absl::Status verdict = (*token)->SelfTest();
  EXPECT_EQ(Name(verdict), "SELF_TEST_FAILED");
  EXPECT_THAT(std::string(verdict.message()), HasSubstr("wrap-replication-kek-under-replication-kek"));
  EXPECT_THAT(std::string(verdict.message()), Not(HasSubstr("unwrap-public")));
}

// What UNWRAP=0 in the WRAP_TEMPLATE is for: with it gone, two calls turn the KEK into a key that decrypts.
TEST(SelfTest, TheAttackItGuardsAgainstIsReal) {
  Spoiled spoiled = MakeSpoiled(
      "attack", [](pkcs11::Template& kek) { kek.Nested(CKA_WRAP_TEMPLATE, Wrapping().Remove(CKA_UNWRAP)); });
  const CK_OBJECT_HANDLE kek = (*spoiled.keks)[Kek::kReplication];
  auto blob = spoiled.session->Wrap(pkcs11::Mechanism::Plain(spoiled.kwp), kek, kek);
  ASSERT_TRUE(blob.ok());
  auto decrypts = spoiled.session->Unwrap(
      pkcs11::Mechanism::Plain(spoiled.kwp), kek, *blob,
      Unwrapping().Ulong(CKA_CLASS, CKO_SECRET_KEY).Ulong(CKA_KEY_TYPE, CKK_AES).Bool(CKA_DECRYPT, true));
  ASSERT_TRUE(decrypts.ok());
  EXPECT_TRUE(
      spoiled.session->Decrypt(pkcs11::Mechanism::Plain(CKM_AES_ECB), *decrypts, ByteView(*blob).first(16))
          .ok());
}

// --- the join probe ---

TEST(JoinProbe, SoftHsmIsStrongAndIsLeftAsItWas) {
  auto domain = MakeSoftHsmDomain("probed");
  ASSERT_TRUE(domain.ok());
  auto token = Pkcs11Token::Open(domain->config);
  auto library = LoadModule(domain->config);
  auto info = pkcs11::FindToken(**library, "probed", "");
  auto session = pkcs11::Session::Open(**library, info->slot);
  size_t before = session->Find(pkcs11::Template())->size();
  auto report = pkcs11::RunProbe(**library, *info, {});
  EXPECT_EQ(report.grade, pkcs11::ProbeGrade::kStrong) << report.ToJson();
  EXPECT_EQ(report.kwp, CKM_AES_KEY_WRAP_PAD);
  auto passed = [&](const char* name) {
    for (const auto& check : report.checks)
      if (check.name == name) return check.passed;
    ADD_FAILURE() << "no check " << name;
    return false;
  };
  for (const char* name :
       {"aes-256-replicates", "p-256-replicates", "p-521-replicates", "p-256k-replicates",
        "rsa-2048-replicates", "hmac-sha256-32-byte-key", "hmac-sha512-64-byte-key", "aes-256-gcm"})
    EXPECT_TRUE(passed(name)) << name;
  for (const char* name : {"rsa-oaep-sha256", "hmac-sha384-32-byte-key"}) EXPECT_FALSE(passed(name)) << name;
  EXPECT_EQ(session->Find(pkcs11::Template())->size(), before);
  auto summary = (*token)->JoinProbe();
  EXPECT_EQ(summary.grade, "strong");
  EXPECT_THAT(summary.json, HasSubstr("\"kwp_mechanism\":\"0x210a\""));
}

}  // namespace
}  // namespace hsm
