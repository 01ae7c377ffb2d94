#include "pkcs11/attributes.h"

#include <gtest/gtest.h>

#include <cstring>

#include "common/error.h"
#include "pkcs11/library.h"
#include "pkcs11/mechanism.h"
#include "pkcs11/rv.h"

namespace hsm::pkcs11 {
namespace {

TEST(TemplateTest, ModifiableComesLastWheneverItWasSet) {
  Template attributes = Template().Bool(CKA_MODIFIABLE, false).Bool(CKA_TOKEN, true).Text(CKA_LABEL, "x");
  CK_ATTRIBUTE* array = attributes.data();
  ASSERT_EQ(attributes.size(), 3u);
  EXPECT_EQ(array[0].type, CKA_TOKEN);
  EXPECT_EQ(array[1].type, CKA_LABEL);
  EXPECT_EQ(array[2].type, CKA_MODIFIABLE);
}

TEST(TemplateTest, LaterValuesReplaceEarlierOnes) {
  Template base = Template().Bool(CKA_TOKEN, true).Ulong(CKA_CLASS, CKO_SECRET_KEY);
  base.Merge(Template().Bool(CKA_TOKEN, false)).Remove(CKA_CLASS);
  ASSERT_EQ(base.size(), 1u);
  EXPECT_EQ(*static_cast<CK_BBOOL*>(base.data()[0].pValue), CK_FALSE);
}

TEST(TemplateTest, NestedTemplatesAreArrays) {
  Template outer =
      Template().Nested(CKA_UNWRAP_TEMPLATE, Template().Bool(CKA_SENSITIVE, true).Bool(CKA_TOKEN, false));
  Template copy = outer;
  CK_ATTRIBUTE* array = copy.data();
  ASSERT_EQ(array[0].ulValueLen, 2 * sizeof(CK_ATTRIBUTE));
  EXPECT_EQ(static_cast<CK_ATTRIBUTE*>(array[0].pValue)[0].type, CKA_SENSITIVE);
}

TEST(MechanismTest, GcmAlwaysSaysHowManyBitsTheIvHas) {
  Mechanism moved = Mechanism::Gcm(Bytes(12, 1), Bytes(3, 2), 128);
  Mechanism mechanism = std::move(moved);
  auto* parameters = static_cast<CK_GCM_PARAMS*>(mechanism.Get()->pParameter);
  EXPECT_EQ(parameters->ulIvLen, 12u);
  EXPECT_EQ(parameters->ulIvBits, 96u);
  EXPECT_EQ(parameters->ulAADLen, 3u);
  EXPECT_EQ(parameters->ulTagBits, 128u);
  parameters->pIv[0] = 9;  // as a token does that makes its own IV
  EXPECT_EQ(mechanism.UsedIv()[0], 9);
}

TEST(RvTest, ClassesDecideWhatTheDriverDoes) {
  EXPECT_EQ(ClassOf(CKR_OPERATION_ACTIVE), RvClass::kSession);
  EXPECT_EQ(ClassOf(CKR_KEY_HANDLE_INVALID), RvClass::kHandle);
  EXPECT_EQ(ClassOf(CKR_PIN_LOCKED), RvClass::kPin);
  EXPECT_EQ(ClassOf(CKR_DEVICE_REMOVED), RvClass::kDevice);
  EXPECT_EQ(ClassOf(CKR_GENERAL_ERROR), RvClass::kAmbiguous);
  EXPECT_EQ(ClassOf(0x80000001), RvClass::kRequest);
}

TEST(RvTest, ReasonDependsOnWhoseBytesWereAtFault) {
  EXPECT_EQ(ReasonOf(FromRv(CKR_GENERAL_ERROR, "C_Sign")), v1::REASON_TOKEN_FAILED);
  EXPECT_EQ(ReasonOf(FromRv(CKR_GENERAL_ERROR, "C_Decrypt", Input::kCiphertext)),
            v1::REASON_DECRYPTION_FAILED);
  EXPECT_EQ(ReasonOf(FromRv(CKR_WRAPPED_KEY_INVALID, "C_UnwrapKey", Input::kWrappedKey)),
            v1::REASON_RECORD_CORRUPT);
  EXPECT_EQ(ReasonOf(FromRv(CKR_DEVICE_ERROR, "C_Decrypt", Input::kCiphertext)), v1::REASON_TOKEN_FAILED);
  EXPECT_EQ(ReasonOf(FromRv(CKR_SESSION_COUNT, "C_OpenSession")), v1::REASON_TOKEN_CAPACITY);
  EXPECT_EQ(RvOf(FromRv(CKR_PIN_INCORRECT, "C_Login")), CKR_PIN_INCORRECT);
  EXPECT_EQ(RvOf(absl::OkStatus()), CKR_OK);
  EXPECT_TRUE(FromRv(CKR_OK, "C_Sign").ok());
}

TEST(TokenUriTest, PartsOfRfc7512AreFound) {
  auto uri = ParseTokenUri(
      "pkcs11:token=my%20token;serial=0123?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/"
      "pin");
  ASSERT_TRUE(uri.ok()) << uri.status();
  EXPECT_EQ(uri->module_path, "/usr/lib/softhsm/libsofthsm2.so");
  EXPECT_EQ(uri->label, "my token");
  EXPECT_EQ(uri->serial, "0123");
  EXPECT_EQ(uri->pin_source, "/etc/pin");
}

TEST(TokenUriTest, MistakesAndPinsAreRefused) {
  for (const char* text : {"", "pkcs12:token=x", "pkcs11:token=x?pin-value=1234"})
    EXPECT_EQ(ReasonOf(ParseTokenUri(text).status()), v1::REASON_CONFIG_INVALID) << text;
}

}  // namespace
}  // namespace hsm::pkcs11
