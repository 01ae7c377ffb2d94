#include "tests/testing/sim_network.h"

#include <algorithm>

#include "common/error.h"
#include "node/partition.h"

namespace hsm::testing {
namespace {

constexpr absl::Duration kRefusedAfter = absl::Microseconds(200);

class SimPartitionClient final : public PartitionClient {
 public:
  SimPartitionClient(SimNetwork& network, std::string from, SimEndpoint& endpoint, Partition*& partition)
      : network_(network), from_(std::move(from)), endpoint_(endpoint), partition_(partition) {}
  const std::string& name() const override { return endpoint_.name; }

#define HSM_SIM_CALL(Method)                                                                                \
  absl::StatusOr<rpc::Method##Response> Method(const rpc::Method##Request& request, absl::Duration timeout) \
      override {                                                                                            \
    return Send<rpc::Method##Response>(                                                                     \
        #Method, timeout, [request](Partition& partition) { return partition.Method(request); });           \
  }
  HSM_SIM_CALL(GetInfo)
  HSM_SIM_CALL(Generate)
  HSM_SIM_CALL(Transition)
  HSM_SIM_CALL(Activate)
  HSM_SIM_CALL(Discard)
  HSM_SIM_CALL(Control)
  HSM_SIM_CALL(Digest)
  HSM_SIM_CALL(ListBucket)
  HSM_SIM_CALL(PutRecords)
  HSM_SIM_CALL(Quarantine)
  HSM_SIM_CALL(Export)
  HSM_SIM_CALL(DeriveAead)
  HSM_SIM_CALL(SignManifest)
  HSM_SIM_CALL(CheckManifest)
  HSM_SIM_CALL(Import)
#undef HSM_SIM_CALL

  absl::StatusOr<rpc::InstallResponse> Install(const rpc::InstallRequest& request,
                                               absl::Duration timeout) override {
    absl::StatusOr<rpc::InstallResponse> response = Send<rpc::InstallResponse>(
        "Install", timeout, [request](Partition& it) { return it.Install(request); });
    if (response.ok()) {
      for (rpc::InstallAnswer& answer : *response->mutable_answers()) {
        for (rpc::Proof& proof : *answer.mutable_proofs()) Falsify(proof);
      }
    }
    return response;
  }
  absl::StatusOr<rpc::ProveResponse> Prove(const rpc::ProveRequest& request,
                                           absl::Duration timeout) override {
    absl::StatusOr<rpc::ProveResponse> response =
        Send<rpc::ProveResponse>("Prove", timeout, [request](Partition& it) { return it.Prove(request); });
    if (response.ok()) {
      for (rpc::ProveAnswer& answer : *response->mutable_answers()) {
        if (answer.has_proof()) Falsify(*answer.mutable_proof());
      }
    }
    return response;
  }

  // Domains are made before the simulation starts; these need a helper process.
  absl::StatusOr<rpc::MakeDomainResponse> MakeDomain(const rpc::MakeDomainRequest&, absl::Duration) override {
    return NoHelper();
  }
  absl::StatusOr<rpc::JoinKey> BeginJoin(const rpc::BeginJoinRequest&, absl::Duration) override {
    return NoHelper();
  }
  absl::StatusOr<rpc::SponsorResponse> Sponsor(const rpc::SponsorRequest&, absl::Duration) override {
    return NoHelper();
  }
  absl::StatusOr<rpc::TakeHandoverResponse> TakeHandover(const rpc::TakeHandoverRequest&,
                                                         absl::Duration) override {
    return NoHelper();
  }
  absl::StatusOr<rpc::CompleteJoinResponse> CompleteJoin(const rpc::CompleteJoinRequest&,
                                                         absl::Duration) override {
    return NoHelper();
  }

  absl::StatusOr<v1::CryptoBatchResult> Crypto(const v1::CryptoBatch& batch,
                                               absl::Duration timeout) override {
    return Send<v1::CryptoBatchResult>("Crypto", timeout, [batch](Partition& partition) {
      return absl::StatusOr<v1::CryptoBatchResult>(partition.Crypto(batch));
    });
  }

 private:
  static absl::Status NoHelper() {
    return Error(v1::REASON_UNSUPPORTED, "no helper process in a simulation");
  }

  void Falsify(rpc::Proof& proof) const {
    if (!network_.Falsifies(endpoint_.name)) return;
    for (std::string* value : {proof.mutable_signature(), proof.mutable_comparison()}) {
      if (!value->empty()) value->back() = static_cast<char>(value->back() ^ 1);
    }
  }

