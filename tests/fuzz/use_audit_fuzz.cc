// A file of a node's use audit, read back by the offline verifier.
#include "node/use_audit.h"

#include "tests/fuzz/targets.h"
#include "tests/fuzz/temporary_file.h"

namespace hsm::fuzz {

void UseAuditFile(ByteView input) {
  (void)PutInFile("use-0000000001.log", input);
  std::vector<UseEntry> entries;
  (void)VerifyUseAudit(Folder(), &entries);
}

}  // namespace hsm::fuzz
