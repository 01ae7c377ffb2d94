#include "cli/texts.h"

#include <functional>

#include "fmt/format.h"

namespace hsm::cli {
namespace {

using Visit = std::function<void(const std::string& path, const CommandText& command)>;

void Walk(const CommandText& command, const std::string& path, const Visit& visit) {
  visit(path, command);
  for (const CommandText& sub : command.commands) Walk(sub, path + " " + sub.name, visit);
}

// Options whose value is a file or directory of this machine.
bool TakesPath(const CommandText::Option& option) {
  for (const std::string& flag : option.flags) {
    if (flag == "--data" || flag == "--target" || flag == "--module" || flag == "--sponsor-certificate" ||
        flag.ends_with("-file")) {
      return true;
    }
  }
  return false;
}

std::string Joined(const std::vector<std::string>& words, std::string_view between) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : std::string(between)) + word;
  return out;
}

// roff takes a backslash, and a dot or quote at the start of a line, as its own.
std::string Roff(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
      out += c;
    }
  }
  return out;
}

std::string RoffOption(const CommandText::Option& option) {
  std::string flags;
  for (const std::string& flag : option.flags)
    flags += (flags.empty() ? "" : ", ") + ("\\fB" + Roff(flag) + "\\fR");
  if (!option.argument.empty())
    flags += (flags.empty() ? "" : " ") + ("\\fI" + Roff(option.argument) + "\\fR");
  return fmt::format(".TP\n{}\n{}{}\n", flags, Roff(option.about), option.required ? " (required)" : "");
}

}  // namespace

std::string BashCompletion(const CommandText& program) {
  std::string paths, values, words;
  const std::string& name = program.name;
  Walk(program, name, [&](const std::string& path, const CommandText& command) {
    if (path != name) paths += fmt::format("      \"{}\") path=$path' '$word ;;\n", path);
    std::vector<std::string> offered;
    for (const CommandText& sub : command.commands) offered.push_back(sub.name);
    for (const CommandText::Option& option : command.options) {
      offered.insert(offered.end(), option.flags.begin(), option.flags.end());
      for (const std::string& flag : option.flags) {
        std::string action;
        if (!option.choices.empty()) action = fmt::format("compgen -W '{}'", Joined(option.choices, " "));
        if (TakesPath(option)) action = "compgen -f";
        if (!action.empty())
          values += fmt::format("    \"{}:{}\") COMPREPLY=($({} -- \"$current\")); return ;;\n", path, flag,
                                action);
      }
    }
    words += fmt::format("    \"{}\") words='{}' ;;\n", path, Joined(offered, " "));
  });
  return fmt::format(
      R"(# bash completion for {0}; made by `{0} completion bash`. Source it, or put it into
# /usr/share/bash-completion/completions/{0}.
_{0}() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} path={0} word words=
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$path $word" in
{1}    esac
  done
  # Options of every command may stand anywhere.
  case "$path:$previous" in
{2}    *:-o | *:--output) COMPREPLY=($(compgen -W 'table json' -- "$current")); return ;;
  esac
  case "$path" in
{3}  esac
  [[ $path == {0} ]] || words="$words -o --output --query --timeout"
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o filenames -o bashdefault -F _{0} {0}
)",
      name, paths, values, words);
}

std::string ManPage(const CommandText& program, const std::string& version) {
  std::string out =
      fmt::format(".TH {0} 1 \"\" \"{1}\" \"User Commands\"\n.SH NAME\n{0} \\- {2}\n", program.name,
                  Roff(version), Roff(program.about.substr(0, program.about.find('\n'))));
  out += fmt::format(".SH SYNOPSIS\n\\fB{0}\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n{1}\n",
                     program.name, Roff(program.about));
  Walk(program, program.name, [&](const std::string& path, const CommandText& command) {
    if (path == program.name) {
      out += ".SH GLOBAL OPTIONS\n";
    } else if (command.commands.empty()) {
      out += fmt::format(".SS \"{}\"\n{}\n", Roff(path), Roff(command.about));
    } else {
      out += fmt::format(".SH \"{}\"\n{}\n", Roff(path), Roff(command.about));
      return;
    }
    for (const CommandText::Option& option : command.options) out += RoffOption(option);
    if (!command.examples.empty()) out += fmt::format(".PP\n.nf\n{}\n.fi\n", Roff(command.examples));
  });
  out +=
      ".SH ENVIRONMENT\n.TP\nQHSM_ENDPOINT, QHSM_CA, QHSM_CERTIFICATE, QHSM_KEY, QHSM_HSM\nwhere the HSM is "
      "and who "
      "asks; \\fBqhsm dev env\\fR prints them\n.TP\nQHSM_OUTPUT\ntable or "
      "json\n.TP\nQHSM_DEV_DATA\ndirectory of the "
      "dev cluster\n.SH SEE ALSO\nqhsm\\-coordinator, qhsm\\-node, docs/operations.md\n";
  return out;
}

}  // namespace hsm::cli
