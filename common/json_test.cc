#include "common/json.h"

#include <gtest/gtest.h>

#include <limits>

#include "common/error.h"

namespace hsm {
namespace {

TEST(JsonTest, KeepsOrderAndNumbers) {
  Json json = Json::Object({{"b", 1}, {"a", Json::Array({true, nullptr, "x\n\"", 0.5})}});
  json.Add("big", std::numeric_limits<uint64_t>::max());
  json.Add("absent", std::optional<double>());
  json.Add("b", 2);
  EXPECT_EQ(json.Dump(), R"({"b":2,"a":[true,null,"x\n\"",0.5],"big":18446744073709551615,"absent":null})");
}

TEST(JsonTest, IndentsAndShowsEmptyOnes) {
  EXPECT_EQ(Json::Object({{"a", Json::Array({1})}, {"b", Json::Object()}}).Dump(2),
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
}

TEST(JsonTest, ReadsBackWhatItWrote) {
  std::string text = R"({"a":[1,-2,3.5,{"x":"é"}],"b":null,"c":false})";
  Json json = Json::Parse(text).value();
  EXPECT_EQ(json.Dump(), text);
  EXPECT_EQ(json.Find("a")->items()[1].AsInteger(), -2);
  EXPECT_EQ(json.Find("a")->items()[2].AsNumber(), 3.5);
  EXPECT_EQ(json.Find("a")->items()[2].AsInteger(), std::nullopt);
  EXPECT_EQ(json.Find("c")->AsBool(), false);
  EXPECT_EQ(json.Find("missing"), nullptr);
  EXPECT_TRUE(json.Find("b")->IsNull());
}

TEST(JsonTest, RefusesWhatIsNoneOrTooDeep) {
  for (const char* text : {"", "{", "[1,]", "{'a':1}", "nul", "1 2"}) {
    EXPECT_EQ(ReasonOf(Json::Parse(text).status()), v1::REASON_INVALID_ARGUMENT) << text;
  }
  EXPECT_TRUE(Json::Parse(std::string(30, '[') + std::string(30, ']')).ok());
  EXPECT_FALSE(Json::Parse(std::string(40, '[') + std::string(40, ']')).ok());
}

TEST(JsonTest, InfiniteIsNull) { EXPECT_EQ(Json(std::numeric_limits<double>::infinity()).Dump(), "null"); }

}  // namespace
}  // namespace hsm
