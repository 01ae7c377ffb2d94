#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <map>
#include <sstream>
#include <utility>

#include "common/error.h"

namespace hsm::cli {

struct Command::Shared {
  std::map<CLI::App*, std::function<absl::Status()>> actions;
};

Command Command::Sub(const std::string& name, const std::string& about) {
  CLI::App* sub = app_->add_subcommand(name, about);
  sub->footer("");  // not its parent's examples
  if (app_->get_parent() != nullptr) app_->require_subcommand(1);
  return Command(sub, shared_);
}

Command& Command::Text(const std::string& flags, std::string& out, const std::string& about) {
  last_ = app_->add_option(flags, out, about)->type_name("TEXT");
  return *this;
}
Command& Command::Text(const std::string& flags, std::optional<std::string>& out, const std::string& about) {
  last_ = app_->add_option(flags, out, about)->type_name("TEXT");
  return *this;
}
Command& Command::Texts(const std::string& flags, std::vector<std::string>& out, const std::string& about) {
  last_ = app_->add_option(flags, out, about)->type_name("TEXT ...");
  return *this;
}
Command& Command::Number(const std::string& flags, uint32_t& out, const std::string& about) {
  last_ = app_->add_option(flags, out, about)->type_name("N");
  return *this;
}
Command& Command::Number(const std::string& flags, std::optional<uint32_t>& out, const std::string& about) {
  last_ = app_->add_option(flags, out, about)->type_name("N");
  return *this;
}
Command& Command::Number(const std::string& flags, double& out, const std::string& about) {
  last_ = app_->add_option(flags, out, about)->type_name("X");
  return *this;
}
Command& Command::Number(const std::string& flags, std::optional<double>& out, const std::string& about) {
  last_ = app_->add_option(flags, out, about)->type_name("X");
  return *this;
}
Command& Command::Flag(const std::string& flags, bool& out, const std::string& about) {
  last_ = app_->add_flag(flags, out, about);
  return *this;
}

Command& Command::Required() {
  last_->required();
  return *this;
}
Command& Command::OneOf(const std::vector<std::string>& values) {
  std::string shown;
  for (const std::string& value : values) shown += (shown.empty() ? "" : "|") + value;
  last_->type_name(shown);
  auto check = [values, shown](std::string& given) -> std::string {
    for (const std::string& value : values) {
      if (CLI::detail::to_lower(value) == CLI::detail::to_lower(given)) {
        given = value;
        return {};
      }
    }
    return "'" + given + "' is none of " + shown;
  };
  last_->transform(CLI::Validator(check, ""));
  return *this;
}
Command& Command::Repeatable() {
  last_->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return *this;
}
Command& Command::FromEnvironment(const std::string& variable) {
  last_->envname(variable);
  return *this;
}

Command& Command::Example(const std::string& line) {
  std::string footer = app_->get_footer();
  if (footer.empty()) footer = "Examples:";
  app_->footer(footer + "\n  " + line);
  return *this;
}
Command& Command::Hidden() {
  app_->group("");
  return *this;
}
Command& Command::Does(std::function<absl::Status()> action) {
  shared_->actions[app_] = std::move(action);
  return *this;
}

Options::Options(const std::string& program, const std::string& about)
    : app_(std::make_unique<CLI::App>(about, program)),
      root_(app_.get(), std::make_shared<Command::Shared>()) {
  app_->fallthrough();  // so that -o may stand anywhere; sub-commands inherit it
  app_->set_help_flag("-h,--help", "Show what this does, with examples");
  app_->get_formatter()->column_width(34);
}
Options::~Options() = default;

namespace {
CLI::App* Deepest(CLI::App* app) {
  for (auto chosen = app->get_subcommands(); !chosen.empty(); chosen = app->get_subcommands())
    app = chosen.front();
  return app;
}
std::string FullName(const CLI::App* app) {
  std::string name = app->get_name();
  for (app = app->get_parent(); app != nullptr; app = app->get_parent()) name = app->get_name() + " " + name;
  return name;
}
}  // namespace

namespace {

CommandText::Option DescribeOption(const CLI::Option& option) {
  CommandText::Option out;
  for (const std::string& name : option.get_snames()) out.flags.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) out.flags.push_back("--" + name);
  out.about = option.get_description();
  out.required = option.get_required();
  if (option.get_items_expected_max() == 0) return out;  // a flag
  out.argument = option.get_type_name();
  if (out.flags.empty()) out.argument = option.get_name(true);
  if (out.argument.find('|') == std::string::npos) return out;
  std::istringstream choices(out.argument);
  for (std::string choice; std::getline(choices, choice, '|');) out.choices.push_back(choice);
  return out;
}

CommandText DescribeCommand(const CLI::App& app) {
  CommandText out{.name = app.get_name(), .about = app.get_description(), .examples = app.get_footer()};
  for (const CLI::Option* option : app.get_options()) out.options.push_back(DescribeOption(*option));
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!sub->get_group().empty()) out.commands.push_back(DescribeCommand(*sub));
  }
  return out;
}

}  // namespace

CommandText Options::Describe() const { return DescribeCommand(*app_); }

Options::Outcome Options::Parse(int argc, const char* const* argv) {
  Outcome outcome;
  try {
    app_->parse(argc, argv);
  } catch (const CLI::Success&) {  // --help, --version
    CLI::App* chosen = Deepest(app_.get());
    outcome.text = chosen->help(chosen == app_.get() ? "" : FullName(chosen->get_parent()));
    return outcome;
  } catch (const CLI::ParseError& error) {
    outcome.usage_error = true;
    outcome.help_for = FullName(Deepest(app_.get()));
    outcome.status = Error(v1::REASON_INVALID_ARGUMENT, error.what());
    return outcome;
  }
  auto action = root_.shared_->actions.find(Deepest(app_.get()));
  if (action == root_.shared_->actions.end()) {
    outcome.usage_error = true;
    outcome.help_for = FullName(Deepest(app_.get()));
    outcome.status = Error(v1::REASON_INVALID_ARGUMENT, "say what to do");
    return outcome;
  }
  if (action->first == app_.get() && argc == 1) {
    outcome.text = app_->help();
    return outcome;
  }
  outcome.status = action->second();
  return outcome;
}

}  // namespace hsm::cli
