#pragma once
// What callers were told, and what must be true because of it.
#include <map>
#include <set>
#include <string>
#include <vector>

#include "hsm/v1/crypto.pb.h"
#include "hsm/v1/key.pb.h"
#include "tests/sim/key_model.h"
#include "tests/sim/sim_cluster.h"

namespace hsm::testing {

struct KnownVersion {
  std::string name;
  std::string spki;
};

class Ledger {
 public:
  int64_t Tick() { return ++tick_; }

  // The history of one name, for the linearizability checker.
  void Add(const std::string& name, KeyModel::Op op) { histories_[name].push_back(std::move(op)); }

  // An answer that acknowledges key material: it must never be lost while the key lives.
  void Acknowledged(const v1::Key& key);
  // A destroyed key: its uid must never be used again, whoever asks by whatever old route.
  using Dead = SimCluster::Destroyed;
  void Destroyed(Dead dead) { dead_.push_back(std::move(dead)); }
  void CountAudit(const std::string& operation, const std::string& name, bool acknowledged);

  struct Count {
    uint64_t acknowledged = 0, unknown = 0;
  };
  const std::map<std::string, KnownVersion>& versions() const { return versions_; }  // by hex id
  const std::vector<Dead>& dead() const { return dead_; }
  const std::map<std::string, std::vector<KeyModel::Op>>& histories() const { return histories_; }
  const std::map<std::pair<std::string, std::string>, Count>& audit() const { return audit_; }

 private:
  int64_t tick_ = 0;
  std::map<std::string, std::vector<KeyModel::Op>> histories_;
  std::map<std::string, KnownVersion> versions_;
  std::vector<Dead> dead_;
  std::map<std::pair<std::string, std::string>, Count> audit_;
};

// ES256 over `digest` by the public key in `spki`, with OpenSSL.
bool SignatureFits(const std::string& spki, const std::string& digest, const std::string& signature);
v1::CryptoOp SignOp(const std::string& name, const std::string& digest);

// --- The checkers. Each ends the run through SimScheduler::Fail.
// Now: none of the destroyed keys can be used on any partition (I3).
void CheckNothingDeadIsServed(SimCluster& cluster, const Ledger& ledger);
// Every version of a live, enabled key signs on every partition and fits its public part in the catalogue
// (I1).
void CheckSignsEverywhere(SimCluster& cluster, const std::string& name);
// At the end, faults off and converged: every acknowledged key that still lives signs on every partition and
// fits its recorded public part (I1), nodes equal the catalogue (I21), audit chain and counts (I15), version
// numbers (I12), histories (I11, and with it I2, I9, I10).
void CheckTheEnd(SimCluster& cluster, const Ledger& ledger);

}  // namespace hsm::testing
