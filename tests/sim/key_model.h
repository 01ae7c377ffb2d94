#pragma once
// The life of one key name as callers see it, for the linearizability checker (I11). A deleted key's name
// stays taken, a purged one's is free again; versions are identified by their ids, so that a new key of the
// same name is never mistaken for the old one.
#include <cstdint>
#include <string>
#include <vector>

#include "tests/sim/linearizability.h"

namespace hsm::testing {

struct KeyModel {
  enum class Kind { kCreate, kGet, kSetEnabled, kRotate, kDelete, kRecover, kPurge, kSign };
  enum class Answer {
    kOk,
    kUnknown,  // no answer, or OUTCOME_UNKNOWN: may have happened, may still happen
    kNotFound,
    kExists,
    kDisabled,
  };
  // Calls that failed without effect are no part of a history.
  struct Op {
    int64_t called = 0, returned = 0;
    Kind kind = Kind::kGet;
    Answer answer = Answer::kOk;
    bool enabled = true;  // kSetEnabled: asked for; kGet: seen
    std::string version;  // kCreate, kRotate: made; kGet: the latest; kSign: used
  };
  struct State {
    bool live = false;
    bool deleted = false;  // can be recovered
    bool enabled = false;
    std::string latest;  // "" = not known yet: made by a call without an answer
    std::string Key() const {
      return std::string(live ? "L" : deleted ? "D" : "-") + (enabled ? "E" : "-") + latest;
    }
  };
  static bool Step(State& state, const Op& op);
  static std::string Text(const std::vector<Op>& history);
};

}  // namespace hsm::testing
