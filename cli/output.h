#pragma once
// What a person or a script sees. With -o json: exactly one JSON document on standard output, for failures
// {"error":{"code","message","hint"}}. Progress always goes to standard error.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/json.h"

namespace hsm::cli {

enum ExitCode : int {
  kExitDone = 0,
  kExitFailed = 1,       // the service (or this program) refused or failed; the message says why
  kExitUsage = 2,        // the command line is wrong; nothing was sent
  kExitUnreachable = 3,  // no answer from the service, or no one to ask is configured
  kExitUnknown = 4,      // may or may not have happened: look, or repeat with the same --op-id
};

// Chosen once by main before any action runs.
void SetJsonOutput(bool json);
bool JsonOutput();

// --query: what Print shows instead of all, read when it prints; empty = all.
void SetQuery(const std::string* query);

// A failure whose answer has been printed already (e.g. a signature that does not verify): exit 1, no error
// text.
absl::Status AlreadyReported();

// Prints `document` (json) or `table` (anything else; always ends with a newline).
void Print(const Json& document, std::string_view table);
// "a.b[0].c", "list[].name": the part of `document` a path leads to; [] maps over a list. Null where nothing
// is.
Json Select(const Json& document, std::string_view path);
// What a status says, without the name of its reason.
std::string MessageOf(const absl::Status& status);
// Prints a failure and returns the exit code that belongs to it.
int PrintFailure(const absl::Status& status, bool usage_error, std::string_view help_for);

// Columns padded to their widest cell, two spaces apart. The first row is the heading.
std::string Columns(const std::vector<std::vector<std::string>>& rows);
// "name   value" lines.
std::string Fields(const std::vector<std::pair<std::string, std::string>>& fields);

std::string TimeText(int64_t seconds);  // "2026-11-25 07:20:00 UTC"; "-" for 0

// A bar on a terminal, a line each few seconds otherwise; silent when there is nothing new.
class Progress {
 public:
  explicit Progress(std::string title);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // `total` 0 = not known yet.
  void Update(uint64_t done, uint64_t total, std::string_view text);

 private:
  std::string title_;
  std::string shown_;
  bool terminal_;
  double last_line_ = -1e9;  // seconds of uptime
};

}  // namespace hsm::cli
