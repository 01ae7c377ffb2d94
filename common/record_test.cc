#include "common/record.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/random.h"

namespace hsm {
namespace {

KeyHead SampleHead() {
  KeyHead head;
  head.hsm = SystemRandom().NewId<HsmId>();
  head.data_set = 3;
  head.uid = SystemRandom().NewId<KeyUid>();
  head.name = "orders-2026";
  head.spec = {v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
  head.not_before = -5;
  head.operations = OperationsThatFit(head.spec);
  head.tags = {{"a", "1"}, {"b", ""}};
  head.latest = SystemRandom().NewId<KeyVersion>();
  head.version_count = 2;
  head.revision = 7;
  head.created = 1;
  head.updated = 2;
  return head;
}

VersionRecord SampleVersion() {
  VersionRecord version;
  version.uid = SystemRandom().NewId<KeyUid>();
  version.version = SystemRandom().NewId<KeyVersion>();
  version.ordinal = 1;
  version.spec = {v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 256};
  version.wrapped = Bytes(40, 0x5a);
  version.created = 99;
  return version;
}

TEST(RecordTest, WhatIsEncodedDecodesToTheSame) {
  KeyHead head = SampleHead();
  EXPECT_EQ(*DecodeHead(Encode(head)), head);
  VersionRecord version = SampleVersion();
  EXPECT_EQ(*DecodeVersion(Encode(version)), version);
}

TEST(RecordTest, EveryTruncationIsCorrupt) {
  Bytes head = Encode(SampleHead());
  for (size_t size = 0; size < head.size(); ++size) {
    EXPECT_EQ(ReasonOf(DecodeHead(ByteView(head).first(size)).status()), v1::REASON_RECORD_CORRUPT) << size;
  }
  Bytes version = Encode(SampleVersion());
  for (size_t size = 0; size < version.size(); ++size) {
    EXPECT_EQ(ReasonOf(DecodeVersion(ByteView(version).first(size)).status()), v1::REASON_RECORD_CORRUPT)
        << size;
  }
}

TEST(RecordTest, WhateverDecodesReencodesToTheSameBytes) {
  Bytes good = Encode(SampleHead());
  for (size_t at = 0; at < good.size(); ++at) {
    for (uint8_t flip : {0x01, 0x80}) {
      Bytes bytes = good;
      bytes[at] ^= flip;
      if (auto head = DecodeHead(bytes); head.ok()) {
        EXPECT_EQ(Encode(*head), bytes) << at;
      }
    }
  }
}

TEST(RecordTest, TrailingBytesAreCorrupt) {
  Bytes bytes = Encode(SampleVersion());
  bytes.push_back(0);
  EXPECT_EQ(ReasonOf(DecodeVersion(bytes).status()), v1::REASON_RECORD_CORRUPT);
}

TEST(RecordTest, MacInputSeparatesPurposes) {
  HsmId hsm;
  Bytes body = {1, 2, 3};
  EXPECT_NE(MacInput("record", hsm, 1, body), MacInput("backup", hsm, 1, body));
  EXPECT_NE(MacInput("record", hsm, 1, body), MacInput("record", hsm, 2, body));
}

TEST(RecordTest, AlgorithmsFitTheirKeys) {
  KeySpec p256{v1::KEY_TYPE_EC_HSM, v1::CURVE_P256, 256};
  EXPECT_TRUE(CheckAlgorithm(p256, v1::ALGORITHM_ES256).ok());
  EXPECT_EQ(ReasonOf(CheckAlgorithm(p256, v1::ALGORITHM_ES384)), v1::REASON_ALGORITHM_MISMATCH);
  KeySpec aes{v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 128};
  EXPECT_TRUE(CheckAlgorithm(aes, v1::ALGORITHM_A128GCM).ok());
  EXPECT_EQ(ReasonOf(CheckAlgorithm(aes, v1::ALGORITHM_A256GCM)), v1::REASON_ALGORITHM_MISMATCH);
}

TEST(RecordTest, NamesAreChecked) {
  EXPECT_TRUE(CheckKeyName("a-Z9").ok());
  for (std::string bad :
       {std::string(), std::string(128, 'a'), std::string("a b"), std::string("a/b"), std::string("ä")}) {
    EXPECT_EQ(ReasonOf(CheckKeyName(bad)), v1::REASON_INVALID_ARGUMENT) << bad;
  }
}

TEST(RecordTest, SpecDefaultsAndRefusals) {
  EXPECT_EQ(CheckSpec(v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 0)->size_bits, 2048u);
  EXPECT_EQ(CheckSpec(v1::KEY_TYPE_EC_HSM, v1::CURVE_UNSPECIFIED, 0)->curve, v1::CURVE_P256);
  EXPECT_FALSE(CheckSpec(v1::KEY_TYPE_RSA_HSM, v1::CURVE_UNSPECIFIED, 1024).ok());
  EXPECT_FALSE(CheckSpec(v1::KEY_TYPE_OCT_HSM, v1::CURVE_UNSPECIFIED, 512).ok());
  EXPECT_FALSE(CheckSpec(v1::KEY_TYPE_UNSPECIFIED, v1::CURVE_UNSPECIFIED, 0).ok());
}

}  // namespace
}  // namespace hsm
