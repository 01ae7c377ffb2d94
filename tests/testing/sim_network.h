#pragma once
// A network between simulated processes: each call is a message there and a message back, with delays,
// losses, duplicates and netsplits drawn from the seed. A call that was sent goes on when its caller dies:
// stale messages arrive late, as in life.
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/partition_client.h"
#include "tests/testing/sim_scheduler.h"

namespace hsm {
class Partition;
}

namespace hsm::testing {

struct NetworkFaults {
  absl::Duration delay_max = absl::Milliseconds(1);  // of each message; at least 20 us
  uint32_t slow_percent = 0;                         // of the messages take up to slow_max
  absl::Duration slow_max = absl::Seconds(4);
  uint32_t drop_request_percent = 0;   // lost before the effect
  uint32_t drop_response_percent = 0;  // lost after it
  uint32_t duplicate_percent = 0;      // handled twice
  uint32_t reset_percent = 0;          // the caller is told at once, whatever comes of the message
};

// One reachable address: a process behind it, or nothing. Restarting a server is a new process at the same
// endpoint.
struct SimEndpoint {
  explicit SimEndpoint(std::string name) : name(std::move(name)) {}
  const std::string name;
  ProcessId process = kWorld;
  bool up = false;
};

class SimNetwork {
 public:
  explicit SimNetwork(SimScheduler& scheduler) : scheduler_(scheduler) {}

  void SetFaults(const NetworkFaults& faults) { faults_ = faults; }
  // Messages from `from` to `to` are lost. "*" = everybody.
  void Cut(const std::string& from, const std::string& to) { cut_.insert({from, to}); }
  void MendAll() { cut_.clear(); }
  // Proofs in answers of this partition come back altered: what a partition says that holds another key, or
  // lies.
  void FalsifyProofs(const std::string& name, bool on) {
    on ? static_cast<void>(liars_.insert(name)) : static_cast<void>(liars_.erase(name));
  }
  bool Falsifies(const std::string& name) const { return liars_.contains(name); }
  // Connections to the endpoint break: its callers get UNREACHABLE. Call after its process was killed.
  void Break(const SimEndpoint& endpoint);

  // Sends one call and waits for its answer. `handle` runs as a thread of the server's process, perhaps
  // twice, perhaps after this has returned, so it owns what it uses. UNREACHABLE or DEADLINE_EXCEEDED if no
  // answer came.
  template <typename Response>
  absl::StatusOr<Response> Call(const std::string& from, SimEndpoint& to, std::string what,
                                std::function<absl::StatusOr<Response>()> handle, absl::Duration timeout) {
    auto answer = std::make_shared<std::unique_ptr<absl::StatusOr<Response>>>();
    std::function<void(bool)> run = [answer, handle = std::move(handle)](bool first) {
      auto result = std::make_unique<absl::StatusOr<Response>>(handle());
      if (first) *answer = std::move(result);
    };
    absl::Status sent = Exchange(from, to, std::move(what), std::move(run), timeout);
    if (!sent.ok()) return sent;
    return std::move(**answer);
  }

  uint64_t calls() const { return calls_; }
  uint64_t lost() const { return lost_; }

 private:
  struct Exchanged {
    std::string from;
    const SimEndpoint* to = nullptr;
    ProcessId process = kWorld;  // that handles it
    bool done = false;
    absl::Status status;
  };
  absl::Status Exchange(const std::string& from, SimEndpoint& to, std::string what,
                        std::function<void(bool)> run, absl::Duration timeout);
  void Deliver(std::shared_ptr<Exchanged> call, SimEndpoint& to, const std::string& what,
               std::function<void(bool)> run, bool first);
  void Finish(Exchanged& call, absl::Status status);
  absl::Duration Delay();
  bool IsCut(const std::string& from, const std::string& to) const;

  SimScheduler& scheduler_;
  NetworkFaults faults_;
  std::set<std::pair<std::string, std::string>> cut_;
  std::set<std::string> liars_;
  std::vector<std::shared_ptr<Exchanged>> in_flight_;
  uint64_t calls_ = 0, lost_ = 0;
};

// A partition as a coordinator at `from` sees it through the network. `partition` names what is behind the
// endpoint at the time a message arrives; it changes with each restart.
std::unique_ptr<PartitionClient> MakeSimPartitionClient(SimNetwork& network, std::string from,
                                                        SimEndpoint& endpoint, Partition*& partition);

}  // namespace hsm::testing
