#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"

namespace hsm {
namespace {

using testing::HasSubstr;

Config Parsed(std::string_view text) {
  auto config = Config::Parse(text, "x.toml", "/etc/x/");
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

TEST(ConfigTest, ReadsEachKindAndLeavesDefaults) {
  Config file = Parsed(R"(
name = "p1"
size = 7
share = 0.5
on = true
list = ["a", "b"]
key = "k.pem"
[tls]
ca = "/abs/ca.pem"
[[part]]
name = "one"
[[part]]
name = "two"
[environment]
SOFTHSM2_CONF = "s.conf"
)");
  std::string name, key, ca, absent = "default";
  uint32_t size = 0;
  double share = 0;
  bool on = false;
  std::vector<std::string> list, parts;
  std::optional<double> maybe, none;
  file.Require("name", name);
  file.Read("size", size);
  file.Read("share", share);
  file.Read("share", maybe);
  file.Read("nothing", none);
  file.Read("on", on);
  file.Read("list", list);
  file.Read("absent", absent);
  file.RequirePath("key", key);
  file.Table("tls").ReadPath("ca", ca);
  for (Config& part : file.Tables("part")) {
    parts.emplace_back();
    part.Require("name", parts.back());
  }
  auto environment = file.Strings("environment");
  EXPECT_TRUE(file.Finish().ok()) << file.Finish();
  EXPECT_EQ(name, "p1");
  EXPECT_EQ(size, 7u);
  EXPECT_EQ(share, 0.5);
  EXPECT_EQ(maybe, 0.5);
  EXPECT_EQ(none, std::nullopt);
  EXPECT_TRUE(on);
  EXPECT_EQ(list, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(absent, "default");
  EXPECT_EQ(key, "/etc/x/k.pem");
  EXPECT_EQ(ca, "/abs/ca.pem");
  EXPECT_EQ(parts, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(environment.at("SOFTHSM2_CONF"), "s.conf");
}

struct Mistake {
  const char* name;
  const char* text;
  const char* message;
};
class ConfigMistakeTest : public testing::TestWithParam<Mistake> {};

TEST_P(ConfigMistakeTest, IsNamedWithItsLine) {
  auto parsed = Config::Parse(GetParam().text, "x.toml", "");
  absl::Status status = parsed.status();
  if (parsed.ok()) {
    Config file = *parsed;
    std::string text;
    uint32_t number = 0;
    bool flag = false;
    file.Require("name", text);
    file.Read("number", number);
    file.Read("flag", flag);
    file.Table("table").Read("flag", flag);
    file.Tables("list");
    status = file.Finish();
  }
  EXPECT_EQ(ReasonOf(status), v1::REASON_CONFIG_INVALID);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Config, ConfigMistakeTest,
    testing::Values(
        Mistake{"UnknownKey", "name = \"a\"\nnmae = 1\n", "x.toml:2: nmae: is not a known key"},
        Mistake{"UnknownKeyInTable", "name = \"a\"\n[table]\nfalg = true\n", "x.toml:3: table.falg"},
        Mistake{"UnknownTable", "name = \"a\"\n[other]\nx = 1\n", "other: is not a known key"},
        Mistake{"WrongType", "name = 5\n", "x.toml:1: name: must be a text"},
        Mistake{"OutOfRange", "name = \"a\"\nnumber = -1\n", "x.toml:2: number: must be from 0"},
        Mistake{"NumberForFlag", "name = \"a\"\nflag = 1\n", "x.toml:2: flag: must be true or false"},
        Mistake{"Missing", "number = 1\n", "name: is missing"},
        Mistake{"TableForList", "name = \"a\"\n[list]\n", "list: must be a list of tables"},
        Mistake{"NotToml", "name = \n", "x.toml:1"},
        Mistake{"BrokenHeader", "name = \"a\"\n[#", "x.toml: this is not TOML"},
        Mistake{"BrokenListHeader", "[[[a]]]\n", "x.toml: this is not TOML"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(ConfigTest, UnreadableFileIsAConfigurationError) {
  EXPECT_EQ(ReasonOf(Config::Load("/nonexistent.toml").status()), v1::REASON_CONFIG_INVALID);
}

TEST(ConfigTest, ADefaultDoesNotStandInForARequiredKey) {
  absl::StatusOr<Config> file = Config::Parse("size = 1\n", "x.toml", "");
  ASSERT_TRUE(file.ok());
  std::string name = "default", path = "default";
  uint32_t size = 0;
  file->Require("name", name);
  file->RequirePath("path", path);
  file->Read("size", size);
  EXPECT_EQ(ReasonOf(file->Finish()), v1::REASON_CONFIG_INVALID);
  EXPECT_THAT(std::string(file->Finish().message()), HasSubstr("name"));
}

// Found by fuzzing: the parser's behaviour is undefined there.
TEST(ConfigTest, CharactersBeyondAsciiAreRefused) {
  auto config = Config::Parse("a = 1\nd\xce\x9a = 2\n", "node.toml", "");
  EXPECT_EQ(ReasonOf(config.status()), v1::REASON_CONFIG_INVALID);
  EXPECT_NE(DetailOf(config.status()).message().find("node.toml:2"), std::string::npos) << config.status();
  EXPECT_TRUE(Config::Parse("a = \"\\u00e9\"\n", "node.toml", "").ok());
}

}  // namespace
}  // namespace hsm
