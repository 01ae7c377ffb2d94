#include "node/helper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "common/clock.h"
#include "common/error.h"
#include "common/process.h"
#include "common/status_macros.h"
#include "node/domain_keys.h"

namespace hsm {
namespace {

constexpr size_t kFrameBytesMax = 1024 * 1024;
constexpr absl::Duration kHandoverTimeout = absl::Minutes(5);  // officers may have to approve in between
constexpr absl::Duration kWriteTimeout = absl::Seconds(10);

using internal::v1::HelperFrame;

// Waits for `events` on `fd` until the deadline.
absl::Status Ready(int fd, short events, const Deadline& deadline) {
  for (;;) {
    absl::Duration left = deadline.Left();
    if (left <= absl::ZeroDuration())
      return Error(v1::REASON_DEADLINE_EXCEEDED, "the helper's pipe is silent");
    pollfd poller = {fd, events, 0};
    int result = poll(&poller, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (result > 0) return absl::OkStatus();
    if (result < 0 && errno != EINTR)
      return Error(v1::REASON_UNREACHABLE, "cannot wait for the helper's pipe");
  }
}

absl::Status ReadExactly(int fd, std::span<uint8_t> out, const Deadline& deadline) {
  size_t done = 0;
  while (done < out.size()) {
    HSM_RETURN_IF_ERROR(Ready(fd, POLLIN, deadline));
    ssize_t size = read(fd, out.data() + done, out.size() - done);
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size <= 0) return Error(v1::REASON_UNREACHABLE, "the other end of the helper's pipe is gone");
    done += static_cast<size_t>(size);
  }
  return absl::OkStatus();
}

absl::Status WriteExactly(int fd, ByteView bytes, const Deadline& deadline) {
  size_t done = 0;
  while (done < bytes.size()) {
    HSM_RETURN_IF_ERROR(Ready(fd, POLLOUT, deadline));
    // At most PIPE_BUF at once: a pipe that is ready takes that much without blocking.
    ssize_t size = write(fd, bytes.data() + done, std::min<size_t>(bytes.size() - done, 4096));
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size <= 0) return Error(v1::REASON_UNREACHABLE, "the other end of the helper's pipe is gone");
    done += static_cast<size_t>(size);
  }
  return absl::OkStatus();
}

// And no swap if the limits allow it: this process holds both PINs for a moment.
void Harden() {
  HardenProcess();
  rlimit locked = {};
  // Under a limit MCL_FUTURE would make later allocations fail, which is worse than a page that can be
  // swapped.
  bool unlimited = getrlimit(RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_cur == RLIM_INFINITY;
  mlockall(unlimited ? MCL_CURRENT | MCL_FUTURE : MCL_CURRENT);
}

// The exclusive lock of a node's data directory, for as long as this object lives. The node takes the same
// file.
class DirectoryLock {
 public:
  static absl::StatusOr<DirectoryLock> Take(const std::string& directory) {
    std::string path = directory + "/token.lock";
    int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return Error(v1::REASON_CONFIG_INVALID, "cannot open " + path);
    DirectoryLock lock(fd);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
      return Error(v1::REASON_LOCKED, "another process works on the token: " + path);
    return lock;
  }
  DirectoryLock(DirectoryLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~DirectoryLock() {
    if (fd_ >= 0) close(fd_);
  }

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
};

class Conversation {
 public:
  Conversation(const TokenConfig& config, int in_fd, int out_fd)
      : config_(config), in_(in_fd), out_(out_fd) {}

  absl::Status Run(HelperMode mode) {
    HSM_ASSIGN_OR_RETURN(HelperFrame request, ReadFrame(in_, kHandoverTimeout));
    switch (mode) {
      case HelperMode::kMakeDomain:
        return MakeDomain(request);
      case HelperMode::kProvisionAndJoin:
        return Join(request);
      case HelperMode::kSponsor:
        return Sponsor(request);
    }
    return Error(v1::REASON_INTERNAL, "no such mode");
  }

 private:
  absl::Status Send(const HelperFrame& frame) { return WriteFrame(out_, frame, kWriteTimeout); }

  absl::Status Done(const DomainKeys& keys) {
    HelperFrame frame;
    frame.mutable_done()->set_token_serial(keys.TokenSerial());
    frame.mutable_done()->set_domain_tag(keys.DomainTag());
    return Send(frame);
  }

  absl::StatusOr<HsmId> CheckHsm(const std::string& raw, uint32_t generation) {
    auto hsm = HsmId::From(raw);
    if (!hsm || generation == 0)
      return Error(v1::REASON_INVALID_ARGUMENT, "the helper got no HSM id or generation");
    return *hsm;
  }

  absl::Status MakeDomain(const HelperFrame& request) {
    if (!request.has_make_domain()) return Unexpected();
    uint32_t generation = request.make_domain().generation();
    HSM_ASSIGN_OR_RETURN(HsmId hsm, CheckHsm(request.make_domain().hsm_id(), generation));
    HSM_RETURN_IF_ERROR(ProvisionToken(config_).status());
    HSM_ASSIGN_OR_RETURN(auto keys, DomainKeys::Open(config_));
    HelperFrame answer;
    HSM_ASSIGN_OR_RETURN(*answer.mutable_bundle(), keys->Make(hsm, generation));
    HSM_RETURN_IF_ERROR(Send(answer));
    return Done(*keys);
  }

  absl::Status Join(const HelperFrame& request) {
    if (!request.has_join()) return Unexpected();
    HSM_ASSIGN_OR_RETURN(HsmId hsm, CheckHsm(request.join().hsm_id(), request.join().generation()));
    HSM_RETURN_IF_ERROR(ProvisionToken(config_).status());
    HSM_ASSIGN_OR_RETURN(auto keys, DomainKeys::Open(config_));
    HelperFrame answer;
    HSM_ASSIGN_OR_RETURN(*answer.mutable_join_key(), keys->BeginJoin(hsm, request.join().generation()));
    HSM_RETURN_IF_ERROR(Send(answer));
    HSM_ASSIGN_OR_RETURN(HelperFrame install, ReadFrame(in_, kHandoverTimeout));
    if (!install.has_install()) return Unexpected();
    HSM_RETURN_IF_ERROR(keys->CompleteJoin(install.install().keks(), install.install().bundle()));
    return Done(*keys);
  }

  absl::Status Sponsor(HelperFrame& request) {
    if (!request.has_sponsor()) return Unexpected();
    SecretBytes so_pin(ToBytes(request.sponsor().so_pin()));
    std::string* sent = request.mutable_sponsor()->mutable_so_pin();
    explicit_bzero(sent->data(), sent->size());
    HSM_ASSIGN_OR_RETURN(auto keys, DomainKeys::Open(config_, std::move(so_pin)));
    HelperFrame answer;
    HSM_ASSIGN_OR_RETURN(*answer.mutable_keks(),
                         keys->Sponsor(View(request.sponsor().spki()), request.sponsor().oaep_hash()));
    HSM_RETURN_IF_ERROR(Send(answer));
    return Done(*keys);
  }

  static absl::Status Unexpected() {
    return Error(v1::REASON_INVALID_ARGUMENT, "the helper got an unexpected frame");
  }

  const TokenConfig& config_;
  const int in_;
  const int out_;
};

}  // namespace

std::string_view HelperModeName(HelperMode mode) {
  switch (mode) {
    case HelperMode::kMakeDomain:
      return "make-domain";
    case HelperMode::kProvisionAndJoin:
      return "provision-and-join";
    case HelperMode::kSponsor:
      return "sponsor";
  }
  return "";
}

absl::StatusOr<HelperMode> ParseHelperMode(std::string_view name) {
  for (HelperMode mode : {HelperMode::kMakeDomain, HelperMode::kProvisionAndJoin, HelperMode::kSponsor})
    if (name == HelperModeName(mode)) return mode;
  return Error(v1::REASON_INVALID_ARGUMENT, "--mode is make-domain, provision-and-join or sponsor");
}

absl::Status WriteFrame(int fd, const HelperFrame& frame, absl::Duration timeout) {
  Deadline deadline(RealClock(), timeout);
  const size_t size = frame.ByteSizeLong();
  if (size > kFrameBytesMax) return Error(v1::REASON_LIMIT_EXCEEDED, "a helper frame is longer than 1 MiB");
  SecretBytes bytes(4 + size);
  std::span<uint8_t> out = bytes.ExposeForWriting();
  for (int i = 0; i < 4; ++i) out[static_cast<size_t>(i)] = static_cast<uint8_t>(size >> (24 - 8 * i));
  if (!frame.SerializeToArray(out.data() + 4, static_cast<int>(size)))
    return Error(v1::REASON_INTERNAL, "cannot encode a helper frame");
  return WriteExactly(fd, bytes.Expose(), deadline);
}

absl::StatusOr<HelperFrame> ReadFrame(int fd, absl::Duration timeout) {
  Deadline deadline(RealClock(), timeout);
  std::array<uint8_t, 4> header;
  HSM_RETURN_IF_ERROR(ReadExactly(fd, header, deadline));
  size_t size = 0;
  for (uint8_t byte : header) size = size << 8 | byte;
  if (size > kFrameBytesMax) return Error(v1::REASON_LIMIT_EXCEEDED, "a helper frame is longer than 1 MiB");
  SecretBytes bytes(size);
  HSM_RETURN_IF_ERROR(ReadExactly(fd, bytes.ExposeForWriting(), deadline));
  HelperFrame frame;
  if (!frame.ParseFromArray(bytes.Expose().data(), static_cast<int>(size)))
    return Error(v1::REASON_DATA_INVALID, "a helper frame does not parse");
  return frame;
}

int RunHelper(HelperMode mode, const TokenConfig& config, const std::string& lock_directory, int in_fd,
              int out_fd) {
  Harden();
  auto run = [&]() -> absl::Status {
    HSM_ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Take(lock_directory));
    return Conversation(config, in_fd, out_fd).Run(mode);
  };
  absl::Status status = run();
  if (status.ok()) return 0;
  HelperFrame failure;
  *failure.mutable_failure() = DetailOf(status);
  (void)WriteFrame(out_fd, failure, kWriteTimeout);
  return 1;
}

// --- parent ---

HelperProcess::~HelperProcess() { Close(); }

void HelperProcess::Close() {
  if (to_child_ >= 0) close(std::exchange(to_child_, -1));
  if (from_child_ >= 0) close(std::exchange(from_child_, -1));
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
}

absl::Status HelperProcess::Start(const std::string& program, const std::string& config_file,
                                  HelperMode mode) {
  if (pid_ > 0) return Error(v1::REASON_CONFLICT, "a helper runs already");
  int to_child[2], from_child[2];
  if (pipe2(to_child, O_CLOEXEC) != 0) return Error(v1::REASON_INTERNAL, "cannot make a pipe");
  if (pipe2(from_child, O_CLOEXEC) != 0) {
    close(to_child[0]);
    close(to_child[1]);
    return Error(v1::REASON_INTERNAL, "cannot make a pipe");
  }
  // Everything the child needs is made before the fork: in between only async-signal-safe calls are allowed.
  std::string mode_name(HelperModeName(mode));
  std::array<std::string, 6> words = {program, "helper", "--config", config_file, "--mode", mode_name};
  std::array<char*, 7> arguments{};
  for (size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  pid_ = fork();
  if (pid_ == 0) {
    dup2(to_child[0], STDIN_FILENO);
    dup2(from_child[1], STDOUT_FILENO);
    execv(program.c_str(), arguments.data());
    _exit(127);
  }
  close(to_child[0]);
  close(from_child[1]);
  to_child_ = to_child[1];
  from_child_ = from_child[0];
  if (pid_ < 0) {
    Close();
    return Error(v1::REASON_INTERNAL, "cannot start the helper");
  }
  return absl::OkStatus();
}

absl::Status HelperProcess::Write(const HelperFrame& frame, absl::Duration timeout) {
  if (to_child_ < 0) return Error(v1::REASON_CONFLICT, "no helper runs");
  return WriteFrame(to_child_, frame, timeout);
}

absl::StatusOr<HelperFrame> HelperProcess::Read(absl::Duration timeout) {
  if (from_child_ < 0) return Error(v1::REASON_CONFLICT, "no helper runs");
  HSM_ASSIGN_OR_RETURN(HelperFrame frame, ReadFrame(from_child_, timeout));
  if (frame.has_failure()) return Error(frame.failure());
  return frame;
}

absl::Status HelperProcess::Wait(absl::Duration timeout) {
  if (pid_ <= 0) return Error(v1::REASON_CONFLICT, "no helper runs");
  if (to_child_ >= 0) close(std::exchange(to_child_, -1));
  // The child's end closes its side of the pipe: waiting for that needs no polling of waitpid.
  Deadline deadline(RealClock(), timeout);
  uint8_t rest;
  absl::Status end = ReadExactly(from_child_, {&rest, 1}, deadline);
  if (ReasonOf(end) == v1::REASON_DEADLINE_EXCEEDED) return end;
  int state = 0;
  waitpid(pid_, &state, 0);
  pid_ = -1;
  Close();
  if (WIFEXITED(state) && WEXITSTATUS(state) == 0) return absl::OkStatus();
  return Error(v1::REASON_UNREACHABLE, "the helper ended with an error");
}

}  // namespace hsm
