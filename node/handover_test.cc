#include "node/handover.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "common/error.h"
#include "node/watchdog.h"
#include "tests/testing/eventually.h"
#include "tests/testing/fake_clock.h"

namespace hsm {
namespace {

using testing::Eventually;

IssuedCertificate Issue(const std::string& node) {
  return *IssueCertificate({.common_name = node, .uris = {"urn:qhsm:node:" + node}}, nullptr);
}
std::string PinOf(const IssuedCertificate& issued) { return Hex(issued.certificate.Fingerprint()); }

const std::string kHsm(16, 'h');

internal::v1::JoinKey KeyOf(const IssuedCertificate& issued, const std::string& node) {
  internal::v1::JoinKey key;
  key.set_node(node);
  key.set_spki("spki");
  key.set_oaep_hash("SHA-1");
  return *SignJoinKey(key, kHsm, issued.certificate, issued.key);
}

TEST(HandoverTest, OnlyThePinnedPartitionMayJoin) {
  IssuedCertificate p2 = Issue("p2");
  IssuedCertificate impostor = Issue("p2");
  Pins pins = {{"p2", PinOf(p2)}};
  EXPECT_TRUE(CheckJoinKey(KeyOf(p2, "p2"), kHsm, pins).ok());
  auto denied = [&](const internal::v1::JoinKey& key, const std::string& hsm = kHsm) {
    return ReasonOf(CheckJoinKey(key, hsm, pins)) == v1::REASON_PERMISSION_DENIED;
  };
  EXPECT_TRUE(denied(KeyOf(impostor, "p2"))) << "another certificate";
  EXPECT_TRUE(denied(KeyOf(p2, "p3"))) << "a partition that is not pinned";
  EXPECT_TRUE(denied(KeyOf(p2, "p2"), std::string(16, 'x'))) << "another HSM";
  internal::v1::JoinKey changed = KeyOf(p2, "p2");
  changed.set_spki("the coordinator's own key");
  EXPECT_TRUE(denied(changed)) << "a join key its owner did not sign";
}

TEST(HandoverTest, AHandOverIsTakenOnlyFromAPinnedSponsorAndUnchanged) {
  IssuedCertificate p1 = Issue("p1");
  IssuedCertificate stranger = Issue("p1");
  Pins pins = {{"p1", PinOf(p1)}};
  internal::v1::Handover handover;
  handover.set_handover_id(std::string(16, 'i'));
  handover.set_node("p2");
  handover.set_replication_kek("wrapped");
  auto good = *SignHandover(handover, p1.certificate, p1.key);
  EXPECT_TRUE(CheckHandover(good, "p2", pins).ok());
  EXPECT_FALSE(CheckHandover(good, "p3", pins).ok());
  EXPECT_FALSE(CheckHandover(*SignHandover(handover, stranger.certificate, stranger.key), "p2", pins).ok());
  auto changed = good;
  changed.mutable_bundle()->set_record_mac_key("another");
  EXPECT_FALSE(CheckHandover(changed, "p2", pins).ok());
}

TEST(HandoverTest, FilesCarryARequestOverARestartOnce) {
  char name[] = "/tmp/handover-XXXXXX";
  std::string directory = mkdtemp(name);
  std::string id(16, 'i');
  HandoverFiles before(directory + "/handover");
  EXPECT_FALSE(before.TakeRequest()->has_value());
  ASSERT_TRUE(before.PutRequest(id, KeyOf(Issue("p2"), "p2")).ok());
  EXPECT_TRUE(before.Result(id)->pending());
  HandoverFiles after(directory + "/handover");
  auto request = *after.TakeRequest();
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->id, id);
  EXPECT_EQ(request->key.node(), "p2");
  EXPECT_FALSE(after.TakeRequest()->has_value());
  internal::v1::Handover handover;
  handover.set_node("p2");
  ASSERT_TRUE(after.PutResult(id, handover).ok());
  EXPECT_EQ(after.Result(id)->handover().node(), "p2");
  EXPECT_TRUE(after.Result(std::string(16, 'j'))->pending());
  ASSERT_TRUE(after.PutResult(id, Error(v1::REASON_PIN_INCORRECT, "wrong")).ok());
  EXPECT_FALSE(after.Result(id)->failure().empty());
  std::filesystem::remove_all(directory);
}

TEST(WatchdogTest, ACallThatOverrunsIsReportedByNameAndOthersAreNot) {
  testing::FakeClock clock;
  std::atomic<const char*> overrun{nullptr};
  {
    Watchdog watchdog(clock, absl::Seconds(1), [&](const char* call) { overrun = call; });
    {
      Watchdog::Guard quick(watchdog, "quick");
    }
    Watchdog::Guard longer(watchdog, "longer", 10);
    Watchdog::Guard hung(watchdog, "hung");
    EXPECT_TRUE(Eventually([&] {
      clock.Advance(absl::Milliseconds(100));
      return overrun != nullptr;
    }));
  }
  ASSERT_NE(overrun.load(), nullptr);
  EXPECT_STREQ(overrun, "hung");
}

}  // namespace
}  // namespace hsm
