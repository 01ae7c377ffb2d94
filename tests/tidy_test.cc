// What a review would otherwise have to look for in every file: the folder graph, sizes, and the constructs
// that have one place of their own. A failure says where, and what to do instead.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/testing/paths.h"

namespace hsm {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kLinesMax = 500;

// An include may only point down this graph (CONTRIBUTING.md, "Layout"); tests/ may include anything.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"proto", {}},
    {"common", {}},
    {"store", {"common"}},
    {"pkcs11", {"common"}},
    {"client", {"common"}},
    {"node", {"pkcs11", "common"}},
    {"coordinator", {"store", "common"}},
    {"cli", {"client", "pkcs11", "common"}},
};

bool StartsWith(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }
bool EndsWith(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}
bool IsHeader(const std::string& path) { return EndsWith(path, ".h"); }
bool IsTest(const std::string& path) { return StartsWith(path, "tests/") || EndsWith(path, "_test.cc"); }

struct Rule {
  const char* pattern;
  std::vector<std::string> allowed;  // prefixes of paths
  const char* instead;
};

// For every source file.
const std::vector<Rule> kRules = {
    {"std::(j?thread|async)\\b",
     {"common/thread."},
     "use hsm::Thread (common/thread.h): named, joined by its owner, and a fiber in simulations"},
    {"\\.detach\\(\\)", {}, "every thread is owned and joined by a class"},
    {"std::(recursive_|timed_|shared_)*mutex\\b|std::condition_variable|absl::(Mutex|Notification|CondVar)"
     "\\b",
     {"common/mutex.", "tests/testing/crash_vfs.cc"},
     "use hsm::Mutex and CondVar (common/mutex.h): clang checks them, TSan and the simulation know them"},
    {"\\b(sleep_for|sleep_until|SleepFor|usleep|nanosleep)\\b",
     {"tests/testing/eventually.h", "tests/testing/faulty_module.cc", "cli/bench_"},
     "wait for what is waited for: Clock::Await, or in tests of real processes Eventually "
     "(tests/testing/eventually.h)"},
    {"\\bclock_nanosleep\\b", {"cli/bench_load.cc"}, "only the open loop of the benchmark keeps real time"},
    {"std::chrono::(steady|high_resolution)_clock",
     {},
     "use Clock::Uptime (common/clock.h), so that tests and simulations can say what time it is"},
    {"\\b(random_device|mt19937|default_random_engine|RAND_bytes)\\b|\\bs?rand\\(",
     {"common/random."},
     "use Random (common/random.h); tests use tests/testing/seeded_random"},
    {"\\bCK_ATTRIBUTE\\b",
     {"pkcs11/"},
     "templates are pkcs11/attributes.h; arrays of CK_ATTRIBUTE stay in pkcs11/"},
    {"\\b(TODO|FIXME|XXX)\\b", {}, "do it, or open an issue; the source does not keep a list"},
};

const Rule kSystemClock = {"std::chrono::system_clock|absl::(Now|GetCurrentTimeNanos)\\(",
                           {"common/clock.cc", "tests/testing/eventually.h", "cli/bench_"},
                           "use Clock (common/clock.h); the deadlines of gRPC are the one exception"};

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void CheckInclude(const std::string& path, const std::string& at, const std::string& line,
                  std::vector<std::string>& findings) {
  static const std::regex include("^#include \"([a-z0-9]+)/([^\"]+)\"");
  std::smatch match;
  if (!std::regex_search(line, match, include)) return;
  const std::string from = path.substr(0, path.find('/')), to = match[1];
  auto known = kMayInclude.find(from);
  if (from == to || (IsTest(path) && (to == "tests" || from == "tests"))) return;
  if (to == "tests") {
    findings.push_back(at + "only tests include tests/");
  } else if (kMayInclude.count(to) > 0 && known != kMayInclude.end() && known->second.count(to) == 0) {
    findings.push_back(
        at + from + " may not include " + to +
        ": an include only points down the folder graph (CONTRIBUTING.md). Move what both need "
        "into common/, or turn the dependency around with a callback");
  }
}

void CheckRule(const Rule& rule, const std::regex& pattern, const std::string& path, const std::string& at,
               const std::string& line, std::vector<std::string>& findings) {
  for (const std::string& prefix : rule.allowed) {
    if (StartsWith(path, prefix)) return;
  }
  std::smatch match;
  if (std::regex_search(line, match, pattern)) {
    findings.push_back(at + "`" + match.str() + "`: " + rule.instead);
  }
}

