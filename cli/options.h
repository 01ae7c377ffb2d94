#pragma once
// The command line, declared: nouns, verbs, options, examples. CLI11 is behind it and nowhere else.
//
//   auto name = std::make_shared<std::string>();
//   Command show = key.Sub("show", "Show one key");
//   show.Text("--name", *name, "name of the key").Required();
//   show.Example("qhsm key show --name invoices");
//   show.Does([name] { return ShowKey(*name); });
//
// What an option writes to must live until Parse has run the action; actions own it by capture.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace hsm::cli {

// What the command line takes, for texts made from it (cli/texts.h).
struct CommandText {
  struct Option {
    std::vector<std::string> flags;    // "-n", "--name"; empty for a positional argument
    std::string argument;              // "N", "TEXT", "KILL|STOP"; empty for a flag
    std::vector<std::string> choices;  // of OneOf
    std::string about;
    bool required = false;
  };
  std::string name, about, examples;
  std::vector<Option> options;
  std::vector<CommandText> commands;
};

class Command {
 public:
  Command Sub(const std::string& name, const std::string& about);

  Command& Text(const std::string& flags, std::string& out, const std::string& about);
  Command& Text(const std::string& flags, std::optional<std::string>& out, const std::string& about);
  Command& Texts(const std::string& flags, std::vector<std::string>& out, const std::string& about);
  Command& Number(const std::string& flags, uint32_t& out, const std::string& about);
  Command& Number(const std::string& flags, std::optional<uint32_t>& out, const std::string& about);
  Command& Number(const std::string& flags, double& out, const std::string& about);
  Command& Number(const std::string& flags, std::optional<double>& out, const std::string& about);
  Command& Flag(const std::string& flags, bool& out, const std::string& about);
  // These change the option declared just before.
  Command& Required();
  Command& OneOf(
      const std::vector<std::string>& values);  // any case; the spelling given here is what is stored
  Command& Repeatable();                        // Texts: one value each time it is given
  // Only for an option whose target no other command shares: the variable is read for commands not chosen,
  // too.
  Command& FromEnvironment(const std::string& variable);

  Command& Example(const std::string& line);  // shown under --help, in order
  Command& Hidden();
  Command& Does(std::function<absl::Status()> action);

 private:
  friend class Options;
  struct Shared;
  Command(CLI::App* app, std::shared_ptr<Shared> shared) : app_(app), shared_(std::move(shared)) {}
  CLI::App* app_;
  std::shared_ptr<Shared> shared_;
  CLI::Option* last_ = nullptr;
};

// The whole command line of one program.
class Options {
 public:
  Options(const std::string& program, const std::string& about);
  ~Options();
  Command& root() { return root_; }

  struct Outcome {
    absl::Status status;  // what the action answered; INVALID_ARGUMENT for a usage error
    bool usage_error = false;
    std::string help_for;  // "qhsm key create": where to look after a usage error
    std::string text;      // help or version text to print; the action did not run
  };
  Outcome Parse(int argc, const char* const* argv);
  CommandText Describe() const;  // without hidden commands

 private:
  std::unique_ptr<CLI::App> app_;
  Command root_;
};

}  // namespace hsm::cli
