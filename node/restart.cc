#include "node/restart.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "common/error.h"

namespace hsm {
namespace {
constexpr char kVariable[] = "QHSM_INHERITED_PIPE";  // the number of the descriptor, nothing secret
constexpr size_t kPinBytesMax = 1024;                // less than a pipe holds
}  // namespace

absl::Status RestartWithSoPin(const SecretBytes& so_pin, char** arguments) {
  int ends[2];
  if (so_pin.size() > kPinBytesMax || pipe(ends) != 0) {
    return Error(v1::REASON_INTERNAL, "no pipe for the restart");
  }
  ByteView bytes = so_pin.Expose();
  bool written = write(ends[1], bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
  close(ends[1]);
  if (written && setenv(kVariable, std::to_string(ends[0]).c_str(), 1) == 0) {
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    execv("/proc/self/exe", arguments);
  }
  close(ends[0]);
  return Error(v1::REASON_INTERNAL, "the process cannot restart itself");
}

SecretBytes TakeInheritedSoPin() {
  const char* number = getenv(kVariable);
  if (number == nullptr) return SecretBytes();
  int descriptor = atoi(number);
  unsetenv(kVariable);
  if (descriptor <= 2) return SecretBytes();
  SecretBytes buffer(kPinBytesMax);
  ssize_t size = read(descriptor, buffer.ExposeForWriting().data(), buffer.size());
  close(descriptor);
  if (size <= 0) return SecretBytes();
  ByteView got = buffer.Expose().first(static_cast<size_t>(size));
  return SecretBytes(Bytes(got.begin(), got.end()));
}

}  // namespace hsm
