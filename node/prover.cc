#include "node/prover.h"

#include "common/error.h"
#include "common/log.h"
#include "common/mutant.h"
#include "common/replica.h"
#include "common/status_macros.h"
#include "node/key_encoding.h"

namespace hsm {
namespace {

constexpr OperationSet kSign = Bit(v1::KEY_OPERATION_SIGN);
constexpr OperationSet kOpen = Bit(v1::KEY_OPERATION_DECRYPT) | Bit(v1::KEY_OPERATION_UNWRAP_KEY);
constexpr size_t kCheckValueBytes = 8;
constexpr std::string_view kCheckValueNonce = "check value";

// How a proof of this key is made, and what the object must be allowed for it.
enum class Method { kSign, kDecrypt, kMac };
Method MethodFor(const KeySpec& spec, OperationSet operations) {
  if (spec.type == v1::KEY_TYPE_OCT_HSM) return Method::kMac;
  if (spec.type == v1::KEY_TYPE_RSA_HSM && (operations & kSign) == 0 && (operations & kOpen) != 0) {
    return Method::kDecrypt;
  }
  return Method::kSign;
}
bool Suffices(const KeySpec& spec, OperationSet operations) {
  return MethodFor(spec, operations) != Method::kSign || (operations & kSign) != 0;
}

// ECDSA reads a digest as a number, so that zeros in front change nothing; tokens want the algorithm's
// length.
Bytes Padded(ByteView message, v1::Algorithm algorithm) {
  size_t size = algorithm == v1::ALGORITHM_ES384   ? 48
                : algorithm == v1::ALGORITHM_ES512 ? 64
                                                   : message.size();
  Bytes out(size - message.size());
  out.insert(out.end(), message.begin(), message.end());
  return out;
}

ProofSubject SubjectOf(const VersionRecord& record, std::string_view node) {
  return {record.hsm, record.uid, record.incarnation, record.version, node};
}

absl::Status ProofFailed() {
  return Error(v1::REASON_PROOF_FAILED, "the partition does not hold the key this record names");
}

}  // namespace

absl::StatusOr<CachedKeyPtr> NodeProver::Unwrap(const VersionRecord& record, KeyUse use,
                                                OperationSet operations) const {
  if (record.kek_generation != core_.sealer->generation()) {
    return Error(v1::REASON_OTHER_DOMAIN, "a key is wrapped under another generation of the KEK");
  }
  std::shared_ptr<const PublicPart> public_part;
  if (record.spec.type != v1::KEY_TYPE_OCT_HSM) {
    HSM_ASSIGN_OR_RETURN(PublicPart parsed, PublicPart::Parse(record.spec, record.spki));
    public_part = std::make_shared<const PublicPart>(std::move(parsed));
  }
  HSM_ASSIGN_OR_RETURN(TokenKey handle,
                       core_.token.Unwrap(Kek::kReplication, record.spec, {use, operations}, record.wrapped));
  auto key = std::make_shared<CachedKey>(core_.token, handle, record.spec);
  key->public_part = std::move(public_part);
  key->incarnation = record.incarnation;
  key->operations = operations;
  return key;
}

absl::StatusOr<Bytes> NodeProver::Answer(const CachedKey& key, ByteView message, bool& different) const {
  different = false;
  switch (MethodFor(key.spec, key.operations)) {
    case Method::kMac:
      return key.spec.size_bits == 256 ? core_.token.Hmac(key.key, message)
                                       : core_.token.Cmac(key.key, message);
    case Method::kSign: {
      v1::Algorithm algorithm = SignAlgorithmFor(key.spec.curve);
      Bytes digest = Padded(message, algorithm);
      HSM_ASSIGN_OR_RETURN(Bytes signature, core_.token.Sign(key.key, key.spec, algorithm, digest));
      different = !key.public_part->Verify(algorithm, digest, signature);
      return signature;
    }
    case Method::kDecrypt: {
      HSM_ASSIGN_OR_RETURN(Bytes sealed, key.public_part->Encrypt(v1::ALGORITHM_RSA_OAEP, message));
      absl::StatusOr<SecretBytes> opened =
          core_.token.RsaDecrypt(key.key, key.spec, v1::ALGORITHM_RSA_OAEP, sealed);
      if (!opened.ok() && ReasonOf(opened.status()) != v1::REASON_DECRYPTION_FAILED) return opened.status();
      different = !opened.ok() || !opened->Equals(message);
      return Bytes();
    }
  }
  return Error(v1::REASON_INTERNAL, "no way to prove this key");
}

absl::StatusOr<internal::v1::Proof> NodeProver::Prove(const VersionRecord& record, OperationSet operations,
                                                      CachedKeyPtr key, ByteView nonce) const {
  if (key == nullptr || !Suffices(record.spec, key->operations)) {
    OperationSet own = Suffices(record.spec, operations) ? operations : kSign;
    HSM_ASSIGN_OR_RETURN(key, Unwrap(record, KeyUse::kPolicy, own));
  }
  bool symmetric = record.spec.type == v1::KEY_TYPE_OCT_HSM;
  ProofSubject subject = SubjectOf(record, symmetric ? std::string_view() : core_.options.node);
  Bytes message = ProofMessage(subject, nonce);
  bool different = false;
  HSM_ASSIGN_OR_RETURN(Bytes answer, Answer(*key, message, different));
  if (HSM_MUTANT("skip-proof")) different = false;
  internal::v1::Proof proof;
  proof.set_node(core_.options.node);
  proof.set_version(record.version.Raw());
  proof.set_nonce(ToString(nonce));
  proof.set_different(different);
  if (symmetric) {
    proof.set_comparison(ToString(answer));
  } else if (answer.empty()) {
    proof.set_decrypted(!different);
  } else {
    proof.set_signature(ToString(answer));
  }
  if (!different) key->checked.store(true);
  return proof;
}

absl::StatusOr<std::string> NodeProver::CheckValue(const VersionRecord& record, const CachedKey& key) const {
  if (record.spec.type != v1::KEY_TYPE_OCT_HSM) return std::string();
  bool different = false;
  HSM_ASSIGN_OR_RETURN(Bytes answer,
                       Answer(key, ProofMessage(SubjectOf(record, ""), View(kCheckValueNonce)), different));
  answer.resize(kCheckValueBytes);
  return ToString(answer);
}

absl::Status NodeProver::CheckHead(const std::shared_ptr<KeyIndex>& index, const IndexEntryPtr& entry) const {
  if (entry->checked) return absl::OkStatus();
  HSM_ASSIGN_OR_RETURN(HeadRow row, core_.blobs.ReadHead(index->data_set(), entry->uid, entry->attempt));
  HSM_ASSIGN_OR_RETURN(KeyHead head, core_.sealer->OpenHead(row.sealed));
  IndexEntry opened = IndexEntry::From(head, row.sealed, true);
  bool same =
      opened.uid == entry->uid && opened.head_mac == entry->head_mac && head.data_set == index->data_set();
  if (!same) return Error(v1::REASON_FENCED, "the key changed meanwhile");
  index->SetChecked(entry);
  return absl::OkStatus();
}

absl::StatusOr<CachedKeyPtr> NodeProver::Load(const std::shared_ptr<KeyIndex>& index,
                                              const IndexEntryPtr& entry, const VersionEntry& version,
                                              KeyUse use) const {
  CachedKeyPtr key = core_.cache.Find(entry->uid, version.version, use);
  bool fits = key != nullptr && key->incarnation == entry->incarnation && entry->checked &&
              (use != KeyUse::kPolicy || key->operations == entry->operations);
  if (fits) return key;
  if (key != nullptr) core_.cache.Forget(entry->uid, version.version);
  return LoadCold(index, entry, version, use);
}

absl::StatusOr<CachedKeyPtr> NodeProver::LoadCold(const std::shared_ptr<KeyIndex>& index,
                                                  const IndexEntryPtr& entry, const VersionEntry& version,
                                                  KeyUse use) const {
  // A key for A*KW has no use by which it could be checked: its twin is checked in its place.
  if (use == KeyUse::kKeyWrap) {
    absl::StatusOr<CachedKeyPtr> twin = Load(index, entry, version, KeyUse::kPolicy);
    if (!twin.ok()) return twin.status();
  }
  HSM_RETURN_IF_ERROR(CheckHead(index, entry));
  HSM_ASSIGN_OR_RETURN(VersionRow row,
                       core_.blobs.ReadVersion(index->data_set(), entry->uid, version.version));
  HSM_ASSIGN_OR_RETURN(VersionRecord record, core_.sealer->OpenVersion(row.sealed));
  if (record.uid != entry->uid || record.version != version.version ||
      record.incarnation != entry->incarnation || record.spec != entry->spec) {
    return Error(v1::REASON_RECORD_CORRUPT, "a version record does not belong to its head");
  }
  HSM_ASSIGN_OR_RETURN(CachedKeyPtr key,
                       Unwrap(record, use, use == KeyUse::kPolicy ? entry->operations : OperationSet{0}));
  if (record.spec.type == v1::KEY_TYPE_OCT_HSM && use == KeyUse::kPolicy) {
    HSM_ASSIGN_OR_RETURN(std::string value, CheckValue(record, *key));
    if (!row.check_value.empty() && value != row.check_value && !HSM_MUTANT("skip-check-value")) {
      HSM_RETURN_IF_ERROR(Distrust(index, entry->uid, version.version));
      return ProofFailed();
    }
    key->checked.store(true);
  }
  if (use == KeyUse::kKeyWrap) key->checked.store(true);
  return core_.cache.Put(entry->uid, version.version, use, std::move(key));
}

absl::Status NodeProver::SelfCheck(const std::shared_ptr<KeyIndex>& index, const IndexEntry& entry,
                                   const KeyVersion& version, const CachedKeyPtr& key) const {
  if (key->checked.load()) return absl::OkStatus();
  if (!Suffices(key->spec, key->operations)) {  // only verify or encrypt are left: the public part does those
    key->checked.store(true);
    return absl::OkStatus();
  }
  VersionRecord subject;
  subject.hsm = core_.sealer->hsm();
  subject.uid = entry.uid;
  subject.incarnation = entry.incarnation;
  subject.version = version;
  Bytes nonce = core_.random.Draw(32);
  bool different = false;
  HSM_RETURN_IF_ERROR(
      Answer(*key, ProofMessage(SubjectOf(subject, core_.options.node), nonce), different).status());
  if (different) {
    HSM_RETURN_IF_ERROR(Distrust(index, entry.uid, version));
    return ProofFailed();
  }
  key->checked.store(true);
  return absl::OkStatus();
}

absl::Status NodeProver::Distrust(const std::shared_ptr<KeyIndex>& index, const KeyUid& uid,
                                  const KeyVersion& version) const {
  LogError("a key in the token is not the one its record names",
           {{"uid", uid.ToHex()}, {"version", version.ToHex()}});
  index->SetProved(uid, version, false);
  core_.cache.Forget(uid, version);
  BlobBatch batch;
  batch.SetProved(index->data_set(), uid, version, false, "");
  return core_.blobs.Commit(batch);
}

}  // namespace hsm
