#include "tests/sim/ledger.h"

#include <fmt/format.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "common/error.h"
#include "common/limits.h"
#include "common/replica.h"
#include "store/catalogue.h"

namespace hsm::testing {
namespace {

// Of one live key, as the catalogue has it: sign with every version on every partition.
void CheckKeySignsEverywhere(SimCluster& cluster, const KeyEntry& entry, const Ledger& ledger) {
  for (const EntryVersion& version : entry.versions) {
    auto known = ledger.versions().find(version.id.ToHex());
    std::string spki =
        known != ledger.versions().end() ? known->second.spki : std::string(StringView(version.spki));
    if (StringView(version.spki) != spki) {
      cluster.scheduler().Fail("I1: the public part of " + entry.head.name +
                               " changed after it was acknowledged");
    }
    if (!entry.head.enabled || entry.head.state != KeyState::kActive) continue;
    for (size_t i = 0; i < cluster.size(); ++i) {
      std::string digest = ToString(cluster.random().Draw(32));
      v1::CryptoOp op = SignOp(entry.head.name, digest);
      op.set_version(version.id.Raw());
      op.mutable_route()->set_uid(entry.head.uid.Raw());
      op.mutable_route()->set_incarnation(entry.head.incarnation);
      op.mutable_route()->set_revision(1);
      v1::CryptoResult result = cluster.CryptoAt(i, op);
      if (result.reason() != v1::REASON_UNSPECIFIED) {
        cluster.scheduler().Fail(fmt::format("I1: {} version {} does not sign on {}: {} {}", entry.head.name,
                                             version.id.ToHex(), cluster.node(i).endpoint.name,
                                             ReasonName(result.reason()), result.message()));
      } else if (!SignatureFits(spki, digest, result.value())) {
        cluster.scheduler().Fail(fmt::format("I1: {} signs with another key on {}", entry.head.name,
                                             cluster.node(i).endpoint.name));
      }
    }
  }
}

void CheckAcknowledgedKeysAreThere(SimCluster& cluster, const Ledger& ledger, const KeyTable& table) {
  std::set<std::string> dead_versions;
  for (const Ledger::Dead& dead : ledger.dead()) dead_versions.insert(Hex(View(dead.version)));
  for (const auto& [version, known] : ledger.versions()) {
    if (dead_versions.contains(version)) continue;
    KeyEntryPtr entry = table.Find(known.name);
    std::optional<KeyVersion> id = KeyVersion::FromHexText(version);
    if (entry != nullptr && entry->Find(*id) != nullptr) {
      if (entry->versions.size() != entry->head.version_count ||
          entry->versions.back().id != entry->head.latest) {
        cluster.scheduler().Fail("I12: versions of " + known.name + " have gaps");
      }
      continue;
    }
    // Gone: then somebody must have tried to destroy it.
    auto tried = ledger.audit().find({"PurgeDeletedKey", known.name});
    if (tried == ledger.audit().end()) {
      cluster.scheduler().Fail("I1: acknowledged key " + known.name + " version " + version + " is lost");
    }
  }
}

void CheckNodesEqualTheCatalogue(SimCluster& cluster, Coordinator& coordinator) {
  std::vector<Bytes> wanted = coordinator.core().table.BucketDigests();
  for (size_t i = 0; i < cluster.size(); ++i) {
    rpc::DigestRequest request;
    *request.mutable_fence() = coordinator.core().Fence();
    absl::StatusOr<rpc::DigestResponse> digest = cluster.node(i).partition->Digest(request);
    if (!digest.ok()) {
      cluster.scheduler().Fail("I21: no digest: " + digest.status().ToString());
      continue;
    }
    for (size_t bucket = 0; bucket < wanted.size(); ++bucket) {
      if (View(digest->buckets(static_cast<int>(bucket))).size() == wanted[bucket].size() &&
          StringView(wanted[bucket]) == digest->buckets(static_cast<int>(bucket))) {
        continue;
      }
      cluster.scheduler().Fail(fmt::format("I21: {} differs from the catalogue in bucket {}",
                                           cluster.node(i).endpoint.name, bucket));
      break;
    }
  }
}

// I15: a chain without gaps; for each acknowledged change one entry, and none that nobody asked for.
void CheckAudit(SimCluster& cluster, Coordinator& coordinator, const Ledger& ledger) {
  std::map<std::pair<std::string, std::string>, uint64_t> written;
  v1::ListAuditRequest request;
  request.set_from(1);
  request.set_page_size(limits::kPageSizeMax);
  uint64_t expected = 1;
  for (;;) {
    absl::StatusOr<v1::ListAuditResponse> page = coordinator.ListAudit(cluster.caller(), request);
    if (!page.ok() || !page->chain_ok()) {
      cluster.scheduler().Fail("I15: the audit chain does not verify: " + page.status().ToString());
      return;
    }
    for (const v1::AuditEntry& entry : page->entries()) {
      if (entry.sequence() != expected++) cluster.scheduler().Fail("I15: the audit has a gap");
      if (entry.outcome() == "ok") ++written[{entry.operation(), entry.object()}];
    }
    if (page->entries().empty() || page->next() == 0 || page->next() <= request.from()) break;
    request.set_from(page->next());
  }
  for (const auto& [what, count] : ledger.audit()) {
    uint64_t have = written[what];
    if (have < count.acknowledged || have > count.acknowledged + count.unknown) {
      cluster.scheduler().Fail(fmt::format("I15: {} entries for {} {}; {} acknowledged, {} unknown", have,
                                           what.first, what.second, count.acknowledged, count.unknown));
    }
  }
}

void CheckHistories(SimCluster& cluster, const Ledger& ledger) {
  for (const auto& [name, history] : ledger.histories()) {
    if (IsLinearizable<KeyModel>(history)) continue;
    cluster.scheduler().Fail("I11: no order explains what callers of " + name + " saw:\n" +
                             KeyModel::Text(Minimise<KeyModel>(history)));
  }
}

}  // namespace

void Ledger::Acknowledged(const v1::Key& key) {
  versions_[key.version()] = {key.name(), key.public_key().spki()};
}

void Ledger::CountAudit(const std::string& operation, const std::string& name, bool acknowledged) {
  Count& count = audit_[{operation, name}];
  ++(acknowledged ? count.acknowledged : count.unknown);
}

bool SignatureFits(const std::string& spki, const std::string& digest, const std::string& signature) {
  const uint8_t* at = reinterpret_cast<const uint8_t*>(spki.data());
  EVP_PKEY* key = d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size()));
  if (key == nullptr || signature.size() != 64) {
    EVP_PKEY_free(key);
    return false;
  }
  const uint8_t* raw = reinterpret_cast<const uint8_t*>(signature.data());
  ECDSA_SIG* both = ECDSA_SIG_new();
  ECDSA_SIG_set0(both, BN_bin2bn(raw, 32, nullptr), BN_bin2bn(raw + 32, 32, nullptr));
  uint8_t* der = nullptr;
  int length = i2d_ECDSA_SIG(both, &der);
  EVP_PKEY_CTX* context = EVP_PKEY_CTX_new(key, nullptr);
  bool fits = EVP_PKEY_verify_init(context) == 1 &&
              EVP_PKEY_verify(context, der, static_cast<size_t>(length),
                              reinterpret_cast<const uint8_t*>(digest.data()), digest.size()) == 1;
  EVP_PKEY_CTX_free(context);
  OPENSSL_free(der);
  ECDSA_SIG_free(both);
  EVP_PKEY_free(key);
  return fits;
}

