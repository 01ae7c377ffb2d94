#pragma once
// One thread on one gRPC completion queue, for all streams of a process: those it serves and those it opens.
// A second polling thread would cost a wake-up per message (docs/decisions/0004). What is said to run "on the
// loop" runs on its thread and never blocks.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/thread.h"

namespace grpc {
class ServerBuilder;
class ServerCompletionQueue;
}  // namespace grpc

namespace hsm {

class CompletionLoop {
 public:
  // The tag of an asynchronous gRPC call: called on the loop when it completed.
  class Tag {
   public:
    virtual ~Tag() = default;
    virtual void OnDone(bool ok) = 0;
  };
  // Calls a member of its owner, which outlives it.
  template <typename Owner, void (Owner::*kMethod)(bool)>
  class MemberTag final : public Tag {
   public:
    explicit MemberTag(Owner* owner) : owner_(owner) {}
    void OnDone(bool ok) override { (owner_->*kMethod)(ok); }

   private:
    Owner* const owner_;
  };

  explicit CompletionLoop(std::string name, Clock& clock = RealClock());
  CompletionLoop(const CompletionLoop&) = delete;
  // Every call on the queue must have ended, and the server must be gone.
  ~CompletionLoop();

  // For the one server of the process: its queue must come from the builder of the server.
  grpc::ServerBuilder& builder() { return *builder_; }
  grpc::ServerCompletionQueue* queue() { return queue_.get(); }

  bool OnLoop() const;
  // Runs `task` on the loop, soon; from any thread. Costs a wake-up.
  void Post(std::function<void()> task);
  // Post, and waits until it has run; not on the loop.
  void PostAndWait(const std::function<void()>& task);

  // On the loop: calls `tick` every 25 ms, beginning with the next, as long as it answers true.
  void Tick(std::function<bool()> tick);

 private:
  void Run();
  void RunTicks();

  Clock& clock_;
  std::unique_ptr<grpc::ServerBuilder> builder_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  // The loop's own.
  std::vector<std::function<bool()>> ticks_;
  absl::Duration next_tick_;
  Thread thread_;
};

}  // namespace hsm
