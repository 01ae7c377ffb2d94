// The entry points of libFuzzer; QHSM_FUZZ_TARGET names the target. One program for all: linking is the
// longer part.
#include <google/protobuf/stubs/logging.h>

#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/fuzz.h"

namespace {
const hsm::fuzz::Target* target = nullptr;
}

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  const char* name = std::getenv("QHSM_FUZZ_TARGET");
  target = hsm::fuzz::FindTarget(name == nullptr ? "" : name);
  if (target != nullptr) return 0;
  std::fprintf(stderr, "QHSM_FUZZ_TARGET must be one of:");
  for (const hsm::fuzz::Target& one : hsm::fuzz::Targets()) std::fprintf(stderr, " %s", one.name);
  std::fprintf(stderr, "\n");
  std::exit(2);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  target->run({data, size});
  return 0;
}