v1::CryptoOp SignOp(const std::string& name, const std::string& digest) {
  v1::CryptoOp op;
  op.set_operation(v1::CRYPTO_OPERATION_SIGN);
  op.set_algorithm(v1::ALGORITHM_ES256);
  op.set_key_name(name);
  op.set_data(digest);
  return op;
}

void CheckNothingDeadIsServed(SimCluster& cluster, const Ledger& ledger) {
  const std::vector<Ledger::Dead> all = ledger.dead();  // others destroy more while this one looks
  for (const Ledger::Dead& dead : all) {
    for (size_t i = 0; i < cluster.size(); ++i) {
      v1::CryptoOp op = SignOp("any", std::string(32, 'd'));
      op.set_version(dead.version);
      *op.mutable_route() = dead.route;
      if (cluster.CryptoAt(i, op).reason() != v1::REASON_UNSPECIFIED) continue;
      cluster.scheduler().Fail(
          fmt::format("I3: {} uses a key whose destruction was acknowledged", cluster.node(i).endpoint.name));
    }
  }
}

void CheckSignsEverywhere(SimCluster& cluster, const std::string& name) {
  if (KeyEntryPtr entry = cluster.leader()->core().table.Find(name))
    CheckKeySignsEverywhere(cluster, *entry, Ledger());
}

void CheckTheEnd(SimCluster& cluster, const Ledger& ledger) {
  Coordinator* coordinator = cluster.leader();
  if (coordinator == nullptr) return cluster.scheduler().Fail("nobody leads");
  const KeyTable& table = coordinator->core().table;
  CheckHistories(cluster, ledger);
  CheckAcknowledgedKeysAreThere(cluster, ledger, table);
  std::set<std::string> names;
  for (const auto& [version, known] : ledger.versions()) names.insert(known.name);
  for (const std::string& name : names) {
    if (KeyEntryPtr entry = table.Find(name)) CheckKeySignsEverywhere(cluster, *entry, ledger);
  }
  CheckNothingDeadIsServed(cluster, ledger);
  CheckNodesEqualTheCatalogue(cluster, *coordinator);
  CheckAudit(cluster, *coordinator, ledger);
}

}  // namespace hsm::testing
