#include "node/fence.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "tests/testing/crash_vfs.h"
#include "tests/testing/fake_clock.h"

namespace hsm {
namespace {

class FenceTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    fence_.reset();
    blobs_.reset();
    auto opened = BlobStore::Open({.path = "fence.db", .vfs = disk_.name()});
    ASSERT_TRUE(opened.ok()) << opened.status();
    blobs_ = std::move(*opened);
    fence_ = std::make_unique<ServingFence>(*blobs_, clock_);
    HsmId hsm;
    hsm.value[0] = 1;
    ASSERT_TRUE(fence_->SetHsm(hsm).ok());
  }
  v1::Reason Check(Epoch epoch, uint8_t hsm = 1) {
    internal::v1::Fence fence;
    HsmId id;
    id.value[0] = hsm;
    fence.set_hsm_id(id.Raw());
    fence.set_epoch(epoch);
    return ReasonOf(fence_->Check(fence));
  }
  void Grant(Epoch epoch, absl::Duration asked_at, bool serve = true) {
    internal::v1::HeartbeatResponse response;
    response.set_epoch(epoch);
    response.set_data_set(1);
    response.set_lease_granted(true);
    response.set_serve(serve);
    response.set_lease_ms(3'000);
    fence_->OnHeartbeat(response, asked_at);
  }

  testing::CrashVfs disk_{"fence-test"};
  testing::FakeClock clock_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<ServingFence> fence_;
};

TEST_F(FenceTest, AnOlderEpochIsRefusedAlsoAfterARestart) {
  EXPECT_EQ(Check(5), v1::REASON_UNSPECIFIED);
  EXPECT_EQ(Check(4), v1::REASON_FENCED);
  Open();
  EXPECT_EQ(Check(4), v1::REASON_FENCED);
  EXPECT_EQ(Check(5), v1::REASON_UNSPECIFIED);
}

TEST_F(FenceTest, AnotherHsmIsRefused) { EXPECT_EQ(Check(5, 2), v1::REASON_FENCED); }

TEST_F(FenceTest, TheLeaseCountsFromTheQuestion) {
  Check(1);
  absl::Duration asked = clock_.Uptime();
  clock_.Advance(absl::Seconds(2));
  Grant(1, asked);
  EXPECT_TRUE(fence_->HasLease());
  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(fence_->HasLease());
}

TEST_F(FenceTest, AnAnswerFromBeforeAStopBringsNothingBack) {
  Check(1);
  Grant(1, clock_.Uptime());
  auto permit = fence_->Enter(1, 1);
  ASSERT_TRUE(permit.ok());
  absl::Duration asked = clock_.Uptime();
  clock_.Advance(absl::Milliseconds(10));
  EXPECT_TRUE(*fence_->Take(ServingFence::Change::kStop, 1, 1, 1));
  EXPECT_FALSE(fence_->StillValid(*permit, clock_.Uptime()));
  Grant(1, asked);
  EXPECT_FALSE(fence_->HasLease());
  clock_.Advance(absl::Milliseconds(10));
  Grant(1, clock_.Uptime());
  EXPECT_TRUE(fence_->HasLease());
}

TEST_F(FenceTest, ALeaderOfThePastGrantsNothing) {
  Check(2);
  Grant(1, clock_.Uptime());
  EXPECT_FALSE(fence_->HasLease());
  Grant(3, clock_.Uptime());
  EXPECT_TRUE(fence_->HasLease());
  EXPECT_EQ(fence_->epoch(), 3u);
  EXPECT_EQ(ReasonOf(fence_->Enter(2, 1).status()), v1::REASON_FENCED);
}

TEST_F(FenceTest, AWallClockJumpDropsTheLease) {
  Check(1);
  Grant(1, clock_.Uptime());
  clock_.JumpWallClock(absl::Seconds(-90));
  EXPECT_EQ(ReasonOf(fence_->Enter(1, 1).status()), v1::REASON_NOT_ACTIVE);
  Grant(1, clock_.Uptime());
  EXPECT_TRUE(fence_->Enter(1, 1).ok());
}

TEST_F(FenceTest, ControlSequencesNeverGoBackWithinAnEpoch) {
  Check(1);
  EXPECT_TRUE(*fence_->Take(ServingFence::Change::kDrain, 1, 7, 1));
  EXPECT_FALSE(*fence_->Take(ServingFence::Change::kResume, 1, 6, 1));
  EXPECT_TRUE(fence_->draining());
  EXPECT_TRUE(*fence_->Take(ServingFence::Change::kDrain, 1, 7, 1));  // the same again
  Open();
  EXPECT_EQ(fence_->control_sequence(), 7u);
  EXPECT_FALSE(*fence_->Take(ServingFence::Change::kStop, 1, 6, 1));
  Check(2);
  EXPECT_TRUE(*fence_->Take(ServingFence::Change::kStop, 2, 1, 1));
}

TEST_F(FenceTest, ADataSetSwitchIsDurable) {
  Check(1);
  EXPECT_TRUE(*fence_->Take(ServingFence::Change::kSwitch, 1, 1, 2));
  EXPECT_EQ(fence_->data_set(), 2u);
  Open();
  EXPECT_EQ(fence_->data_set(), 2u);
  Grant(1, clock_.Uptime());  // for data set 1
  EXPECT_FALSE(fence_->HasLease());
}

}  // namespace
}  // namespace hsm
