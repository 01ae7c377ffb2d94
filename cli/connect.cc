#include "cli/connect.h"

#include "absl/strings/numbers.h"
#include "common/error.h"
#include "common/status_macros.h"
#include "common/virtual_clock.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {
const std::optional<double>* chosen_timeout = nullptr;
}  // namespace

void SetTimeout(const std::optional<double>* seconds) { chosen_timeout = seconds; }

std::optional<absl::Duration> ChosenTimeout() {
  if (chosen_timeout == nullptr || !*chosen_timeout) return std::nullopt;
  return absl::Seconds(**chosen_timeout);
}

absl::StatusOr<std::unique_ptr<Client>> Connect() {
  HSM_ASSIGN_OR_RETURN(ClientOptions options, ClientOptions::FromEnvironment());
  if (auto timeout = ChosenTimeout()) options.timeout = options.crypto_timeout = *timeout;
  HSM_ASSIGN_OR_RETURN(Clock * clock, ProcessClock(options.clock_file));
  return Client::Connect(std::move(options), *clock);
}

void Pause(absl::Duration time) {
  Mutex mutex;
  CondVar never;
  Deadline deadline(RealClock(), time);
  MutexLock lock(mutex);
  while (!deadline.Passed()) never.WaitFor(mutex, deadline.Left());
}

absl::StatusOr<int64_t> ParseTimeOption(const std::string& option, const std::string& text) {
  int64_t seconds = 0;
  absl::Time time;
  std::string problem;
  if (absl::SimpleAtoi(text, &seconds) && seconds >= 0) return seconds;
  if (absl::ParseTime(absl::RFC3339_full, text, &time, &problem)) return absl::ToUnixSeconds(time);
  if (absl::ParseTime("%Y-%m-%d", text, &time, &problem)) return absl::ToUnixSeconds(time);
  return Error(v1::REASON_INVALID_ARGUMENT,
               fmt::format("{} takes a time such as 2027-01-31T00:00:00Z, not \"{}\"", option, text));
}

absl::StatusOr<std::string> ParseBytesOption(const std::string& option, const std::string& text) {
  std::optional<Bytes> bytes = FromBase64Url(text);
  if (!bytes) return Error(v1::REASON_INVALID_ARGUMENT, fmt::format("{} is not base64url", option));
  return ToString(*bytes);
}

absl::StatusOr<std::string> ParseOpIdOption(const std::string& text) {
  if (text.empty()) return std::string();
  auto id = OpId::FromHexText(text);
  if (!id) return Error(v1::REASON_INVALID_ARGUMENT, "--op-id takes 32 hex digits");
  return id->Raw();
}

}  // namespace hsm::cli
