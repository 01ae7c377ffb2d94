#include "coordinator/fan_out.h"

#include <string>

#include "common/check.h"

namespace hsm {

FanOut::FanOut(size_t partitions, uint32_t lanes_per_partition, Clock& clock) : clock_(clock) {
  for (size_t i = 0; i < partitions; ++i) {
    lanes_.push_back(std::make_unique<Lane>());
    Lane& lane = *lanes_.back();
    for (uint32_t k = 0; k < lanes_per_partition; ++k) {
      lane.threads.emplace_back("fan_out_" + std::to_string(i), [&lane] { Run(lane); });
    }
  }
}

FanOut::~FanOut() {
  for (auto& lane : lanes_) {
    MutexLock lock(lane->mutex);
    lane->stopping = true;
    for (CondVar* waiting : lane->idle) waiting->NotifyAll();
  }
  for (auto& lane : lanes_) {
    for (Thread& thread : lane->threads) thread.Join();
  }
}

bool FanOut::Post(size_t index, std::function<void()> work) {
  HSM_CHECK(index < lanes_.size());
  Lane& lane = *lanes_[index];
  MutexLock lock(lane.mutex);
  if (lane.stopping || lane.queue.size() >= kQueueMax) return false;
  lane.queue.push_back(std::move(work));
  if (lane.idle.empty()) return true;
  lane.idle.back()->NotifyAll();
  lane.idle.pop_back();
  return true;
}

void FanOut::Run(Lane& lane) {
  CondVar wake;
  while (true) {
    std::function<void()> work;
    {
      MutexLock lock(lane.mutex);
      while (lane.queue.empty() && !lane.stopping) {
        lane.idle.push_back(&wake);
        wake.Wait(lane.mutex);
        std::erase(lane.idle, &wake);  // a spurious wake left it there
      }
      if (lane.queue.empty()) return;
      work = std::move(lane.queue.front());
      lane.queue.pop_front();
    }
    work();
  }
}

}  // namespace hsm
