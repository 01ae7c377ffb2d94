// NSS softokn as the second vendor: another meaning of 0x210A, an init string, and attributes it stores and
// ignores. The probe must find its RFC 5649 and refuse it as a partition.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "common/error.h"
#include "pkcs11/probe.h"

namespace hsm::pkcs11 {
namespace {

constexpr const char* kSoftokn = "libsoftokn3.so";

class SecondVendor : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/qhsm-nss-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    directory_ = pattern;
    LibraryOptions options{
        kSoftokn,
        "configdir='sql:" + directory_ + "' certPrefix='' keyPrefix='' secmod='secmod.db' flags= ",
        {}};
    auto library = Library::Load(options);
    if (ReasonOf(library.status()) == v1::REASON_CONFIG_INVALID) GTEST_SKIP() << library.status();
    ASSERT_TRUE(library.ok()) << library.status();
    library_ = *std::move(library);
  }
  void TearDown() override {
    if (library_ != nullptr) library_->Finalize();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  std::string directory_;
  std::unique_ptr<Library> library_;
};

TEST_F(SecondVendor, IsGradedInteropOnly) {
  CK_SLOT_ID slots[8];
  CK_ULONG count = 8;
  ASSERT_EQ((*library_)->C_GetSlotList(CK_TRUE, slots, &count), CKR_OK);
  absl::StatusOr<TokenInfo> info = Error(v1::REASON_NOT_FOUND, "no key store");
  for (CK_ULONG i = 0; i < count; ++i) {
    auto found = ReadTokenInfo(*library_, slots[i]);
    if (found.ok() && found->label == "NSS Certificate DB") info = found;
  }
  ASSERT_TRUE(info.ok());
  auto session = Session::Open(*library_, info->slot);
  ASSERT_TRUE(session.ok());
  // A new database: the SO logs in with an empty PIN and sets the user's.
  CK_UTF8CHAR pin[] = "softokn";
  ASSERT_EQ((*library_)->C_Login(session->handle(), CKU_SO, pin, 0), CKR_OK);
  ASSERT_EQ((*library_)->C_InitPIN(session->handle(), pin, 7), CKR_OK);
  ASSERT_EQ((*library_)->C_Logout(session->handle()), CKR_OK);
  ASSERT_EQ((*library_)->C_Login(session->handle(), CKU_USER, pin, 7), CKR_OK);

  ProbeReport report = RunProbe(*library_, *info, {});
  EXPECT_EQ(report.kwp, CKM_AES_KEY_WRAP_KWP) << report.ToJson();
  EXPECT_EQ(report.grade, ProbeGrade::kInteropOnly) << report.ToJson();
}

}  // namespace
}  // namespace hsm::pkcs11
