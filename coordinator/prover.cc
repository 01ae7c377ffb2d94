#include "coordinator/prover.h"

#include <algorithm>

#include "common/error.h"
#include "common/log.h"
#include "coordinator/proof_check.h"
#include "coordinator/quorum.h"

namespace hsm {
namespace {

constexpr absl::Duration kProveTimeout = absl::Seconds(5);

bool NotHere(v1::Reason reason) {
  return reason == v1::REASON_KEY_NOT_FOUND || reason == v1::REASON_TOMBSTONED ||
         reason == v1::REASON_NOT_FOUND;
}

}  // namespace

PartitionProof Prover::Judge(const KeyEntry& entry, const EntryVersion& version, ByteView nonce, size_t index,
                             const std::optional<Answer>& answer, std::string& comparison) const {
  PartitionProof proof;
  proof.index = index;
  if (!answer.has_value()) {
    proof.message = "no answer in time";
    return proof;
  }
  if (!answer->ok()) {
    v1::Reason reason = ReasonOf(answer->status());
    if (NotHere(reason)) proof.result = v1::PROOF_RESULT_MISSING;
    if (reason == v1::REASON_PROOF_FAILED) proof.result = v1::PROOF_RESULT_DIFFERENT;
    proof.message = DetailOf(answer->status()).message();
    return proof;
  }
  if ((*answer)->missing()) {
    proof.result = v1::PROOF_RESULT_MISSING;
    return proof;
  }
  Challenge challenge{entry.head.hsm, entry.head.uid,  entry.head.incarnation,
                      version.id,     entry.head.spec, entry.head.operations,
                      version.spki,   nonce,           core_.cluster.name(index)};
  proof.result = CheckProof(challenge, (*answer)->proof());
  if (proof.result == v1::PROOF_RESULT_SELF_CHECKED) comparison = (*answer)->proof().comparison();
  if (proof.result == v1::PROOF_RESULT_DIFFERENT) proof.message = "holds another key under this id";
  return proof;
}

std::vector<PartitionProof> Prover::Prove(const KeyEntry& entry, const EntryVersion& version,
                                          const std::vector<size_t>& targets) {
  Bytes nonce = core_.random.Draw(32);
  rpc::ProveRequest request;
  *request.mutable_fence() = core_.Fence();
  request.set_uid(entry.head.uid.Raw());
  request.set_version(version.id.Raw());
  request.set_nonce(ToString(nonce));
  ClusterState& cluster = core_.cluster;
  auto call = [&cluster, request](size_t index) {
    return cluster.client(index).Prove(request, kProveTimeout);
  };
  std::vector<std::optional<Answer>> answers =
      core_.fan_out.GatherAll<Answer>(targets, call, kProveTimeout + absl::Milliseconds(500));

  std::vector<PartitionProof> proofs;
  std::vector<std::string> comparisons(targets.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    proofs.push_back(Judge(entry, version, nonce, targets[i], answers[i], comparisons[i]));
  }
  std::vector<v1::ProofResult> compared = CompareAnswers(comparisons);
  for (size_t i = 0; i < proofs.size(); ++i) {
    if (proofs[i].result != v1::PROOF_RESULT_SELF_CHECKED) continue;
    proofs[i].result = compared[i];
    if (compared[i] == v1::PROOF_RESULT_DIFFERENT) proofs[i].message = "holds another key under this id";
  }
  RefuseWrong(entry, proofs);
  return proofs;
}

std::vector<size_t> Prover::Witnesses(size_t index) const {
  std::vector<size_t> others;
  for (size_t i = 0; i < core_.cluster.size(); ++i) {
    if (i != index && core_.cluster.IsReady(i)) return {i};
    if (i != index && core_.cluster.TakesRecordsNow(i)) others.push_back(i);
  }
  return others;
}

// One version under challenge: the places of its calls in the round.
struct Prover::Asked {
  KeyEntryPtr entry;
  const EntryVersion* version = nullptr;
  Bytes nonce;
  std::vector<size_t> places;  // the first is the partition's own
};

std::vector<PartitionProof> Prover::ProveMany(size_t index, const std::vector<ProofItem>& items) {
  const std::vector<size_t> witnesses = Witnesses(index);
  std::vector<Asked> asked(items.size());
  std::vector<size_t> targets;
  auto requests = std::make_shared<std::vector<rpc::ProveRequest>>();
  for (size_t i = 0; i < items.size(); ++i) {
    asked[i].entry = core_.table.FindUid(items[i].uid);
    if (asked[i].entry != nullptr) asked[i].version = asked[i].entry->Find(items[i].version);
    if (asked[i].version == nullptr) continue;
    asked[i].nonce = core_.random.Draw(32);
    rpc::ProveRequest request;
    *request.mutable_fence() = core_.Fence();
    request.set_uid(items[i].uid.Raw());
    request.set_version(items[i].version.Raw());
    request.set_nonce(ToString(asked[i].nonce));
    std::vector<size_t> who = {index};
    if (asked[i].entry->head.spec.type == v1::KEY_TYPE_OCT_HSM) {
      who.insert(who.end(), witnesses.begin(), witnesses.end());
    }
    for (size_t partition : who) {
      asked[i].places.push_back(targets.size());
      targets.push_back(partition);
      requests->push_back(request);
    }
  }
  ClusterState& cluster = core_.cluster;
  std::vector<std::optional<Answer>> answers = core_.fan_out.GatherPlaces<Answer>(
      targets,
      [&cluster, requests](size_t place, size_t partition) {
        return cluster.client(partition).Prove((*requests)[place], kProveTimeout);
      },
      nullptr, absl::ZeroDuration(), absl::Seconds(60));

  std::vector<PartitionProof> out(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    out[i].index = index;
    if (asked[i].version == nullptr) {
      out[i].result = v1::PROOF_RESULT_PROVED;
      continue;
    }
    std::vector<PartitionProof> proofs;
    std::vector<std::string> comparisons(asked[i].places.size());
    for (size_t k = 0; k < asked[i].places.size(); ++k) {
      size_t place = asked[i].places[k];
      proofs.push_back(Judge(*asked[i].entry, *asked[i].version, asked[i].nonce, targets[place],
                             answers[place], comparisons[k]));
    }
    bool alone =
        std::count_if(comparisons.begin(), comparisons.end(), [](const auto& c) { return !c.empty(); }) == 1;
    std::vector<v1::ProofResult> compared = CompareAnswers(comparisons);
    for (size_t k = 0; k < proofs.size(); ++k) {
      if (proofs[k].result == v1::PROOF_RESULT_SELF_CHECKED) proofs[k].result = compared[k];
    }
    out[i] = proofs[0];
    bool ready_witness = !witnesses.empty() && core_.cluster.IsReady(witnesses[0]);
    if (out[i].result == v1::PROOF_RESULT_SELF_CHECKED && alone && ready_witness) {
      out[i].result = v1::PROOF_RESULT_UNREACHABLE;  // somebody can be asked: later
      out[i].message = "the partition to compare with did not answer";
    }
    if (out[i].result == v1::PROOF_RESULT_DIFFERENT) {
      if (out[i].message.empty()) out[i].message = "holds another key under this id";
      // Against a partition in rotation, whose own copy was proved before, the newcomer is the wrong one.
      if (ready_witness && !core_.cluster.IsReady(index)) {
        proofs.resize(1);
        proofs[0].result = v1::PROOF_RESULT_DIFFERENT;
        core_.cluster.Refuse(
            index, "its proof of key " + asked[i].entry->head.name + " does not match: " + out[i].message,
            core_.clock.Uptime());
      }
      RefuseWrong(*asked[i].entry, proofs);
    }
  }
  return out;
}

void Prover::RefuseWrong(const KeyEntry& entry, const std::vector<PartitionProof>& proofs) {
  bool symmetric = entry.head.spec.type == v1::KEY_TYPE_OCT_HSM;
  bool settled = std::any_of(proofs.begin(), proofs.end(), [](const PartitionProof& proof) {
    return proof.result == v1::PROOF_RESULT_PROVED;
  });
  for (const PartitionProof& proof : proofs) {
    if (proof.result != v1::PROOF_RESULT_DIFFERENT) continue;
    LogError("a proof does not match",
             {{"partition", core_.cluster.name(proof.index)}, {"key", entry.head.name}});
    if (symmetric && !settled) continue;  // two answers that differ: nobody knows whose is wrong
    core_.cluster.Refuse(proof.index,
                         "its proof of key " + entry.head.name + " does not match: " + proof.message,
                         core_.clock.Uptime());
  }
}

}  // namespace hsm
