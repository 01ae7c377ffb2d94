#include "tests/sim/key_model.h"

#include <fmt/format.h>

namespace hsm::testing {
namespace {

constexpr const char* kKinds[] = {"create", "get",     "set-enabled", "rotate",
                                  "delete", "recover", "purge",       "sign"};
constexpr const char* kAnswers[] = {"ok", "unknown", "not found", "exists", "disabled"};

// A version that a call without an answer made becomes known when it is first seen.
bool Matches(std::string& latest, const std::string& seen) {
  if (latest.empty()) latest = seen;
  return latest == seen;
}

}  // namespace

bool KeyModel::Step(State& state, const Op& op) {
  bool effect = op.answer == Answer::kOk || op.answer == Answer::kUnknown;
  const bool of_deleted = op.kind == Kind::kRecover || op.kind == Kind::kPurge;
  if (op.answer == Answer::kExists) return state.live || state.deleted;
  if (op.answer == Answer::kNotFound) return of_deleted ? !state.deleted : !state.live;
  if (op.answer == Answer::kDisabled) return state.live && !state.enabled;
  switch (op.kind) {
    case Kind::kCreate:
      if (state.live || state.deleted) return false;
      state = {true, false, true, op.version};
      return effect;
    case Kind::kGet:
      return state.live && state.enabled == op.enabled && Matches(state.latest, op.version);
    case Kind::kSetEnabled:
      if (!state.live) return false;
      state.enabled = op.enabled;
      return effect;
    case Kind::kRotate:
      if (!state.live) return false;
      state.latest = op.version;
      return effect;
    case Kind::kDelete:
      if (!state.live) return false;
      state.live = false;
      state.deleted = true;
      return effect;
    case Kind::kRecover:
      if (!state.deleted) return false;
      state.live = true;
      state.deleted = false;
      return effect;
    case Kind::kPurge:
      if (!state.deleted) return false;
      state = {};
      return effect;
    case Kind::kSign:
      return state.live && state.enabled && Matches(state.latest, op.version);
  }
  return false;
}

std::string KeyModel::Text(const std::vector<Op>& history) {
  std::string out;
  for (const Op& op : history) {
    out += fmt::format(
        "  [{:>12}, {:>12}] {} {}{} -> {}\n", op.called,
        op.returned == kNeverReturned ? "open" : std::to_string(op.returned),
        kKinds[static_cast<int>(op.kind)], op.version.substr(0, 8),
        op.kind == Kind::kSetEnabled || op.kind == Kind::kGet ? (op.enabled ? " enabled" : " disabled") : "",
        kAnswers[static_cast<int>(op.answer)]);
  }
  return out;
}

}  // namespace hsm::testing
