#include "common/process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

namespace hsm {

void HardenProcess() {
  rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_DUMPABLE, 0);
  signal(SIGPIPE, SIG_IGN);
}

}  // namespace hsm
