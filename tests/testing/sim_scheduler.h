#pragma once
// Deterministic simulation: ordinary blocking code of a whole cluster runs in one operating-system thread,
// one simulated thread (a fiber) at a time, in an order drawn from a seed, on simulated time that jumps to
// the next timeout when nobody can run. Same seed, same code: same run.
//
// Switch points are exactly: CondVar waits, hsm::Thread start and join, Mutex releases, and the seams that
// call Yield or Sleep. Code between them runs alone. So nothing that runs here may block in any other way.
//
// A *process* is a group of threads that die together. Kill is SIGKILL: its threads never run again, no
// destructor runs, whatever they owned is leaked until the operating-system process ends. Objects of a killed
// process must not be touched afterwards, except what stands for durable or remote things (a disk, a token,
// the store).
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"

namespace hsm::testing {

using ProcessId = int;
inline constexpr ProcessId kWorld = 0;  // the scenario itself, the network, clients

struct SimOptions {
  uint64_t seed = 1;
  uint64_t steps_max = 3'000'000;             // switches; more is a livelock
  absl::Duration time_max = absl::Hours(24);  // simulated; more is a hang among threads that still tick
  uint32_t preempt_percent = 25;              // chance that another thread runs at a Mutex release or Yield
  bool strict_locks = true;                   // a lock held where another thread runs ends the run
};

class SimScheduler final : public SchedulerHooks {
 public:
  explicit SimScheduler(const SimOptions& options);
  ~SimScheduler() override;

  // Runs `body` as the first thread of kWorld until it returns; the other threads are then dropped where they
  // are. Not OK: deadlock, livelock, hang, a lock held across a switch, an exception, Fail; the message says
  // which threads wait for what.
  absl::Status Run(std::function<void()> body);

  // --- From inside the simulation only.
  ProcessId NewProcess(std::string name);
  void Kill(ProcessId process);
  bool Alive(ProcessId process) const;
  // SIGSTOP and SIGCONT: its threads do not run while time goes on.
  void Pause(ProcessId process);
  void Resume(ProcessId process);
  // Starts a thread nobody joins.
  void Spawn(ProcessId process, std::string name, std::function<void()> body);
  // Runs `body` as a thread of `process` and waits; threads it makes belong to the process. False if the
  // process was killed meanwhile.
  bool RunIn(ProcessId process, std::string name, std::function<void()> body);
  ProcessId CurrentProcess() const;
  // Ends the run with this reason (the first one wins). Returns; the run ends at the next switch.
  void Fail(std::string reason);

  absl::Duration Now() const { return now_; }  // since the start of the run
  void Sleep(absl::Duration duration);
  // Until Wake(channel), or the timeout, or for no reason: loop on the condition. Nothing runs between the
  // caller's look at the condition and this, so no lock is needed.
  void WaitFor(const void* channel, absl::Duration timeout);
  uint64_t Draw(uint64_t bound);  // uniform enough: [0, bound)
  bool Percent(uint32_t percent) { return Draw(100) < percent; }
  // Adds to the trace. Traces of equal runs are equal.
  void Note(std::string_view event);

  uint64_t trace_hash() const { return trace_hash_; }
  uint64_t steps() const { return steps_; }
  // The last few hundred notes, for the report of a failure.
  std::string RecentNotes() const;

  // --- SchedulerHooks, called by common/.
  void Block(const void* channel, absl::Duration timeout) override;
  void Wake(const void* channel) override;
  void Yield() override;
  void* Start(const char* name, std::function<void()> body) override;
  void Join(void* thread) override;
  void Acquired(const void* mutex) override;
  void Contended(const void* mutex) override;
  void Released(const void* mutex) override;

 private:
  struct Fiber;
  struct Process {
    std::string name;
    bool killed = false;
    bool paused = false;
    std::vector<Fiber*> held;  // runnable, but paused
  };
  static void Enter();

  Fiber* NewFiber(ProcessId process, std::string name, std::function<void()> body);
  void MakeRunnable(Fiber* fiber);
  void Park(const void* channel, absl::Duration timeout);
  void Forget(Fiber* fiber);  // out of every list
  void SwitchAway();          // the current fiber is not runnable, or has been put back
  Fiber* PickNext();
  void SwitchTo(Fiber* next);
  void MaybePreempt();
  void Finish();  // the current fiber has ended
  void Mix(uint64_t value);
  std::string Dump() const;

  const SimOptions options_;
  uint64_t draws_[4];
  absl::Duration now_;
  uint64_t steps_ = 0;
  uint64_t trace_hash_ = 0xcbf29ce484222325;
  uint64_t timer_sequence_ = 0;
  int fibers_made_ = 0;
  std::deque<Process> processes_;               // addresses are channels
  std::vector<std::unique_ptr<Fiber>> fibers_;  // all that have not ended
  std::vector<std::unique_ptr<Fiber>> killed_;
  std::vector<Fiber*> runnable_;
  std::map<std::pair<absl::Duration, uint64_t>, Fiber*> timers_;
  std::unordered_map<const void*, std::vector<Fiber*>> waiting_;
  std::vector<std::string> notes_;  // a ring
  size_t notes_at_ = 0;
  std::string failure_;
  bool done_ = false;
  std::unique_ptr<Fiber> outside_;  // the caller of Run
  Fiber* current_ = nullptr;
  std::unique_ptr<Fiber> ended_;  // freed by whoever runs next: a fiber cannot free the stack it stands on
};

// The clock of one simulated process: uptime with its own start and rate, wall time with its own error.
class SimClock final : public Clock {
 public:
  explicit SimClock(SimScheduler& scheduler, absl::Duration uptime_offset = absl::Hours(1),
                    double rate = 1.0);
  absl::Time Now() const override;
  absl::Duration Uptime() const override;
  bool Await(Mutex& mutex, CondVar& changed, const std::function<bool()>& ready,
             absl::Duration timeout) override HSM_REQUIRES(mutex);
  void JumpWallClock(absl::Duration by) { wall_error_ += by; }

 private:
  SimScheduler& scheduler_;
  const absl::Duration uptime_offset_;
  const double rate_;  // local seconds per simulated second
  absl::Duration wall_error_;
};

}  // namespace hsm::testing
