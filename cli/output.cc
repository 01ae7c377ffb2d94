#include "cli/output.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/error.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {
bool json_output = false;
const std::string* query = nullptr;
constexpr std::string_view kReported = "(already reported)";

ExitCode ExitCodeFor(v1::Reason reason) {
  switch (reason) {
    case v1::REASON_UNREACHABLE:
    case v1::REASON_DEADLINE_EXCEEDED:
      return kExitUnreachable;
    case v1::REASON_OUTCOME_UNKNOWN:
      return kExitUnknown;
    default:
      return kExitFailed;
  }
}
}  // namespace

void SetJsonOutput(bool json) { json_output = json; }
bool JsonOutput() { return json_output; }

absl::Status AlreadyReported() { return absl::CancelledError(std::string(kReported)); }

void SetQuery(const std::string* path) { query = path; }

Json Select(const Json& document, std::string_view path) {
  if (path.empty()) return document;
  if (path.front() == '.') return Select(document, path.substr(1));
  if (path.front() != '[') {
    size_t end = std::min(path.find_first_of(".["), path.size());
    const Json* member = document.Find(path.substr(0, end));
    return member == nullptr ? Json() : Select(*member, path.substr(end));
  }
  size_t end = path.find(']');
  if (end == std::string_view::npos) return Json();
  std::string_view index = path.substr(1, end - 1), rest = path.substr(end + 1);
  if (index.empty()) {
    Json all = Json::Array();
    for (const Json& item : document.items()) all.Add(Select(item, rest));
    return all;
  }
  size_t position = 0;
  if (!absl::SimpleAtoi(std::string(index), &position) || position >= document.items().size()) return Json();
  return Select(document.items()[position], rest);
}

namespace {
// Text without quotes, a list one item a line: what a shell script reads.
std::string Plain(const Json& value) {
  if (auto text = value.AsString()) return *text + "\n";
  if (!value.IsArray()) return value.Dump() + "\n";
  std::string out;
  for (const Json& item : value.items()) out += Plain(item);
  return out;
}
}  // namespace

void Print(const Json& document, std::string_view table) {
  if (query != nullptr && !query->empty()) {
    Json part = Select(document, *query);
    fmt::print("{}", json_output ? part.Dump(2) + "\n" : Plain(part));
  } else if (json_output) {
    fmt::print("{}\n", document.Dump(2));
  } else {
    fmt::print("{}{}", table, table.empty() || table.back() == '\n' ? "" : "\n");
  }
  std::fflush(stdout);
}

std::string MessageOf(const absl::Status& status) {
  std::string message = DetailOf(status).message();
  std::string prefix = std::string(ReasonName(ReasonOf(status))) + ": ";
  return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
}

int PrintFailure(const absl::Status& status, bool usage_error, std::string_view help_for) {
  if (std::string(status.message()) == kReported) return kExitFailed;
  v1::Reason reason = ReasonOf(status);
  std::string hint = usage_error ? fmt::format("{} --help shows what it takes, with examples", help_for)
                                 : std::string(ReasonHint(reason));
  if (json_output) {
    Json error = Json::Object({{"code", ReasonName(reason)}, {"message", MessageOf(status)}, {"hint", hint}});
    fmt::print("{}\n", Json::Object({{"error", error}}).Dump(2));
  } else {
    fmt::print(stderr, "error: {}: {}{}{}\n", ReasonName(reason), MessageOf(status), hint.empty() ? "" : ". ",
               hint);
  }
  std::fflush(stdout);
  return usage_error ? kExitUsage : ExitCodeFor(reason);
}

std::string Columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string Fields(const std::vector<std::pair<std::string, std::string>>& fields) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, value] : fields) rows.push_back({name, value});
  return Columns(rows);
}

std::string TimeText(int64_t seconds) {
  if (seconds == 0) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixSeconds(seconds), absl::UTCTimeZone());
}

Progress::Progress(std::string title) : title_(std::move(title)), terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (terminal_ && !shown_.empty()) fmt::print(stderr, "\n");
}

void Progress::Update(uint64_t done, uint64_t total, std::string_view text) {
  std::string line;
  if (total > 0) {
    double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    if (terminal_) {
      size_t filled = static_cast<size_t>(share * 30);
      line = fmt::format("{} [{:<30}] {:3.0f} %  {}", title_, std::string(filled, '#'), share * 100, text);
    } else {
      line = fmt::format("{}: {} of {}  {}", title_, done, total, text);
    }
  } else {
    line = fmt::format("{}: {}", title_, text);
  }
  if (line == shown_) return;
  double now = absl::ToDoubleSeconds(RealClock().Uptime());
  if (terminal_) {
    fmt::print(stderr, "\r{}\x1b[K", line);
    std::fflush(stderr);
  } else {
    if (now - last_line_ < 2.0) return;
    last_line_ = now;
    fmt::print(stderr, "{}\n", line);
  }
  shown_ = line;
}

}  // namespace hsm::cli
