#include "coordinator/crypto.h"

#include <utility>
#include <vector>

#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/replica.h"
#include "common/status_macros.h"
#include "coordinator/key_state.h"

namespace hsm {
namespace {

struct OperationFacts {
  DataAction action;
  std::string_view name;  // in the audit
};

absl::StatusOr<OperationFacts> FactsOf(v1::CryptoOperation operation) {
  switch (operation) {
    case v1::CRYPTO_OPERATION_SIGN:
      return OperationFacts{DataAction::kSign, "Sign"};
    case v1::CRYPTO_OPERATION_VERIFY:
      return OperationFacts{DataAction::kVerify, "Verify"};
    case v1::CRYPTO_OPERATION_ENCRYPT:
      return OperationFacts{DataAction::kEncrypt, "Encrypt"};
    case v1::CRYPTO_OPERATION_DECRYPT:
      return OperationFacts{DataAction::kDecrypt, "Decrypt"};
    case v1::CRYPTO_OPERATION_WRAP_KEY:
      return OperationFacts{DataAction::kWrap, "WrapKey"};
    case v1::CRYPTO_OPERATION_UNWRAP_KEY:
      return OperationFacts{DataAction::kUnwrap, "UnwrapKey"};
    case v1::CRYPTO_OPERATION_RANDOM:
      return OperationFacts{DataAction::kRandom, "Random"};
    default:
      return Error(v1::REASON_INVALID_ARGUMENT, "the operation is not one of sign, verify, encrypt, ...");
  }
}

absl::Status CheckSizes(const v1::CryptoOp& op) {
  bool hmac = op.algorithm() == v1::ALGORITHM_HS256 || op.algorithm() == v1::ALGORITHM_HS384 ||
              op.algorithm() == v1::ALGORITHM_HS512;
  if (op.data().size() > (hmac ? limits::kHmacDataBytesMax : limits::kCryptoDataBytesMax) ||
      op.aad().size() > limits::kAadBytesMax || op.signature().size() > limits::kCryptoDataBytesMax) {
    return Error(v1::REASON_LIMIT_EXCEEDED, "the operation's data is too long");
  }
  if (op.iv().size() > 16 || op.tag().size() > 16) {
    return Error(v1::REASON_DATA_INVALID, "an IV or tag has at most 16 bytes");
  }
  return absl::OkStatus();
}

}  // namespace

void Crypto::Execute(const Caller& caller, v1::CryptoBatch& batch, v1::CryptoBatchResult& results) {
  std::vector<int> allowed = Admit(caller, batch, results);
  if (!allowed.empty()) router_.Run(batch, std::move(allowed), results, DecideAgain(caller));
}

void Crypto::Start(const Caller& caller, v1::CryptoBatch& batch, v1::CryptoBatchResult& results,
                   std::function<void()> done) {
  std::vector<int> allowed = Admit(caller, batch, results);
  if (allowed.empty()) return done();
  router_.Start(batch, std::move(allowed), results, DecideAgain(caller), std::move(done));
}

std::vector<int> Crypto::Admit(const Caller& caller, v1::CryptoBatch& batch,
                               v1::CryptoBatchResult& results) const {
  results.Clear();
  results.mutable_results()->Reserve(batch.ops_size());
  for (const v1::CryptoOp& op : batch.ops()) results.add_results()->set_id(op.id());
  std::vector<int> allowed;
  absl::Status status = core_.MayRead();
  if (batch.ops_size() > static_cast<int>(limits::kBatchOpsMax)) {
    status = Error(v1::REASON_LIMIT_EXCEEDED, "a batch has at most 64 operations");
  }
  if (!status.ok()) {
    for (v1::CryptoResult& result : *results.mutable_results()) SetFailure(result, status);
    return allowed;
  }
  int64_t now_seconds = absl::ToUnixSeconds(core_.clock.Now());
  allowed.reserve(static_cast<size_t>(batch.ops_size()));
  for (int i = 0; i < batch.ops_size(); ++i) {
    absl::Status decided = Decide(caller, now_seconds, *batch.mutable_ops(i));
    if (decided.ok()) {
      allowed.push_back(i);
    } else {
      SetFailure(*results.mutable_results(i), decided);
    }
  }
  return allowed;
}

Router::Decide Crypto::DecideAgain(const Caller& caller) const {
  return [this, &caller](v1::CryptoOp& op) {
    HSM_RETURN_IF_ERROR(core_.MayRead());
    return Decide(caller, absl::ToUnixSeconds(core_.clock.Now()), op);
  };
}

absl::StatusOr<v1::CryptoResult> Crypto::ExecuteOne(const Caller& caller, v1::CryptoOp op) {
  v1::CryptoBatch batch;
  v1::CryptoBatchResult results;
  uint64_t id = op.id();
  batch.add_ops()->Swap(&op);
  Execute(caller, batch, results);
  v1::CryptoResult& result = *results.mutable_results(0);
  result.set_id(id);
  if (result.reason() == v1::REASON_UNSPECIFIED) return std::move(result);
  v1::ErrorDetail detail;
  detail.set_reason(result.reason());
  detail.set_message(result.message());
  detail.set_retry_after_ms(result.retry_after_ms());
  return Error(detail);
}

absl::Status Crypto::Decide(const Caller& caller, int64_t now_seconds, v1::CryptoOp& op) const {
  HSM_ASSIGN_OR_RETURN(OperationFacts facts, FactsOf(op.operation()));
  op.clear_route();  // a client has no say in it
  if (op.operation() == v1::CRYPTO_OPERATION_RANDOM) {
    HSM_RETURN_IF_ERROR(core_.Allow(caller, facts.action, facts.name));
    if (op.count() < 1 || op.count() > limits::kRandomBytesMax) {
      return Error(v1::REASON_INVALID_ARGUMENT, "random gives 1 to 128 bytes");
    }
  } else {
    // Before anything is said about the key, also whether it exists.
    if (!HSM_MUTANT("crypto-skips-authorisation")) {
      HSM_RETURN_IF_ERROR(core_.Allow(caller, facts.action, facts.name, op.key_name()));
    }
    HSM_RETURN_IF_ERROR(CheckSizes(op));
    HSM_RETURN_IF_ERROR(DecideKey(caller, now_seconds, op));
  }
  v1::Route* route = op.mutable_route();
  route->set_principal(caller.principal.Raw());
  route->set_correlation(caller.correlation);
  return absl::OkStatus();
}

absl::Status Crypto::DecideKey(const Caller& caller, int64_t now_seconds, v1::CryptoOp& op) const {
  (void)caller;
  KeyEntryPtr entry = core_.table.Find(op.key_name());
  if (entry == nullptr) return Error(v1::REASON_KEY_NOT_FOUND, "there is no key " + op.key_name());
  if (!HSM_MUTANT("crypto-skips-key-state")) {
    HSM_RETURN_IF_ERROR(CheckUse(entry->head, NeededOperation(op.operation()), now_seconds));
  }
  HSM_RETURN_IF_ERROR(CheckAlgorithm(entry->head.spec, op.algorithm()));
  if (op.algorithm() == v1::ALGORITHM_RSA1_5 && !core_.config.allow_rsa1_5) {
    return Error(v1::REASON_UNSUPPORTED, "RSA1_5 is switched off here; use RSA-OAEP-256");
  }
  if (op.version().empty()) {
    op.set_version(entry->latest().id.Raw());
  } else {
    auto version = KeyVersion::From(op.version());
    if (!version || entry->Find(*version) == nullptr) {
      return Error(v1::REASON_KEY_NOT_FOUND, "key " + op.key_name() + " has no such version");
    }
  }
  v1::Route* route = op.mutable_route();
  route->set_uid(entry->head.uid.Raw());
  route->set_incarnation(entry->head.incarnation);
  route->set_revision(entry->RouteRevision());
  return absl::OkStatus();
}

}  // namespace hsm
