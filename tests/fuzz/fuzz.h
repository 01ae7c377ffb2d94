#pragma once
// The parsers that see bytes of strangers, of a disk or of another machine. A target takes any bytes at all;
// it must not crash, leak, hang or break the promise it checks with HSM_CHECK. tests/fuzz/corpus/NAME holds
// valid examples (make_corpus.cc), and every input that once broke something.
#include <span>

#include "common/bytes.h"

namespace hsm::fuzz {

struct Target {
  const char* name;  // of the corpus folder too
  void (*run)(ByteView input);
};
std::span<const Target> Targets();
const Target* FindTarget(std::string_view name);  // null if there is none

}  // namespace hsm::fuzz
