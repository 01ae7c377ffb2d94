#pragma once
// A partition on a FakeToken with everything it needs, for tests of the node: its disk is in memory and
// survives Restart.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "node/partition.h"
#include "node/sealer.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/fake_token.h"
#include "tests/testing/seeded_random.h"

namespace hsm::testing {

// What all partitions of one HSM share.
struct TestDomain {
  explicit TestDomain(uint64_t seed = 1) : random(seed), keks(std::make_shared<FakeDomain>(random)) {
    FakeToken token(keks, random);
    hsm = random.NewId<HsmId>();
    bundle = *MakeBundle(token, hsm, 1);
  }
  SeededRandom random;
  std::shared_ptr<const FakeDomain> keks;
  std::shared_ptr<FakeRsaPool> rsa = std::make_shared<FakeRsaPool>();
  HsmId hsm;
  rpc::DomainBundle bundle;
};

class TestNode {
 public:
  TestNode(TestDomain& domain, std::string name)
      : domain_(domain), name_(std::move(name)), disk_("vfs-" + name_) {
    Boot();
  }
  ~TestNode() { Stop(); }

  void Stop() {
    partition_.reset();
    audit_.reset();
    blobs_.reset();
    token_.reset();
  }
  void Boot() {
    token_ = std::make_unique<FakeToken>(domain_.keks, domain_.random, "fake", domain_.rsa);
    auto blobs = BlobStore::Open({.path = "node.db", .vfs = disk_.name()});
    ASSERT_TRUE(blobs.ok()) << blobs.status();
    blobs_ = std::move(*blobs);
    auto audit = UseAudit::Open({.node = name_}, RealClock());
    ASSERT_TRUE(audit.ok()) << audit.status();
    audit_ = std::move(*audit);
    Partition::Options made = options;
    made.node = name_;
    partition_ = std::make_unique<Partition>(made, *token_, *blobs_, *audit_, clock, domain_.random);
    absl::Status loaded = partition_->LoadDomain(domain_.bundle);
    ASSERT_TRUE(loaded.ok()) << loaded;
    GrantLease();
  }
  void Restart() {
    Stop();
    Boot();
  }
  void GrantLease() {
    rpc::HeartbeatResponse response;
    response.set_epoch(epoch);
    response.set_data_set(data_set);
    response.set_lease_granted(true);
    response.set_serve(true);
    response.set_lease_ms(limits::kServingLeaseMs);
    partition_->OnHeartbeat(response, clock.Uptime());
  }
  rpc::Fence fence() const {
    rpc::Fence fence;
    fence.set_hsm_id(domain_.hsm.Raw());
    fence.set_epoch(epoch);
    fence.set_data_set(data_set);
    return fence;
  }

  Partition* operator->() { return partition_.get(); }
  FakeToken& token() { return *token_; }
  BlobStore& blobs() { return *blobs_; }
  UseAudit& audit() { return *audit_; }
  CrashVfs& disk() { return disk_; }
  const std::string& name() const { return name_; }

  FakeClock clock;
  Partition::Options options;  // takes effect with the next Boot
  Epoch epoch = 1;
  DataSet data_set = 1;

