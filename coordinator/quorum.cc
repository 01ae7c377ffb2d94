#include "coordinator/quorum.h"

#include <map>

namespace hsm {

std::vector<v1::ProofResult> CompareAnswers(std::span<const std::string> answers) {
  std::map<std::string, size_t> count;
  size_t given = 0;
  for (const std::string& answer : answers) {
    if (answer.empty()) continue;
    ++count[answer];
    ++given;
  }
  size_t most = 0;
  size_t with_most = 0;  // how many different answers are that common
  for (const auto& [answer, times] : count) {
    if (times > most) {
      most = times;
      with_most = 0;
    }
    if (times == most) ++with_most;
  }
  std::vector<v1::ProofResult> out;
  for (const std::string& answer : answers) {
    if (answer.empty()) {
      out.push_back(v1::PROOF_RESULT_MISSING);
    } else if (given == 1) {
      out.push_back(v1::PROOF_RESULT_SELF_CHECKED);
    } else if (most >= 2 && with_most == 1 && count[answer] == most) {
      out.push_back(v1::PROOF_RESULT_PROVED);
    } else {
      out.push_back(v1::PROOF_RESULT_DIFFERENT);
    }
  }
  return out;
}

}  // namespace hsm