std::vector<std::string> Check(const std::string& path, const std::string& text) {
  static const std::vector<std::regex> patterns = [] {
    std::vector<std::regex> out;
    for (const Rule& rule : kRules) out.emplace_back(rule.pattern);
    return out;
  }();
  static const std::regex system_clock(kSystemClock.pattern);
  std::vector<std::string> findings;
  const std::vector<std::string> lines = Lines(text);
  const bool includes_grpc = text.find("#include <grpcpp/") != std::string::npos;
  const bool uses_grpc = includes_grpc || text.find("#include \"common/rpc_bind.h\"") != std::string::npos;
  if (lines.size() > static_cast<size_t>(kLinesMax)) {
    findings.push_back(path + ": " + std::to_string(lines.size()) + " lines, at most " +
                       std::to_string(kLinesMax) + ": split it where its subject splits");
  }
  if (IsHeader(path)) {
    if (lines.empty() || lines[0] != "#pragma once") {
      findings.push_back(path + ":1: a header begins with #pragma once");
    }
    if (includes_grpc && path != "common/rpc_bind.h") {  // templates over generated services
      findings.push_back(path +
                         ": grpcpp in a header costs every includer a second: include it in the .cc, "
                         "declare what the header needs");
    }
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string at = path + ":" + std::to_string(i + 1) + ": ";
    CheckInclude(path, at, lines[i], findings);
    if (path == "tests/tidy_test.cc") continue;  // names what it forbids
    for (size_t rule = 0; rule < kRules.size(); ++rule) {
      CheckRule(kRules[rule], patterns[rule], path, at, lines[i], findings);
    }
    if (!uses_grpc) CheckRule(kSystemClock, system_clock, path, at, lines[i], findings);
  }
  return findings;
}

std::string ReadAll(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(TidyTest, TheSourceKeepsItsRules) {
  const fs::path root = SourceDir();
  size_t files = 0;
  for (const auto& folder : fs::directory_iterator(root)) {
    const std::string name = folder.path().filename();
    if (!folder.is_directory() || name == "build" || name[0] == '.') continue;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      ++files;
      for (const std::string& finding :
           Check(fs::relative(entry.path(), root).string(), ReadAll(entry.path()))) {
        ADD_FAILURE() << finding;
      }
    }
  }
  EXPECT_GT(files, 200u) << "the check did not see the source";
}

TEST(TidyTest, EveryFolderWithSourceHasItsPlaceInTheGraph) {
  for (const auto& folder : fs::directory_iterator(SourceDir())) {
    if (!fs::exists(folder.path() / "CMakeLists.txt")) continue;
    const std::string name = folder.path().filename();
    if (name == "tests" || name == "build") continue;
    EXPECT_EQ(kMayInclude.count(name), 1u)
        << name << ": say in tests/tidy_test.cc and CONTRIBUTING.md what this folder may include";
  }
}

struct Offence {
  const char* name;
  const char* path;
  const char* text;
  const char* finding;  // "" = fine
};
class TidyRuleTest : public ::testing::TestWithParam<Offence> {};

TEST_P(TidyRuleTest, IsFoundOrAllowed) {
  const Offence& offence = GetParam();
  const std::vector<std::string> findings = Check(offence.path, offence.text);
  if (*offence.finding == 0) {
    EXPECT_THAT(findings, IsEmpty());
  } else {
    ASSERT_EQ(findings.size(), 1u);
    EXPECT_THAT(findings[0], HasSubstr(offence.finding));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Rules, TidyRuleTest,
    ::testing::Values(
        Offence{"UpwardInclude", "common/a.cc", "#include \"node/fence.h\"\n", "common may not include node"},
        Offence{"SidewaysInclude", "node/a.cc", "#include \"store/store.h\"\n", "node may not include store"},
        Offence{"DownwardInclude", "node/a.cc", "#include \"pkcs11/session.h\"\n", ""},
        Offence{"LibrariesAreNoFolders", "common/a.cc", "#include \"fmt/format.h\"\n", ""},
        Offence{"ProductIncludesTests", "node/a.cc", "#include \"tests/testing/a.h\"\n",
                "only tests include"},
        Offence{"TestIncludesTests", "node/a_test.cc", "#include \"tests/testing/a.h\"\n", ""},
        Offence{"TestsIncludeAnything", "tests/sim/a.cc", "#include \"node/fence.h\"\n", ""},
        Offence{"Thread", "node/a.cc", "std::thread t;\n", "use hsm::Thread"},
        Offence{"ThreadWhereItBelongs", "common/thread.h", "#pragma once\nstd::thread t;\n", ""},
        Offence{"Mutex", "store/a.cc", "absl::Mutex m;\n", "use hsm::Mutex"},
        Offence{"Sleep", "node/a_test.cc", "usleep(5);\n", "Eventually"},
        Offence{"WallClock", "node/a.cc", "std::chrono::system_clock::now();\n", "use Clock"},
        Offence{"DeadlineOfGrpc", "node/a.cc",
                "#include <grpcpp/grpcpp.h>\nstd::chrono::system_clock::now();\n", ""},
        Offence{"GrpcInHeader", "node/a.h", "#pragma once\n#include <grpcpp/grpcpp.h>\n",
                "grpcpp in a header"},
        Offence{"NoPragma", "node/a.h", "int a;\n", "#pragma once"},
        Offence{"Attributes", "node/a.cc", "CK_ATTRIBUTE a[3];\n", "stay in pkcs11/"},
        Offence{"AttributeTypes", "node/a.cc", "CK_ATTRIBUTE_TYPE a;\n", ""},
        Offence{"Wish", "node/a.cc", "// TODO: later\n", "open an issue"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(TidyTest, ALongFileIsFound) {
  std::string text;
  for (int i = 0; i < kLinesMax; ++i) text += "int a;\n";
  EXPECT_THAT(Check("node/a.cc", text), IsEmpty());
  EXPECT_EQ(Check("node/a.cc", text + "int b;\n").size(), 1u);
}

}  // namespace
}  // namespace hsm
