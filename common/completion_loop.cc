#include "common/completion_loop.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "common/mutex.h"

namespace hsm {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(25);

thread_local const CompletionLoop* current_loop = nullptr;

// An alarm that rings at once is how another thread wakes a completion queue.
class PostedTask final : public CompletionLoop::Tag {
 public:
  PostedTask(grpc::CompletionQueue* queue, std::function<void()> task) : task_(std::move(task)) {
    alarm_.Set(queue, gpr_inf_past(GPR_CLOCK_REALTIME), static_cast<CompletionLoop::Tag*>(this));
  }
  void OnDone(bool) override {
    task_();
    delete this;
  }

 private:
  std::function<void()> task_;
  grpc::Alarm alarm_;
};

}  // namespace

CompletionLoop::CompletionLoop(std::string name, Clock& clock)
    : clock_(clock),
      builder_(std::make_unique<grpc::ServerBuilder>()),
      queue_(builder_->AddCompletionQueue()),
      thread_(std::move(name), [this] { Run(); }) {}

CompletionLoop::~CompletionLoop() {
  queue_->Shutdown();
  thread_.Join();
}

bool CompletionLoop::OnLoop() const { return current_loop == this; }

void CompletionLoop::Post(std::function<void()> task) { new PostedTask(queue_.get(), std::move(task)); }

void CompletionLoop::PostAndWait(const std::function<void()>& task) {
  Mutex mutex;
  CondVar changed;
  bool done = false;
  Post([&] {
    task();
    MutexLock lock(mutex);
    done = true;
    changed.NotifyAll();
  });
  MutexLock lock(mutex);
  while (!done) changed.Wait(mutex);
}

void CompletionLoop::Tick(std::function<bool()> tick) {
  if (ticks_.empty()) next_tick_ = clock_.Uptime() + kTick;
  ticks_.push_back(std::move(tick));
}

void CompletionLoop::Run() {
  current_loop = this;
  const auto never = std::chrono::system_clock::time_point::max();
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    auto until =
        ticks_.empty() ? never : std::chrono::system_clock::now() + absl::ToChronoMilliseconds(kTick);
    grpc::CompletionQueue::NextStatus status = queue_->AsyncNext(&tag, &ok, until);
    if (status == grpc::CompletionQueue::SHUTDOWN) return;
    if (status == grpc::CompletionQueue::GOT_EVENT) static_cast<Tag*>(tag)->OnDone(ok);
    if (!ticks_.empty() && clock_.Uptime() >= next_tick_) RunTicks();
  }
}

void CompletionLoop::RunTicks() {
  next_tick_ = clock_.Uptime() + kTick;
  std::vector<std::function<bool()>> ticks;
  ticks.swap(ticks_);  // a tick may add others
  for (std::function<bool()>& tick : ticks) {
    if (tick()) ticks_.push_back(std::move(tick));
  }
}

}  // namespace hsm
