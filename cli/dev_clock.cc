// qhsm dev clock: time passes, and wall clocks are set, on a development cluster with a virtual clock.
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "cli/commands.h"
#include "cli/dev_cluster.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/status_macros.h"
#include "common/virtual_clock.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

struct ClockArguments {
  std::string data, time;
};

// "90d", "36h", "15m", "30s"
absl::StatusOr<absl::Duration> ParseSpan(const std::string& text) {
  int64_t number = 0;
  const std::map<char, absl::Duration> units = {
      {'d', absl::Hours(24)}, {'h', absl::Hours(1)}, {'m', absl::Minutes(1)}, {'s', absl::Seconds(1)}};
  auto unit = text.empty() ? units.end() : units.find(text.back());
  if (unit == units.end() || !absl::SimpleAtoi(text.substr(0, text.size() - 1), &number) || number < 0 ||
      number > 36'500) {
    return Error(v1::REASON_INVALID_ARGUMENT,
                 fmt::format("\"{}\" is no time such as 90d, 36h, 15m or 30s", text));
  }
  return number * unit->second;
}

absl::Status PushClock(const ClockArguments& a,
                       const std::function<void(ClockShift&, absl::Duration)>& push) {
  HSM_ASSIGN_OR_RETURN(std::string data, DevDirectory(a.data));
  HSM_ASSIGN_OR_RETURN(DevCluster cluster, LoadDevCluster(data));
  if (!cluster.virtual_clock) {
    return Error(v1::REASON_INVALID_ARGUMENT,
                 "this cluster goes by the system's clock; make one with qhsm dev up --clock virtual");
  }
  HSM_ASSIGN_OR_RETURN(ClockShift shift, ReadClockShift(cluster.ClockFile()));
  if (push) {
    HSM_ASSIGN_OR_RETURN(absl::Duration time, ParseSpan(a.time));
    push(shift, time);
    HSM_RETURN_IF_ERROR(WriteClockShift(cluster.ClockFile(), shift));
  }
  const int64_t now = absl::ToUnixSeconds(RealClock().Now() + shift.passed + shift.jumped);
  Print(Json::Object({{"now", now},
                      {"passed_seconds", absl::ToInt64Seconds(shift.passed)},
                      {"set_by_seconds", absl::ToInt64Seconds(shift.jumped)}}),
        Fields({{"now", TimeText(now)},
                {"passed", absl::FormatDuration(shift.passed)},
                {"set by", absl::FormatDuration(shift.jumped)}}));
  return absl::OkStatus();
}

absl::Status PassTime(const ClockArguments& a) {
  return PushClock(a, [](ClockShift& shift, absl::Duration time) { shift.passed += time; });
}
absl::Status SetForward(const ClockArguments& a) {
  return PushClock(a, [](ClockShift& shift, absl::Duration time) { shift.jumped += time; });
}
absl::Status SetBack(const ClockArguments& a) {
  return PushClock(a, [](ClockShift& shift, absl::Duration time) { shift.jumped -= time; });
}
absl::Status ShowClock(const ClockArguments& a) { return PushClock(a, nullptr); }

}  // namespace

void AddDevClockCommands(Command& dev) {
  auto a = std::make_shared<ClockArguments>();
  Command clock = dev.Sub("clock", "Push the clock of a cluster made with --clock virtual");
  auto push = [&](const std::string& name, const std::string& about,
                  absl::Status (*action)(const ClockArguments&)) {
    Command made = clock.Sub(name, about);
    made.Text("--data", a->data, "directory the cluster lives in; $QHSM_DEV_DATA if left out");
    made.Does([a, action] { return action(*a); });
    return made;
  };
  push("show", "Show its time", &ShowClock);
  Command pass = push("pass", "Let time pass: retention, dates and schedules come nearer", &PassTime);
  pass.Text("time", a->time, "90d, 36h, 15m, 30s").Required();
  pass.Example("qhsm dev clock pass 90d --data ~/demo");
  push("forward", "Set the wall clocks forward; no time passes", &SetForward)
      .Text("time", a->time, "90d, 36h, 15m, 30s")
      .Required();
  push("back", "Set the wall clocks back; no time passes", &SetBack)
      .Text("time", a->time, "90d, 36h, 15m, 30s")
      .Required();
}

}  // namespace hsm::cli
