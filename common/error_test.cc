#include "common/error.h"

#include <gtest/gtest.h>

#include "google/protobuf/descriptor.h"

namespace hsm {
namespace {

TEST(ErrorTest, EveryReasonHasItsOwnRowWithAHint) {
  const auto* reasons = v1::Reason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    auto reason = static_cast<v1::Reason>(reasons->value(i)->number());
    if (reason == v1::REASON_UNSPECIFIED || reason == v1::REASON_INTERNAL) continue;
    EXPECT_NE(ReasonHint(reason), ReasonHint(v1::REASON_INTERNAL)) << v1::Reason_Name(reason);
    EXPECT_NE(FacesOf(reason).pkcs11, 0u) << v1::Reason_Name(reason);
    EXPECT_GE(FacesOf(reason).http, 400) << v1::Reason_Name(reason);
  }
}

TEST(ErrorTest, ReasonSurvivesTheStatus) {
  absl::Status status = Error(v1::REASON_KEY_NOT_FOUND, "no key \"a\"");
  EXPECT_EQ(ReasonOf(status), v1::REASON_KEY_NOT_FOUND);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(DetailOf(status).message(), "no key \"a\"");
  EXPECT_EQ(ReasonName(ReasonOf(status)), "KEY_NOT_FOUND");
}

TEST(ErrorTest, ForeignStatusIsInternal) {
  EXPECT_EQ(ReasonOf(absl::NotFoundError("x")), v1::REASON_INTERNAL);
  EXPECT_EQ(ReasonOf(absl::OkStatus()), v1::REASON_UNSPECIFIED);
}

TEST(ErrorTest, TokenErrorCarriesTheReturnValue) {
  absl::Status status = TokenError(v1::REASON_TOKEN_FAILED, 0x30, "C_Sign");
  EXPECT_EQ(DetailOf(status).token_rv(), 0x30u);
  EXPECT_EQ(DetailOf(status).message(), "C_Sign returned 0x30");
}

TEST(ErrorTest, LongDetailIsClipped) {
  EXPECT_EQ(DetailOf(Error(v1::REASON_BUSY, std::string(5000, 'x'))).message().size(), 1024u);
}

}  // namespace
}  // namespace hsm
