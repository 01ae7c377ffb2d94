#include "coordinator/replicator.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutant.h"
#include "common/replica.h"
#include "coordinator/proof_check.h"
#include "coordinator/quorum.h"

namespace hsm {
namespace {

constexpr absl::Duration kGenerateTimeout = absl::Seconds(20);  // RSA-4096 takes seconds on small tokens
constexpr absl::Duration kInstallTimeout = absl::Milliseconds(limits::kInstallTimeoutMs);

// Of each of `count` items, from the response to the call that carried them; `judge` looks at one answer.
template <typename Answer, typename Response, typename Judge>
std::vector<Answer> AnswersOf(const absl::StatusOr<Response>& response, size_t count, const Judge& judge) {
  std::vector<Answer> answers;
  for (size_t i = 0; i < count; ++i) {
    if (!response.ok()) {
      answers.push_back(response.status());
    } else if (static_cast<size_t>(response->answers_size()) != count) {
      answers.push_back(
          Error(v1::REASON_RECORD_CORRUPT, "a partition answered other items than it was given"));
    } else {
      const auto& answer = response->answers(static_cast<int>(i));
      answers.push_back(answer.has_error() ? Answer(Error(answer.error())) : judge(answer));
    }
  }
  return answers;
}

}  // namespace

template <typename Item>
bool Replicator::SameFence(const Fenced<Item>& a, const Fenced<Item>& b) {
  return a.fence.epoch() == b.fence.epoch() && a.fence.data_set() == b.fence.data_set();
}

// The calls own what they use but the cluster, which outlives the lanes they run on.
Replicator::Replicator(Core& core)
    : core_(core),
      installs_(core.fan_out, core.cluster.size(), limits::kInstallsPerCall, SameFence<rpc::InstallItem>,
                [&cluster = core.cluster](size_t index, const std::vector<Fenced<rpc::InstallItem>>& items) {
                  rpc::InstallRequest request;
                  *request.mutable_fence() = items.front().fence;
                  for (const auto& each : items) *request.add_items() = each.item;
                  return AnswersOf<InstallAnswer>(cluster.client(index).Install(request, kInstallTimeout),
                                                  items.size(),
                                                  [](const rpc::InstallAnswer& answer) { return answer; });
                }),
      activations_(
          core.fan_out, core.cluster.size(), limits::kInstallsPerCall, SameFence<rpc::ActivateItem>,
          [&cluster = core.cluster](size_t index, const std::vector<Fenced<rpc::ActivateItem>>& items) {
            rpc::ActivateRequest request;
            *request.mutable_fence() = items.front().fence;
            for (const auto& each : items) *request.add_items() = each.item;
            return AnswersOf<absl::Status>(cluster.client(index).Activate(request, kInstallTimeout),
                                           items.size(),
                                           [](const rpc::ActivateAnswer&) { return absl::OkStatus(); });
          }) {}

std::vector<size_t> Replicator::Targets() const {
  std::vector<size_t> targets;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    if (core_.cluster.TakesRecordsNow(i)) targets.push_back(i);
  }
  return targets;
}

bool Replicator::AttemptRuns(const OpId& attempt) const {
  MutexLock lock(mutex_);
  return attempts_.contains(attempt);
}

void Replicator::Done(const OpId& attempt) {
  MutexLock lock(mutex_);
  attempts_.erase(attempt);
}

absl::StatusOr<StagedKey> Replicator::Stage(const rpc::GenerateRequest& what, const KeyUid* uid) {
  uint32_t able = 0;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    v1::PartitionState state = core_.cluster.StateOf(i);
    able += state == v1::PARTITION_STATE_READY || state == v1::PARTITION_STATE_SYNCING;
  }
  const uint32_t need = core_.cluster.quorum();
  if (able < need) {
    return Error(v1::REASON_NO_QUORUM, std::to_string(able) + " of " + std::to_string(core_.cluster.size()) +
                                           " partitions are there, " + std::to_string(need) + " are needed");
  }
  HSM_ASSIGN_OR_RETURN(StagedKey staged, Generate(what, uid));
  absl::Status installed = Install(staged);
  if (installed.ok()) return staged;
  Discard(staged.attempt);
  Done(staged.attempt);
  return installed;
}

