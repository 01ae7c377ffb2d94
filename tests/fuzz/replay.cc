// Runs every target over its corpus, and over mutations of it drawn from a seed: the short form of fuzzing,
// for any compiler.
//   fuzz_replay CORPUS [--target NAME] [--mutations N] [--seed N]
#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "tests/fuzz/fuzz.h"
#include "tests/testing/seeded_random.h"

namespace hsm::fuzz {
namespace {

constexpr size_t kInputBytesMax = 1 << 20;

struct Options {
  std::string corpus, target;
  uint64_t mutations = 200;  // of each input
  uint64_t seed = 1;
};

// Changes bytes, cuts, repeats a part, or takes a part of another input: what parsers trip over.
Bytes Mutate(const std::vector<Bytes>& inputs, const Bytes& input, Random& random) {
  Bytes out = input;
  const uint64_t changes = 1 + random.Below(4);
  for (uint64_t i = 0; i < changes; ++i) {
    const size_t at = random.Below(out.size() + 1);
    switch (random.Below(5)) {
      case 0:
        if (at < out.size()) out[at] = static_cast<uint8_t>(random.Below(256));
        break;
      case 1:
        if (at < out.size()) out[at] ^= static_cast<uint8_t>(1u << random.Below(8));
        break;
      case 2:
        out.resize(at);
        break;
      case 3: {
        const Bytes part(out.begin() + static_cast<ptrdiff_t>(at),
                         out.begin() + static_cast<ptrdiff_t>(std::min(out.size(), at + random.Below(64))));
        out.insert(out.begin() + static_cast<ptrdiff_t>(at), part.begin(), part.end());
        break;
      }
      default: {
        const Bytes& other = inputs[random.Below(inputs.size())];
        const size_t from = random.Below(other.size() + 1);
        out.resize(at);
        out.insert(out.end(), other.begin() + static_cast<ptrdiff_t>(from), other.end());
      }
    }
  }
  return out;
}

// The input that is being run lies here when the process dies.
void Keep(const Target& target, const Bytes& input, const char* folder) {
  (void)WriteFileAtomic(std::string(folder) + "/crash-" + target.name, input);
}

absl::StatusOr<uint64_t> RunTarget(const Target& target, const Options& options) {
  const char* keep = std::getenv("QHSM_FUZZ_KEEP");  // a folder: slow, for finding which input it was
  std::vector<Bytes> inputs;
  const std::string folder = options.corpus + "/" + target.name;
  auto names = ListDirectory(folder);
  if (!names.ok() || names->empty()) return absl::NotFoundError("no corpus in " + folder);
  for (const std::string& name : *names) {
    auto input = ReadFile(folder + "/" + name, kInputBytesMax);
    if (!input.ok()) return input.status();
    inputs.push_back(*std::move(input));
  }
  testing::SeededRandom random(options.seed);
  uint64_t runs = 0;
  for (const Bytes& input : inputs) {
    for (uint64_t i = 0; i <= options.mutations; ++i, ++runs) {
      const Bytes used = i == 0 ? input : Mutate(inputs, input, random);
      if (keep != nullptr) Keep(target, used, keep);
      target.run(used);
    }
  }
  return runs;
}

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (!argument.starts_with("--")) {
      options.corpus = argument;
    } else if (i + 1 == argc) {
      fmt::print(stderr, "{} needs a value\n", argument);
      return 2;
    } else if (argument == "--target") {
      options.target = argv[++i];
    } else if (argument == "--mutations") {
      options.mutations = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--seed") {
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      fmt::print(stderr, "unknown argument {}\n", argument);
      return 2;
    }
  }
  google::protobuf::SetLogHandler(nullptr);  // it writes a line for every text that is no UTF-8
  fmt::print("seed {}\n", options.seed);
  for (const Target& target : Targets()) {
    if (!options.target.empty() && options.target != target.name) continue;
    const absl::Duration began = RealClock().Uptime();
    fmt::print("{:14} ", target.name);
    std::fflush(stdout);  // the line ends when the target has: a crash shows which one it was
    auto runs = RunTarget(target, options);
    if (!runs.ok()) {
      fmt::print("{}\n", runs.status().ToString());
      return 1;
    }
    fmt::print("{:8} inputs in {:.1f} s\n", *runs, absl::ToDoubleSeconds(RealClock().Uptime() - began));
  }
  return 0;
}

}  // namespace
}  // namespace hsm::fuzz

int main(int argc, char** argv) { return hsm::fuzz::Main(argc, argv); }
