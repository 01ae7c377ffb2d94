#include "coordinator/key_state.h"

#include <gtest/gtest.h>

#include "tests/testing/matchers.h"

namespace hsm {
namespace {

using testing::HasReason;
using testing::IsOk;

constexpr int64_t kNow = 1'000;

KeyHead Head() {
  KeyHead head;
  head.name = "k";
  head.spec = {v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 2048};
  head.operations = OperationsThatFit(head.spec);
  return head;
}

struct UseCase {
  const char* name;
  std::function<void(KeyHead&)> set;
  v1::KeyOperation operation;
  v1::Reason want;  // UNSPECIFIED = allowed
};
class CheckUseTest : public ::testing::TestWithParam<UseCase> {};

TEST_P(CheckUseTest, DecidesAsAzureDoes) {
  KeyHead head = Head();
  GetParam().set(head);
  EXPECT_EQ(ReasonOf(CheckUse(head, GetParam().operation, kNow)), GetParam().want);
}

INSTANTIATE_TEST_SUITE_P(
    KeyState, CheckUseTest,
    ::testing::Values(UseCase{"Plain", [](KeyHead&) {}, v1::KEY_OPERATION_SIGN, v1::REASON_UNSPECIFIED},
                      UseCase{"DisabledRefusesAll", [](KeyHead& h) { h.enabled = false; },
                              v1::KEY_OPERATION_DECRYPT, v1::REASON_KEY_DISABLED},
                      UseCase{"NotListed", [](KeyHead& h) { h.operations = Bit(v1::KEY_OPERATION_VERIFY); },
                              v1::KEY_OPERATION_SIGN, v1::REASON_OPERATION_NOT_ALLOWED},
                      UseCase{"TooEarly", [](KeyHead& h) { h.not_before = kNow + 1; }, v1::KEY_OPERATION_SIGN,
                              v1::REASON_KEY_OUTSIDE_VALIDITY},
                      UseCase{"OnTime", [](KeyHead& h) { h.not_before = kNow; }, v1::KEY_OPERATION_SIGN,
                              v1::REASON_UNSPECIFIED},
                      UseCase{"Expired", [](KeyHead& h) { h.expires = kNow; }, v1::KEY_OPERATION_ENCRYPT,
                              v1::REASON_KEY_OUTSIDE_VALIDITY},
                      UseCase{"ExpiredStillDecrypts", [](KeyHead& h) { h.expires = kNow; },
                              v1::KEY_OPERATION_DECRYPT, v1::REASON_UNSPECIFIED},
                      UseCase{"ExpiredStillVerifies", [](KeyHead& h) { h.expires = kNow; },
                              v1::KEY_OPERATION_VERIFY, v1::REASON_UNSPECIFIED},
                      UseCase{"EarlyStillUnwraps", [](KeyHead& h) { h.not_before = kNow + 1; },
                              v1::KEY_OPERATION_UNWRAP_KEY, v1::REASON_UNSPECIFIED},
                      UseCase{"ExpiredWrapsNot", [](KeyHead& h) { h.expires = kNow; },
                              v1::KEY_OPERATION_WRAP_KEY, v1::REASON_KEY_OUTSIDE_VALIDITY},
                      UseCase{"Tombstone", [](KeyHead& h) { h.state = KeyState::kTombstone; },
                              v1::KEY_OPERATION_VERIFY, v1::REASON_KEY_NOT_FOUND},
                      UseCase{"Deleted", [](KeyHead& h) { h.state = KeyState::kDeleted; },
                              v1::KEY_OPERATION_VERIFY, v1::REASON_KEY_NOT_FOUND}),
    [](const auto& tested) { return std::string(tested.param.name); });

struct ChangeCase {
  const char* name;
  AttributeChange change;
  bool revokes;
};
class RevokesTest : public ::testing::TestWithParam<ChangeCase> {};

TEST_P(RevokesTest, OnlyWhatTakesAway) {
  KeyHead head = Head();
  head.not_before = 500;
  head.expires = 2'000;
  head.operations = Bit(v1::KEY_OPERATION_SIGN) | Bit(v1::KEY_OPERATION_VERIFY);
  EXPECT_EQ(Revokes(head, GetParam().change), GetParam().revokes);
}

INSTANTIATE_TEST_SUITE_P(
    KeyState, RevokesTest,
    ::testing::Values(
        ChangeCase{"Nothing", {}, false}, ChangeCase{"Disable", {.enabled = false}, true},
        ChangeCase{"Enable", {.enabled = true}, false}, ChangeCase{"LaterStart", {.not_before = 600}, true},
        ChangeCase{"EarlierStart", {.not_before = 400}, false},
        ChangeCase{"NoStart", {.not_before = 0}, false}, ChangeCase{"EarlierEnd", {.expires = 1'500}, true},
        ChangeCase{"LaterEnd", {.expires = 2'500}, false}, ChangeCase{"NoEnd", {.expires = 0}, false},
        ChangeCase{"Narrower", {.operations = Bit(v1::KEY_OPERATION_SIGN)}, true},
        ChangeCase{"Wider",
                   {.operations = Bit(v1::KEY_OPERATION_SIGN) | Bit(v1::KEY_OPERATION_VERIFY) |
                                  Bit(v1::KEY_OPERATION_ENCRYPT)},
                   false},
        ChangeCase{"Tags", {.tags = std::map<std::string, std::string>{{"a", "b"}}}, false}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(CheckChangeTest, RefusesWhatCannotBe) {
  KeyHead head = Head();
  EXPECT_THAT(CheckChange(head, {}), IsOk());
  EXPECT_THAT(CheckChange(head, {.operations = OperationSet{0}}), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(CheckChange(head, {.not_before = 10, .expires = 10}), HasReason(v1::REASON_INVALID_ARGUMENT));
  EXPECT_THAT(CheckChange(head, {.expires = -1}), HasReason(v1::REASON_INVALID_ARGUMENT));
  head.spec = {v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
  EXPECT_THAT(CheckChange(head, {.operations = Bit(v1::KEY_OPERATION_ENCRYPT)}),
              HasReason(v1::REASON_INVALID_ARGUMENT));
}

}  // namespace
}  // namespace hsm