// On one partition; another one, with a new attempt, if it fails. Whatever a failed attempt made dies with
// its session.
absl::StatusOr<StagedKey> Replicator::Generate(const rpc::GenerateRequest& what, const KeyUid* uid) {
  absl::Status last = Error(v1::REASON_NO_PARTITION, "no READY partition can make the key");
  uint32_t tried = 0;
  while (true) {
    uint64_t bits = core_.random.Below(UINT64_MAX);
    int index = core_.cluster.Pick(uid, tried, bits);
    if (index < 0) break;
    tried |= 1u << index;
    StagedKey staged;
    staged.attempt = core_.random.NewOpId(core_.clock);
    rpc::GenerateRequest request = what;
    *request.mutable_fence() = core_.Fence();
    request.set_op_id(staged.attempt.Raw());
    auto answer = core_.cluster.client(index).Generate(request, kGenerateTimeout);
    if (answer.ok()) {
      staged.records = std::move(*answer->mutable_records());
      if (staged.records.versions_size() != 1) {
        return Error(v1::REASON_RECORD_CORRUPT, "a partition made another number of versions than one");
      }
      HSM_ASSIGN_OR_RETURN(staged.head, DecodeHead(staged.records.head()));
      HSM_ASSIGN_OR_RETURN(staged.version, DecodeVersion(staged.records.versions(0)));
      if (staged.version.uid != staged.head.uid || staged.head.latest != staged.version.version) {
        return Error(v1::REASON_RECORD_CORRUPT, "a partition made records that do not belong together");
      }
      MutexLock lock(mutex_);
      attempts_.insert(staged.attempt);
      return staged;
    }
    last = answer.status();
    v1::Reason reason = ReasonOf(last);
    bool elsewhere = IsDeviceFailure(reason) || reason == v1::REASON_DEADLINE_EXCEEDED ||
                     reason == v1::REASON_BUSY || reason == v1::REASON_REVISION_CONFLICT ||
                     reason == v1::REASON_KEY_NOT_FOUND;
    if (!elsewhere) return last;
  }
  return last;
}

absl::Status Replicator::Install(StagedKey& staged) {
  std::vector<size_t> targets = Targets();
  const uint32_t need = HSM_MUTANT("quorum-off-by-one") ? core_.cluster.quorum() - 1 : core_.cluster.quorum();
  Fenced<rpc::InstallItem> install{core_.Fence(), {}};
  install.item.set_op_id(staged.attempt.Raw());
  *install.item.mutable_records() = staged.records;
  Bytes nonce = core_.random.Draw(32);
  install.item.set_nonce(ToString(nonce));

  using Answer = InstallAnswer;
  ClusterState& cluster = core_.cluster;
  std::vector<std::optional<Answer>> answers = core_.fan_out.Collect<Answer>(
      targets,
      [&](size_t, size_t index, FanOut::Done<Answer> done) {
        installs_.Add(index, install, std::move(done));
      },
      [need](const std::vector<std::optional<Answer>>& so_far) {
        uint32_t good = 0;
        for (const auto& answer : so_far) good += answer.has_value() && answer->ok();
        return good >= need;
      },
      core_.config.straggler_grace, kInstallTimeout + absl::Milliseconds(500));

  std::vector<v1::ProofResult> results;
  std::vector<std::string> comparisons(targets.size());
  absl::Status failure;
  for (size_t i = 0; i < targets.size(); ++i) {
    results.push_back(v1::PROOF_RESULT_MISSING);
    if (!answers[i].has_value()) continue;
    if (!answers[i]->ok()) {
      failure = answers[i]->status();
      continue;
    }
    const rpc::InstallAnswer& response = **answers[i];
    if (response.proofs_size() != 1) continue;
    Challenge challenge{
        staged.head.hsm,         staged.head.uid,        staged.head.incarnation, staged.version.version,
        staged.version.spec,     staged.head.operations, staged.version.spki,     nonce,
        cluster.name(targets[i])};
    results[i] = CheckProof(challenge, response.proofs(0));
    if (results[i] == v1::PROOF_RESULT_SELF_CHECKED) comparisons[i] = response.proofs(0).comparison();
  }
  if (staged.version.spec.type == v1::KEY_TYPE_OCT_HSM) {
    std::vector<v1::ProofResult> compared = CompareAnswers(comparisons);
    for (size_t i = 0; i < targets.size(); ++i) {
      if (results[i] == v1::PROOF_RESULT_SELF_CHECKED) results[i] = compared[i];
    }
  }
  uint32_t proved = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    bool single = core_.cluster.size() == 1 && results[i] == v1::PROOF_RESULT_SELF_CHECKED;
    if (results[i] == v1::PROOF_RESULT_PROVED || single) {
      ++proved;
      staged.proved.push_back(cluster.name(targets[i]));
    } else if (results[i] == v1::PROOF_RESULT_DIFFERENT) {
      cluster.Refuse(targets[i], "its proof of a new key does not match: it holds another key under this id",
                     core_.clock.Uptime());
      LogError("partition refused: wrong proof",
               {{"partition", cluster.name(targets[i])}, {"key", staged.head.name}});
    }
  }
  if (proved >= need) return absl::OkStatus();
  std::string why = std::to_string(proved) + " of " + std::to_string(cluster.size()) +
                    " partitions proved the key, " + std::to_string(need) + " are needed";
  if (!failure.ok()) why += "; one said " + DetailOf(failure).message();
  return Error(v1::REASON_NO_QUORUM, why);
}

