#pragma once
// Majorities, and what answers to a challenge prove. Pure.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hsm/v1/key.pb.h"

namespace hsm {

constexpr uint32_t Majority(size_t partitions) { return static_cast<uint32_t>(partitions / 2 + 1); }

// One partition's answers to one challenge about one symmetric key; empty = none came.
// PROVED for those that agree with the most common answer, if at least two do; DIFFERENT for the others then.
// A single answer is SELF_CHECKED. Two answers that differ, with no third to settle it, are DIFFERENT both.
std::vector<v1::ProofResult> CompareAnswers(std::span<const std::string> answers);

}  // namespace hsm
