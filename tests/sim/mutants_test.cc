// Seeded bugs: each of tests/sim/mutants.txt must be found, by simulation within 500 seeds or by the test it
// names. Needs a build with HSM_MUTANTS; any other build has no seeded bugs to find.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "common/mutant.h"
#include "tests/sim/scenarios.h"
#include "tests/sim/seeds.h"
#include "tests/testing/paths.h"

namespace hsm::testing {
namespace {

constexpr uint64_t kSeedsMax = 500;

struct Mutant {
  std::string name;
  bool short_run = false;           // also in the short form
  std::vector<std::string> finder;  // {"sim", scenario} or {program, gtest filter}
};

// Lines: NAME [short] sim SCENARIO | NAME [short] PROGRAM FILTER; # begins a comment.
std::vector<Mutant> ReadMutants() {
  std::ifstream file(SourceDir() + "/tests/sim/mutants.txt");
  EXPECT_TRUE(file.good());
  std::vector<Mutant> mutants;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    Mutant mutant;
    if (!(words >> mutant.name)) continue;
    for (std::string word; words >> word;) {
      if (word == "short" && mutant.finder.empty()) {
        mutant.short_run = true;
      } else {
        mutant.finder.push_back(word);
      }
    }
    mutants.push_back(std::move(mutant));
  }
  return mutants;
}

#ifdef HSM_MUTANTS

const Scenario* FindScenario(std::string_view name) {
  for (const auto& [known, scenario] : AllScenarios()) {
    if (known == name) return &scenario;
  }
  return nullptr;
}

void ExpectFound(const Mutant& mutant) {
  if (mutant.finder.empty()) {
    fmt::print("{}: nothing has been shown to find it\n", mutant.name);
    return;
  }
  ASSERT_EQ(mutant.finder.size(), 2u) << mutant.name;
  if (mutant.finder[0] == "sim") {
    const Scenario* scenario = FindScenario(mutant.finder[1]);
    ASSERT_NE(scenario, nullptr) << mutant.finder[1];
    std::string failure;
    SelectMutant(mutant.name);
    uint64_t seed = FirstFailingSeed({1, kSeedsMax}, *scenario, &failure);
    SelectMutant("");
    EXPECT_NE(seed, 0u) << mutant.name << " survived " << kSeedsMax << " seeds of " << mutant.finder[1];
    fmt::print("{}: found by {} at seed {}: {}\n", mutant.name, mutant.finder[1], seed,
               failure.substr(0, failure.find('\n')));
    return;
  }
  setenv("QHSM_MUTANT", mutant.name.c_str(), 1);
  std::string command = fmt::format("{}/tests/{} --gtest_filter={} >/dev/null 2>&1", BinaryDir(),
                                    mutant.finder[0], mutant.finder[1]);
  int found = std::system(command.c_str());
  unsetenv("QHSM_MUTANT");
  int sound = std::system(command.c_str());
  EXPECT_EQ(sound, 0) << command << " fails without a mutant";
  EXPECT_NE(found, 0) << mutant.name << " survived " << mutant.finder[0] << " " << mutant.finder[1];
  fmt::print("{}: found by {} {}\n", mutant.name, mutant.finder[0], mutant.finder[1]);
}

TEST(MutantsTest, Short) {
  for (const Mutant& mutant : ReadMutants()) {
    if (mutant.short_run) ExpectFound(mutant);
  }
}

TEST(MutantsTest, EachIsFound) {
  for (const Mutant& mutant : ReadMutants()) ExpectFound(mutant);
}

#else

TEST(MutantsTest, EachIsFound) {
  GTEST_SKIP() << "this build has no seeded bugs: configure with -DHSM_MUTANTS=ON";
}

#endif

TEST(MutantsTest, TheListNamesEverySeededBugOfTheSource) {
  std::set<std::string> listed, present;
  for (const Mutant& mutant : ReadMutants()) listed.insert(mutant.name);
  std::regex use("HSM_MUTANT\\(\"([a-z0-9-]+)\"\\)");
  for (const char* folder :
       {"common", "store", "pkcs11", "client", "node", "coordinator", "gateway", "cli"}) {
    std::filesystem::path root = std::filesystem::path(SourceDir()) / folder;
    if (!std::filesystem::exists(root)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (entry.path().extension() != ".cc") continue;
      std::ifstream file(entry.path());
      std::string text((std::istreambuf_iterator<char>(file)), {});
      for (std::sregex_iterator at(text.begin(), text.end(), use), end; at != end; ++at)
        present.insert((*at)[1]);
    }
  }
  std::vector<std::string> missing, gone;
  std::set_difference(present.begin(), present.end(), listed.begin(), listed.end(),
                      std::back_inserter(missing));
  std::set_difference(listed.begin(), listed.end(), present.begin(), present.end(), std::back_inserter(gone));
  EXPECT_EQ(missing, std::vector<std::string>()) << "seeded bugs that tests/sim/mutants.txt does not name";
  EXPECT_EQ(gone, std::vector<std::string>()) << "tests/sim/mutants.txt names what the source no longer has";
}

}  // namespace
}  // namespace hsm::testing