// Marks every partition that did not answer OK as behind on the key.
uint32_t Replicator::CountOk(const std::vector<size_t>& targets,
                             const std::vector<std::optional<absl::Status>>& answers, const KeyUid& uid) {
  uint32_t good = 0;
  std::vector<bool> has(core_.cluster.size(), false);
  for (size_t i = 0; i < targets.size(); ++i) {
    if (!answers[i].has_value() || !answers[i]->ok()) continue;
    has[targets[i]] = true;
    ++good;
  }
  for (size_t i = 0; i < has.size(); ++i) {
    if (!has[i] && !HSM_MUTANT("forget-who-is-behind")) core_.cluster.MarkBehind(i, uid);
  }
  return good;
}

uint32_t Replicator::Activate(const OpId& attempt, const KeyUid& uid, Revision revision) {
  std::vector<size_t> targets = Targets();
  Fenced<rpc::ActivateItem> activation{core_.Fence(), {}};
  activation.item.set_op_id(attempt.Raw());
  activation.item.set_uid(uid.Raw());
  activation.item.set_revision(revision);
  const uint32_t need = core_.cluster.quorum();
  auto answers = core_.fan_out.Collect<absl::Status>(
      targets,
      [&](size_t, size_t index, FanOut::Done<absl::Status> done) {
        activations_.Add(index, activation, std::move(done));
      },
      [need](const std::vector<std::optional<absl::Status>>& so_far) {
        uint32_t good = 0;
        for (const auto& answer : so_far) good += answer.has_value() && answer->ok();
        return good >= need;
      },
      core_.config.straggler_grace, kInstallTimeout + absl::Milliseconds(500));
  return CountOk(targets, answers, uid);
}

void Replicator::Discard(const OpId& attempt) {
  rpc::DiscardRequest request;
  *request.mutable_fence() = core_.Fence();
  request.set_op_id(attempt.Raw());
  ClusterState& cluster = core_.cluster;
  for (size_t index : Targets()) {  // nobody waits: what is missed is swept by the reconciler
    core_.fan_out.Post(
        index, [&cluster, request, index] { (void)cluster.client(index).Discard(request, kInstallTimeout); });
  }
}

uint32_t Replicator::Put(const rpc::KeyRecords& records, const KeyUid& uid) {
  std::vector<size_t> targets = Targets();
  auto request = std::make_shared<rpc::PutRecordsRequest>();
  *request->mutable_fence() = core_.Fence();
  *request->add_records() = records;
  const uint32_t need = core_.cluster.quorum();
  ClusterState& cluster = core_.cluster;
  auto answers = core_.fan_out.Gather<absl::Status>(
      targets,
      [&cluster, request](size_t index) {
        return cluster.client(index).PutRecords(*request, kInstallTimeout).status();
      },
      [need](const std::vector<std::optional<absl::Status>>& so_far) {
        uint32_t good = 0;
        for (const auto& answer : so_far) good += answer.has_value() && answer->ok();
        return good >= need;
      },
      core_.config.straggler_grace, kInstallTimeout + absl::Milliseconds(500));
  return CountOk(targets, answers, uid);
}

}  // namespace hsm