  // --- what a coordinator would do ---
  absl::StatusOr<rpc::KeyRecords> Generate(const std::string& name, v1::KeyType type, v1::Curve curve,
                                           uint32_t bits, OperationSet operations = 0) {
    rpc::GenerateRequest request;
    *request.mutable_fence() = fence();
    rpc::NewKey* key = request.mutable_key();
    key->set_name(name);
    key->set_type(type);
    key->set_curve(curve);
    key->set_size_bits(bits);
    KeySpec spec = *CheckSpec(type, curve, bits);
    key->set_operations(operations == 0 ? OperationsThatFit(spec) : operations);
    key->set_enabled(true);
    key->set_now(absl::ToUnixSeconds(clock.Now()));
    auto response = partition_->Generate(request);
    if (!response.ok()) return response.status();
    return response->records();
  }
  absl::StatusOr<rpc::InstallAnswer> Install(const rpc::KeyRecords& records, const std::string& attempt) {
    rpc::InstallRequest request;
    *request.mutable_fence() = fence();
    rpc::InstallItem& item = *request.add_items();
    item.set_op_id(attempt);
    *item.mutable_records() = records;
    item.set_nonce(std::string(32, 'n'));
    HSM_ASSIGN_OR_RETURN(rpc::InstallResponse response, partition_->Install(request));
    if (response.answers(0).has_error()) return Error(response.answers(0).error());
    return response.answers(0);
  }
  absl::Status Activate(const rpc::KeyRecords& records, const std::string& attempt) {
    KeyHead head = *DecodeHead(records.head());
    rpc::ActivateRequest request;
    *request.mutable_fence() = fence();
    rpc::ActivateItem& item = *request.add_items();
    item.set_op_id(attempt);
    item.set_uid(head.uid.Raw());
    item.set_revision(head.revision);
    HSM_ASSIGN_OR_RETURN(rpc::ActivateResponse response, partition_->Activate(request));
    return response.answers(0).has_error() ? Error(response.answers(0).error()) : absl::OkStatus();
  }
  absl::StatusOr<rpc::KeyRecords> Create(const std::string& name, v1::KeyType type = v1::KEY_TYPE_EC_HSM,
                                         v1::Curve curve = v1::CURVE_UNSPECIFIED, uint32_t bits = 0,
                                         OperationSet operations = 0) {
    auto records = Generate(name, type, curve, bits, operations);
    if (!records.ok()) return records;
    std::string attempt = domain_.random.NewId<OpId>().Raw();
    if (auto installed = Install(*records, attempt); !installed.ok()) return installed.status();
    if (absl::Status activated = Activate(*records, attempt); !activated.ok()) return activated;
    return records;
  }
  // From the head in `records`; `what` has the operation.
  absl::StatusOr<rpc::SealedRecord> Transition(const rpc::KeyRecords& records, rpc::TransitionRequest what) {
    KeyHead head = *DecodeHead(records.head());
    *what.mutable_fence() = fence();
    what.set_uid(head.uid.Raw());
    what.set_revision(head.revision);
    what.set_now(absl::ToUnixSeconds(clock.Now()));
    HSM_ASSIGN_OR_RETURN(rpc::TransitionResponse response, partition_->Transition(what));
    return response.head();
  }
  absl::StatusOr<rpc::SealedRecord> Change(const rpc::KeyRecords& records, const rpc::SetAttributes& set) {
    rpc::TransitionRequest request;
    *request.mutable_set_attributes() = set;
    return Transition(records, request);
  }
  absl::StatusOr<rpc::SealedRecord> Tombstone(const rpc::KeyRecords& records) {
    rpc::TransitionRequest request;
    request.set_tombstone(true);
    return Transition(records, request);
  }
  absl::StatusOr<rpc::SealedRecord> SoftDelete(const rpc::KeyRecords& records, int64_t scheduled_purge) {
    rpc::TransitionRequest request;
    request.mutable_soft_delete()->set_scheduled_purge(scheduled_purge);
    return Transition(records, request);
  }
  absl::StatusOr<bool> Revoke(const rpc::SealedRecord& head) {
    rpc::ControlRequest request;
    *request.mutable_fence() = fence();
    request.set_sequence(++sequence_);
    *request.mutable_head() = head;
    auto response = partition_->Control(request);
    if (!response.ok()) return response.status();
    return response->taken();
  }
  v1::CryptoOp Op(const rpc::KeyRecords& records, v1::CryptoOperation operation, v1::Algorithm algorithm,
                  std::string data) {
    KeyHead head = *DecodeHead(records.head());
    v1::CryptoOp op;
    op.set_id(7);
    op.set_operation(operation);
    op.set_algorithm(algorithm);
    op.set_data(std::move(data));
    op.mutable_route()->set_uid(head.uid.Raw());
    op.mutable_route()->set_incarnation(head.incarnation);
    op.mutable_route()->set_revision(head.revision);
    return op;
  }
  v1::CryptoResult Run(const v1::CryptoOp& op) {
    v1::CryptoBatch batch;
    batch.set_epoch(epoch);
    batch.set_data_set(data_set);
    *batch.add_ops() = op;
    return partition_->Crypto(batch).results(0);
  }
  v1::CryptoResult Sign(const rpc::KeyRecords& records) {
    return Run(Op(records, v1::CRYPTO_OPERATION_SIGN, v1::ALGORITHM_ES256, std::string(32, 'd')));
  }

 private:
  TestDomain& domain_;
  const std::string name_;
  CrashVfs disk_;
  std::unique_ptr<FakeToken> token_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<UseAudit> audit_;
  std::unique_ptr<Partition> partition_;
  uint64_t sequence_ = 0;
};

}  // namespace hsm::testing
