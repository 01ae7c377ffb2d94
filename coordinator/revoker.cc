#include "coordinator/revoker.h"

#include <string>

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "coordinator/barrier.h"

namespace hsm {

Revoker::Revoker(ClusterState& cluster, HsmState& state, Clock& clock, absl::Duration control_timeout)
    : cluster_(cluster), state_(state), clock_(clock), control_timeout_(control_timeout) {
  for (size_t i = 0; i < cluster_.size(); ++i) lines_.push_back(std::make_unique<Line>());
}

Revoker::~Revoker() { Stop(); }

void Revoker::Start() {
  for (size_t i = 0; i < lines_.size(); ++i) {
    lines_[i]->thread = Thread("revoker_" + cluster_.name(i), [this, i] { Run(i); });
  }
}

void Revoker::Stop() {
  for (auto& line : lines_) {
    MutexLock lock(line->mutex);
    line->stopping = true;
    line->changed.NotifyAll();
  }
  for (auto& line : lines_) line->thread.Join();
}

rpc::ControlRequest Revoker::Addressed(const rpc::ControlRequest& what) {
  HsmViewPtr view = state_.View();
  rpc::ControlRequest request = what;
  request.mutable_fence()->set_hsm_id(view->id.Raw());
  request.mutable_fence()->set_epoch(view->epoch);
  request.mutable_fence()->set_data_set(view->data_set);
  return request;
}

std::shared_ptr<Revoker::Message> Revoker::Post(size_t index, const rpc::ControlRequest& request) {
  auto message = std::make_shared<Message>();
  message->request = request;
  Line& line = *lines_[index];
  MutexLock lock(line.mutex);
  if (line.stopping || line.queue.size() >= kQueueMax) {
    message->state = Message::State::kMissed;
    message->status =
        Error(v1::REASON_UNREACHABLE, "control messages to " + cluster_.name(index) + " are backed up");
    return message;
  }
  line.queue.push_back(message);
  line.changed.NotifyAll();
  return message;
}

void Revoker::Run(size_t index) {
  Line& line = *lines_[index];
  while (true) {
    std::shared_ptr<Message> message;
    {
      MutexLock lock(line.mutex);
      while (line.queue.empty() && !line.stopping) line.changed.Wait(line.mutex);
      if (line.queue.empty()) return;
      message = line.queue.front();
      line.queue.pop_front();
    }
    absl::Status status;
    // Nothing is sent to a partition known to be silent: it gets no lease before it is in step again.
    if (cluster_.StateOf(index) == v1::PARTITION_STATE_DOWN) {
      status = Error(v1::REASON_UNREACHABLE, cluster_.name(index) + " is down");
    } else {
      auto answer = cluster_.client(index).Control(message->request, control_timeout_);
      status = answer.status();
      if (answer.ok() && !answer->taken())
        status = Error(v1::REASON_FENCED, "the control message was not taken");
    }
    // Before anybody may conclude that its lease runs out: it gets no other until it is synced.
    if (!status.ok()) cluster_.WithholdLease(index, clock_.Uptime());
    MutexLock lock(message->mutex);
    message->state = status.ok() ? Message::State::kTaken : Message::State::kMissed;
    message->status = std::move(status);
    message->changed.NotifyAll();
  }
}

absl::StatusOr<uint32_t> Revoker::Barrier(const rpc::ControlRequest& what) {
  std::vector<std::shared_ptr<Message>> messages;
  {
    MutexLock lock(order_mutex_);
    rpc::ControlRequest request = Addressed(what);
    request.set_sequence(++sequence_);
    for (size_t i = 0; i < lines_.size(); ++i) messages.push_back(Post(i, request));
  }
  Deadline deadline(clock_, kBarrierTimeout);
  std::vector<BarrierPart> parts(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    Message& message = *messages[i];
    MutexLock lock(message.mutex);
    auto answered = [&]() HSM_NO_ANALYSIS { return message.state != Message::State::kQueued; };
    clock_.Await(message.mutex, message.changed, answered, deadline.Left());
    parts[i].taken = message.state == Message::State::kTaken;
    parts[i].missed = message.state == Message::State::kMissed;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].missed) parts[i].lease_until = cluster_.LeaseUntil(i);
  }
  BarrierVerdict verdict = JudgeBarrier(parts, clock_.Uptime());
  if (!verdict.holds && verdict.wait_until.has_value()) {
    Mutex mutex;
    CondVar never;
    MutexLock lock(mutex);
    absl::Duration wait = *verdict.wait_until - clock_.Uptime();
    clock_.Await(mutex, never, [] { return false; }, std::min(wait, deadline.Left()));
    verdict = JudgeBarrier(parts, clock_.Uptime());
  }
  if (!verdict.holds) {
    return Error(v1::REASON_OUTCOME_UNKNOWN,
                 "the change is made, but not every partition has confirmed it yet");
  }
  return verdict.taken;
}

absl::Status Revoker::Tell(size_t index, const rpc::ControlRequest& what) {
  std::shared_ptr<Message> message;
  {
    MutexLock lock(order_mutex_);
    rpc::ControlRequest request = Addressed(what);
    request.set_sequence(++sequence_);
    message = Post(index, request);
  }
  MutexLock lock(message->mutex);
  auto answered = [&]() HSM_NO_ANALYSIS { return message->state != Message::State::kQueued; };
  if (!clock_.Await(message->mutex, message->changed, answered, kBarrierTimeout)) {
    return Error(v1::REASON_DEADLINE_EXCEEDED, cluster_.name(index) + " did not answer a control message");
  }
  return message->status;
}

}  // namespace hsm