  template <typename Response>
  absl::StatusOr<Response> Send(std::string what, absl::Duration timeout,
                                std::function<absl::StatusOr<Response>(Partition&)> handle) {
    Partition** partition = &partition_;
    return network_.Call<Response>(
        from_, endpoint_, std::move(what),
        [partition, handle = std::move(handle)] { return handle(**partition); }, timeout);
  }

  SimNetwork& network_;
  const std::string from_;
  SimEndpoint& endpoint_;
  Partition*& partition_;
};

}  // namespace

std::unique_ptr<PartitionClient> MakeSimPartitionClient(SimNetwork& network, std::string from,
                                                        SimEndpoint& endpoint, Partition*& partition) {
  return std::make_unique<SimPartitionClient>(network, std::move(from), endpoint, partition);
}

absl::Duration SimNetwork::Delay() {
  absl::Duration max = scheduler_.Percent(faults_.slow_percent) ? faults_.slow_max : faults_.delay_max;
  return absl::Microseconds(
      20 + static_cast<int64_t>(scheduler_.Draw(static_cast<uint64_t>(absl::ToInt64Microseconds(max)) + 1)));
}

bool SimNetwork::IsCut(const std::string& from, const std::string& to) const {
  return cut_.count({from, to}) + cut_.count({"*", to}) + cut_.count({from, "*"}) > 0;
}

void SimNetwork::Finish(Exchanged& call, absl::Status status) {
  if (call.done) return;
  call.done = true;
  call.status = std::move(status);
  scheduler_.Wake(&call);
}

absl::Status SimNetwork::Exchange(const std::string& from, SimEndpoint& to, std::string what,
                                  std::function<void(bool)> run, absl::Duration timeout) {
  ++calls_;
  auto call = std::make_shared<Exchanged>();
  call->from = from;
  call->to = &to;
  in_flight_.push_back(call);
  bool twice = scheduler_.Percent(faults_.duplicate_percent);
  for (int copy = 0; copy < (twice ? 2 : 1); ++copy) {
    scheduler_.Spawn(kWorld, what, [this, call, &to, what, run, first = copy == 0] {
      Deliver(call, to, what, run, first);
    });
  }
  if (scheduler_.Percent(faults_.reset_percent)) {
    scheduler_.Sleep(std::min(timeout, Delay()));
    Finish(*call, Error(v1::REASON_UNREACHABLE, "the connection to " + to.name + " was reset"));
  }
  absl::Duration end = scheduler_.Now() + timeout;
  while (!call->done && scheduler_.Now() < end) scheduler_.WaitFor(call.get(), end - scheduler_.Now());
  std::erase(in_flight_, call);
  if (call->done) return call->status;
  call->done = true;  // a later answer comes too late
  return Error(v1::REASON_DEADLINE_EXCEEDED, what + " at " + to.name + " did not answer in time");
}

void SimNetwork::Deliver(std::shared_ptr<Exchanged> call, SimEndpoint& to, const std::string& what,
                         std::function<void(bool)> run, bool first) {
  scheduler_.Sleep(Delay());
  if (IsCut(call->from, to.name) || scheduler_.Percent(faults_.drop_request_percent)) {
    ++lost_;
    return;
  }
  if (!to.up) {
    scheduler_.Sleep(kRefusedAfter);
    if (first) Finish(*call, Error(v1::REASON_UNREACHABLE, to.name + " is down"));
    return;
  }
  if (first) call->process = to.process;
  scheduler_.Spawn(to.process, what, [this, call, name = to.name, run = std::move(run), first] {
    run(first);
    if (!first) return;
    scheduler_.Sleep(Delay());
    if (IsCut(name, call->from) || scheduler_.Percent(faults_.drop_response_percent)) {
      ++lost_;
      return;
    }
    Finish(*call, absl::OkStatus());
  });
}

void SimNetwork::Break(const SimEndpoint& endpoint) {
  std::vector<std::shared_ptr<Exchanged>> all = in_flight_;
  for (const std::shared_ptr<Exchanged>& call : all) {
    if (call->to == &endpoint && call->process != kWorld && !scheduler_.Alive(call->process)) {
      Finish(*call, Error(v1::REASON_UNREACHABLE, "the connection to " + endpoint.name + " broke"));
    }
  }
}

}  // namespace hsm::testing
