#include "coordinator/prover.h"

#include <algorithm>
#include <map>

#include "common/error.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/replica.h"
#include "coordinator/proof_check.h"
#include "coordinator/quorum.h"

namespace hsm {
namespace {

constexpr absl::Duration kProveTimeout = absl::Seconds(5);
constexpr absl::Duration kProveManyTimeout =
    absl::Seconds(15);  // of one call: kProofsPerCall RSA keys at worst

bool NotHere(v1::Reason reason) {
  return reason == v1::REASON_KEY_NOT_FOUND || reason == v1::REASON_TOMBSTONED ||
         reason == v1::REASON_NOT_FOUND;
}

rpc::ProveItem SubjectOf(const KeyUid& uid, const KeyVersion& version, const Bytes& nonce) {
  rpc::ProveItem subject;
  subject.set_uid(uid.Raw());
  subject.set_version(version.Raw());
  subject.set_nonce(ToString(nonce));
  return subject;
}

// To the challenge at place `at` of the call that `response` answers.
absl::StatusOr<rpc::ProveAnswer> AnswerAt(const absl::StatusOr<rpc::ProveResponse>& response, int at) {
  if (!response.ok()) return response.status();
  if (at >= response->answers_size()) {
    return Error(v1::REASON_RECORD_CORRUPT, "a partition answered fewer challenges than it was asked");
  }
  const rpc::ProveAnswer& answer = response->answers(at);
  if (answer.has_error()) return Error(answer.error());
  return answer;
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
  *request.add_items() = SubjectOf(entry.head.uid, version.id, nonce);
  ClusterState& cluster = core_.cluster;
  auto call = [&cluster, request](size_t index) {
    return AnswerAt(cluster.client(index).Prove(request, kProveTimeout), 0);
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

// One version under challenge, and where its answers will be.
struct Prover::Asked {
  struct Place {
    size_t call;
    int at;
  };
  KeyEntryPtr entry;
  const EntryVersion* version = nullptr;
  Bytes nonce;
  std::vector<Place> places;  // the first is the partition's own
};

std::vector<PartitionProof> Prover::ProveMany(size_t index, const std::vector<ProofItem>& items) {
  const std::vector<size_t> witnesses = Witnesses(index);
  std::vector<Asked> asked(items.size());
  std::vector<size_t> targets;  // the partition of each call
  auto requests = std::make_shared<std::vector<rpc::ProveRequest>>();
  std::map<size_t, size_t> open;  // by partition, the call that is being filled
  for (size_t i = 0; i < items.size(); ++i) {
    asked[i].entry = core_.table.FindUid(items[i].uid);
    if (asked[i].entry != nullptr) asked[i].version = asked[i].entry->Find(items[i].version);
    if (asked[i].version == nullptr) continue;
    asked[i].nonce = core_.random.Draw(32);
    std::vector<size_t> who = {index};
    if (asked[i].entry->head.spec.type == v1::KEY_TYPE_OCT_HSM) {
      who.insert(who.end(), witnesses.begin(), witnesses.end());
    }
    for (size_t partition : who) {
      auto call = open.find(partition);
      if (call == open.end() ||
          static_cast<size_t>((*requests)[call->second].items_size()) >= limits::kProofsPerCall) {
        call = open.insert_or_assign(partition, targets.size()).first;
        targets.push_back(partition);
        *requests->emplace_back().mutable_fence() = core_.Fence();
      }
      rpc::ProveRequest& request = (*requests)[call->second];
      asked[i].places.push_back({call->second, request.items_size()});
      *request.add_items() = SubjectOf(items[i].uid, items[i].version, asked[i].nonce);
    }
  }
  ClusterState& cluster = core_.cluster;
  using Response = absl::StatusOr<rpc::ProveResponse>;
  std::vector<std::optional<Response>> responses = core_.fan_out.GatherPlaces<Response>(
      targets,
      [&cluster, requests](size_t call, size_t partition) {
        return cluster.client(partition).Prove((*requests)[call], kProveManyTimeout);
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
      const Asked::Place& place = asked[i].places[k];
      std::optional<Answer> answer;
      if (responses[place.call].has_value()) answer = AnswerAt(*responses[place.call], place.at);
      proofs.push_back(Judge(*asked[i].entry, *asked[i].version, asked[i].nonce, targets[place.call], answer,
                             comparisons[k]));
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
