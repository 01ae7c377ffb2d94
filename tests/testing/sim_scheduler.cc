#include "tests/testing/sim_scheduler.h"

#include <cxxabi.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <exception>

#include "common/check.h"
#include "tests/testing/seeded_random.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define SIM_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIM_ASAN 1
#endif

namespace hsm::testing {
namespace {

constexpr size_t kStackBytes = 1 << 20;  // touched pages only
constexpr size_t kGuardBytes = 4096;
constexpr size_t kNotesKept = 400;
constexpr absl::Duration kStepTime = absl::Microseconds(1);  // so that time passes for code that never waits

// Stacks are used again by later fibers, of later seeds too.
std::vector<void*>& FreeStacks() {
  static std::vector<void*> stacks;
  return stacks;
}

void* TakeStack() {
  std::vector<void*>& free = FreeStacks();
  if (!free.empty()) {
    void* stack = free.back();
    free.pop_back();
#ifdef SIM_ASAN
    // A killed fiber never left its frames: their red zones are still marked.
    __asan_unpoison_memory_region(stack, kStackBytes);
#endif
    return stack;
  }
  void* stack =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  HSM_CHECK(stack != MAP_FAILED);
  HSM_CHECK(mprotect(stack, kGuardBytes, PROT_NONE) == 0);
  return stack;
}

// What the C++ runtime keeps per operating-system thread about exceptions in flight: a fiber inside a handler
// must find its own again.
struct ExceptionState {
  void* caught = nullptr;
  unsigned int uncaught = 0;
};

SimScheduler* entering = nullptr;  // makecontext passes ints only

}  // namespace

struct SimScheduler::Fiber {
  enum class State { kRunnable, kWaiting, kEnded };
  ~Fiber() {
#ifdef SIM_TSAN
    if (stack != nullptr) __tsan_destroy_fiber(tsan);
#endif
    if (stack != nullptr) FreeStacks().push_back(stack);
  }
  int number = 0;
  ProcessId process = kWorld;
  std::string name;
  std::function<void()> body;
  State state = State::kRunnable;
  const void* channel = nullptr;
  std::pair<absl::Duration, uint64_t> timer{absl::InfiniteDuration(), 0};
  absl::Duration since;  // waiting
  std::vector<const void*> locks;
  bool joined = false;  // somebody keeps the pointer
  void* stack = nullptr;
  ucontext_t context;
  ExceptionState exceptions;
#ifdef SIM_TSAN
  void* tsan = nullptr;
#endif
#ifdef SIM_ASAN
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
#endif
};

SimScheduler::SimScheduler(const SimOptions& options) : options_(options) {
  SeedDraws(options.seed, draws_);
  processes_.push_back({"world"});
}

// Threads that never ended leak what they own, as if the machine had lost its power; only their stacks are
// used again.
SimScheduler::~SimScheduler() {
  for (std::unique_ptr<Fiber>& fiber : fibers_) killed_.push_back(std::move(fiber));
  for (std::unique_ptr<Fiber>& fiber : killed_) new std::function<void()>(std::move(fiber->body));
}

absl::Status SimScheduler::Run(std::function<void()> body) {
  HSM_CHECK(CurrentScheduler() == nullptr);
  outside_ = std::make_unique<Fiber>();
  outside_->name = "outside";
#ifdef SIM_TSAN
  outside_->tsan = __tsan_get_current_fiber();
#endif
  current_ = outside_.get();
  NewFiber(kWorld, "main", [this, body = std::move(body)] {
    body();
    done_ = true;
  });
  SetCurrentScheduler(this);
  SwitchAway();
  SetCurrentScheduler(nullptr);
  ended_.reset();
  if (failure_.empty()) return absl::OkStatus();
  return absl::InternalError(failure_);
}

ProcessId SimScheduler::NewProcess(std::string name) {
  processes_.push_back({std::move(name)});
  return static_cast<ProcessId>(processes_.size()) - 1;
}

void SimScheduler::Kill(ProcessId process) {
  HSM_CHECK(process != kWorld);
  processes_[process].killed = true;
  Note(fmt::format("kill {}", processes_[process].name));
  for (const std::unique_ptr<Fiber>& fiber : fibers_) {
    if (fiber->process == process && fiber.get() != current_) Forget(fiber.get());
  }
  processes_[process].held.clear();
  for (std::unique_ptr<Fiber>& fiber : fibers_) {
    if (fiber->process == process && fiber.get() != current_) killed_.push_back(std::move(fiber));
  }
  std::erase(fibers_, nullptr);
  Wake(&processes_[process]);
  if (current_->process == process) SwitchAway();
}

bool SimScheduler::Alive(ProcessId process) const { return !processes_[process].killed; }

void SimScheduler::Pause(ProcessId process) {
  processes_[process].paused = true;
  Note(fmt::format("pause {}", processes_[process].name));
  std::erase_if(runnable_, [&](Fiber* fiber) {
    if (fiber->process != process) return false;
    processes_[process].held.push_back(fiber);
    return true;
  });
}

void SimScheduler::Resume(ProcessId process) {
  processes_[process].paused = false;
  Note(fmt::format("resume {}", processes_[process].name));
  for (Fiber* fiber : processes_[process].held) runnable_.push_back(fiber);
  processes_[process].held.clear();
}

void SimScheduler::Spawn(ProcessId process, std::string name, std::function<void()> body) {
  NewFiber(process, std::move(name), std::move(body));
}

bool SimScheduler::RunIn(ProcessId process, std::string name, std::function<void()> body) {
  auto ended = std::make_shared<bool>(false);
  if (!Alive(process)) return false;
  Spawn(process, std::move(name), [this, ended, process, body = std::move(body)] {
    body();
    *ended = true;
    Wake(&processes_[process]);
  });
  while (!*ended && Alive(process)) Park(&processes_[process], absl::InfiniteDuration());
  return *ended;
}

ProcessId SimScheduler::CurrentProcess() const { return current_->process; }

void SimScheduler::Fail(std::string reason) {
  if (failure_.empty()) failure_ = std::move(reason);
}

void SimScheduler::Sleep(absl::Duration duration) { Park(nullptr, duration); }

void SimScheduler::WaitFor(const void* channel, absl::Duration timeout) { Park(channel, timeout); }

uint64_t SimScheduler::Draw(uint64_t bound) { return NextDraw(draws_) % bound; }

void SimScheduler::Mix(uint64_t value) {
  for (int i = 0; i < 8; ++i, value >>= 8) trace_hash_ = (trace_hash_ ^ (value & 255)) * 0x100000001b3;
}

void SimScheduler::Note(std::string_view event) {
  for (char c : event) trace_hash_ = (trace_hash_ ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  std::string line = fmt::format("{:10.6f} {}/{} {}", absl::ToDoubleSeconds(now_),
                                 processes_[current_->process].name, current_->name, event);
  if (notes_.size() < kNotesKept) {
    notes_.push_back(std::move(line));
  } else {
    notes_[notes_at_++ % kNotesKept] = std::move(line);
  }
}

std::string SimScheduler::RecentNotes() const {
  std::string out;
  for (size_t i = 0; i < notes_.size(); ++i) {
    out += notes_[(notes_at_ + i) % notes_.size()];
    out += '\n';
  }
  return out;
}

SimScheduler::Fiber* SimScheduler::NewFiber(ProcessId process, std::string name, std::function<void()> body) {
  auto fiber = std::make_unique<Fiber>();
  fiber->number = fibers_made_++;
  fiber->process = process;
  fiber->name = std::move(name);
  fiber->body = std::move(body);
  fiber->stack = TakeStack();
#ifdef SIM_TSAN
  fiber->tsan = __tsan_create_fiber(0);
#endif
  HSM_CHECK(getcontext(&fiber->context) == 0);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, &SimScheduler::Enter, 0);
  Fiber* out = fiber.get();
  fibers_.push_back(std::move(fiber));
  MakeRunnable(out);
  return out;
}

void SimScheduler::Enter() {
  SimScheduler* self = entering;
#ifdef SIM_ASAN
  Fiber* outside = self->outside_.get();
  bool first = outside->bottom == nullptr;
  __sanitizer_finish_switch_fiber(nullptr, first ? &outside->bottom : nullptr,
                                  first ? &outside->size : nullptr);
#endif
  self->ended_.reset();
  try {
    self->current_->body();
  } catch (const std::exception& error) {
    self->Fail(fmt::format("{} threw: {}", self->current_->name, error.what()));
  }
  self->Finish();
}

void SimScheduler::Finish() {
  Fiber* fiber = current_;
  fiber->state = Fiber::State::kEnded;
  if (!fiber->locks.empty()) Fail(fmt::format("{} ended while it held a lock", fiber->name));
  Wake(fiber);
  fiber->body = nullptr;
  if (!fiber->joined) {
    auto own =
        std::find_if(fibers_.begin(), fibers_.end(), [&](const auto& one) { return one.get() == fiber; });
    ended_ = std::move(*own);
    *own = std::move(fibers_.back());
    fibers_.pop_back();
  }
  SwitchAway();
  std::abort();  // nobody runs an ended fiber
}

void SimScheduler::MakeRunnable(Fiber* fiber) {
  fiber->state = Fiber::State::kRunnable;
  Process& process = processes_[fiber->process];
  if (process.killed) return;
  (process.paused ? process.held : runnable_).push_back(fiber);
}

void SimScheduler::Forget(Fiber* fiber) {
  if (fiber->channel != nullptr) {
    auto found = waiting_.find(fiber->channel);
    std::erase(found->second, fiber);
    if (found->second.empty()) waiting_.erase(found);
    fiber->channel = nullptr;
  }
  if (fiber->timer.first != absl::InfiniteDuration()) timers_.erase(fiber->timer);
  fiber->timer.first = absl::InfiniteDuration();
  std::erase(runnable_, fiber);
}

void SimScheduler::Park(const void* channel, absl::Duration timeout) {
  Fiber* fiber = current_;
  if (!fiber->locks.empty() && options_.strict_locks) {
    Fail(fmt::format("{}/{} waits while it holds a lock", processes_[fiber->process].name, fiber->name));
  }
  fiber->state = Fiber::State::kWaiting;
  fiber->since = now_;
  fiber->channel = channel;
  if (channel != nullptr) waiting_[channel].push_back(fiber);
  if (timeout != absl::InfiniteDuration()) {
    fiber->timer = {now_ + std::max(timeout, absl::ZeroDuration()), ++timer_sequence_};
    timers_.emplace(fiber->timer, fiber);
  }
  SwitchAway();
}

void SimScheduler::Block(const void* channel, absl::Duration timeout) {
  current_->locks.pop_back();  // CondVar has let its mutex go
  Park(channel, timeout);
}

void SimScheduler::Wake(const void* channel) {
  auto found = waiting_.find(channel);
  if (found == waiting_.end()) return;
  std::vector<Fiber*> woken = std::move(found->second);
  waiting_.erase(found);
  for (Fiber* fiber : woken) {
    fiber->channel = nullptr;
    if (fiber->timer.first != absl::InfiniteDuration()) timers_.erase(fiber->timer);
    fiber->timer.first = absl::InfiniteDuration();
    MakeRunnable(fiber);
  }
}

void SimScheduler::Yield() {
  MakeRunnable(current_);
  SwitchAway();
}

void SimScheduler::MaybePreempt() {
  if (runnable_.empty() || !Percent(options_.preempt_percent)) return;
  Yield();
}

void* SimScheduler::Start(const char* name, std::function<void()> body) {
  Fiber* fiber = NewFiber(current_->process, name, std::move(body));
  fiber->joined = true;
  return fiber;
}

void SimScheduler::Join(void* thread) {
  Fiber* fiber = static_cast<Fiber*>(thread);
  while (fiber->state != Fiber::State::kEnded) Park(fiber, absl::InfiniteDuration());
  std::erase_if(fibers_, [&](const std::unique_ptr<Fiber>& one) { return one.get() == fiber; });
}

void SimScheduler::Acquired(const void* mutex) { current_->locks.push_back(mutex); }

void SimScheduler::Contended(const void* mutex) {
  for (const std::unique_ptr<Fiber>& fiber : fibers_) {
    if (std::count(fiber->locks.begin(), fiber->locks.end(), mutex) == 0) continue;
    Fail(fmt::format("{}/{} wants a lock that {}/{} holds across a switch",
                     processes_[current_->process].name, current_->name, processes_[fiber->process].name,
                     fiber->name));
  }
  Yield();
}

void SimScheduler::Released(const void* mutex) {
  std::vector<const void*>& locks = current_->locks;
  auto last = std::find(locks.rbegin(), locks.rend(), mutex);
  if (last != locks.rend()) locks.erase(std::next(last).base());
  if (locks.empty()) MaybePreempt();
}

SimScheduler::Fiber* SimScheduler::PickNext() {
  if (done_ || !failure_.empty()) return outside_.get();
  if (++steps_ > options_.steps_max) {
    Fail("livelock: too many steps\n" + Dump());
    return outside_.get();
  }
  now_ += kStepTime;
  while (!timers_.empty() && (runnable_.empty() || timers_.begin()->first.first <= now_)) {
    Fiber* fiber = timers_.begin()->second;
    now_ = std::max(now_, timers_.begin()->first.first);
    timers_.erase(timers_.begin());
    fiber->timer.first = absl::InfiniteDuration();
    Forget(fiber);
    MakeRunnable(fiber);
  }
  if (now_ > options_.time_max) {
    Fail("hang: the simulated time is up\n" + Dump());
    return outside_.get();
  }
  if (runnable_.empty()) {
    Fail("deadlock: every thread waits, none for a time\n" + Dump());
    return outside_.get();
  }
  size_t at = runnable_.size() == 1 ? 0 : Draw(runnable_.size());
  Fiber* next = runnable_[at];
  runnable_[at] = runnable_.back();
  runnable_.pop_back();
  return next;
}

void SimScheduler::SwitchAway() { SwitchTo(PickNext()); }

void SimScheduler::SwitchTo(Fiber* next) {
  Fiber* from = current_;
  if (next != outside_.get()) Mix(static_cast<uint64_t>(next->number));
  if (next == from) return;
  auto* exceptions = reinterpret_cast<ExceptionState*>(abi::__cxa_get_globals());
  from->exceptions = *exceptions;
  *exceptions = next->exceptions;
  current_ = next;
  entering = this;
#ifdef SIM_TSAN
  __tsan_switch_to_fiber(next->tsan, 0);
#endif
#ifdef SIM_ASAN
  bool last = from->state == Fiber::State::kEnded;
  __sanitizer_start_switch_fiber(last ? nullptr : &from->fake_stack,
                                 next->stack != nullptr ? next->stack : next->bottom,
                                 next->stack != nullptr ? kStackBytes : next->size);
#endif
  HSM_CHECK(swapcontext(&from->context, &next->context) == 0);
#ifdef SIM_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
  ended_.reset();
}

std::string SimScheduler::Dump() const {
  std::string out;
  for (const std::unique_ptr<Fiber>& fiber : fibers_) {
    out += fmt::format("  {}/{}: {}{} since {:.3f} s\n", processes_[fiber->process].name, fiber->name,
                       fiber->state == Fiber::State::kWaiting ? "waits" : "can run",
                       fiber->timer.first == absl::InfiniteDuration() ? "" : " for a time",
                       absl::ToDoubleSeconds(fiber->since));
  }
  return out;
}

SimClock::SimClock(SimScheduler& scheduler, absl::Duration uptime_offset, double rate)
    : scheduler_(scheduler), uptime_offset_(uptime_offset), rate_(rate) {}

absl::Time SimClock::Now() const {
  return absl::FromUnixSeconds(1'800'000'000) + scheduler_.Now() + wall_error_;
}

absl::Duration SimClock::Uptime() const { return uptime_offset_ + scheduler_.Now() * rate_; }

bool SimClock::Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
                     absl::Duration timeout) {
  absl::Duration end = timeout == absl::InfiniteDuration() ? timeout : Uptime() + timeout;
  while (!ready()) {
    absl::Duration left = end == absl::InfiniteDuration() ? end : end - Uptime();
    if (left <= absl::ZeroDuration()) return false;
    changed.WaitFor(mutex, left == absl::InfiniteDuration() ? left : left / rate_ + absl::Nanoseconds(1));
  }
  return true;
}

}  // namespace hsm::testing
