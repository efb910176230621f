// The life of communicators on the fake, with each fault that NCCL can show.
#include "comm/fabric/nccl/nccl_communicator.h"

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "comm/fabric/nccl/fake_nccl.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

WireOp Op(absl::Duration timeout = absl::Seconds(20), const char* name = "test_op") {
  return {{name, 3, timeout},
          std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout)};
}

// A rank: its GPU, its buffer of floats and its communicator.
struct Rank {
  std::unique_ptr<NcclDevice> device;
  NcclCancel cancel;
  NcclMemory memory;
  std::unique_ptr<NcclCommunicator> communicator;
  absl::Status init;

  float* floats() const { return reinterpret_cast<float*>(memory.device); }
};

class NcclCommunicatorTest : public testing::Test {
 protected:
  ~NcclCommunicatorTest() override {
    EXPECT_THAT(nccl_->Misuse(), IsEmpty());
    ranks_.clear();
    EXPECT_EQ(nccl_->OpenCommunicators(), open_at_end_);
  }

  // `count` ranks join one communicator, each on a thread.
  void Init(int count, absl::Duration timeout = absl::Seconds(20)) {
    const auto api = nccl_->Api();
    NcclUniqueId id;
    ASSERT_EQ(api->get_unique_id(&id), NcclResult::kSuccess);
    for (int i = 0; i < count; ++i) {
      ranks_.push_back(std::make_unique<Rank>());
      ranks_[i]->device = nccl_->CreateDevice(i);
      ranks_[i]->memory = ranks_[i]->device->Allocate(64, NcclDevice::Sides::kDevice).value();
    }
    EachRank([&, timeout](int i, Rank& rank) {
      NcclCommunicatorOptions options;
      options.api = api;
      options.device = rank.device.get();
      options.cancel = &rank.cancel;
      for (int r = 0; r < count; ++r) options.ranks.push_back(first_rank_ + r);
      options.index = i;
      options.spin = absl::ZeroDuration();
      options.abort_timeout = abort_timeout_;
      options.shrink_on_fault = shrink_on_fault_;
      auto made = NcclCommunicator::Init(options, id, Op(timeout, "connect"));
      rank.init = made.status();
      if (made.ok()) rank.communicator = *std::move(made);
    });
  }

  void EachRank(const std::function<void(int, Rank&)>& body) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      threads.emplace_back([&, i] { body(static_cast<int>(i), *ranks_[i]); });
    }
    for (std::thread& thread : threads) thread.join();
  }

  absl::Status Sum(Rank& rank, NcclCommunicator& communicator, const WireOp& op = Op()) {
    NcclWork work;
    work.enqueue = [&](NcclComm comm) {
      return communicator.options().api->all_reduce(rank.floats(), rank.floats(), 4,
                                                    NcclType::kFloat32, NcclReduction::kSum, comm,
                                                    rank.device->stream());
    };
    return communicator.Run(work, op);
  }
  absl::Status Sum(Rank& rank, const WireOp& op = Op()) {
    return Sum(rank, *rank.communicator, op);
  }

  std::shared_ptr<FakeNccl> nccl_ = FakeNccl::Create();
  std::vector<std::unique_ptr<Rank>> ranks_;
  int first_rank_ = 0;
  int open_at_end_ = 0;
  bool shrink_on_fault_ = false;
  absl::Duration abort_timeout_ = absl::Seconds(20);
};

TEST_F(NcclCommunicatorTest, InitOperateFinalize) {
  Init(3);
  EachRank([&](int i, Rank& rank) {
    ASSERT_EQ(rank.init, absl::OkStatus());
    EXPECT_EQ(rank.communicator->state(), NcclState::kReady);
    for (int k = 0; k < 4; ++k) rank.floats()[k] = i + k;
    ASSERT_EQ(Sum(rank), absl::OkStatus());
    EXPECT_EQ(rank.floats()[2], 0 + 1 + 2 + 3 * 2);
    ASSERT_EQ(rank.communicator->Finalize(Op()), absl::OkStatus());
    EXPECT_EQ(rank.communicator->state(), NcclState::kClosed);
    EXPECT_EQ(Sum(rank).code(), absl::StatusCode::kFailedPrecondition);
  });
  EXPECT_EQ(nccl_->CallCount("ncclCommDestroy"), 3);
  EXPECT_EQ(nccl_->CallCount("ncclCommAbort"), 0);
}

// What follows an operation runs after it, though a thread of NCCL launches the operation later.
TEST_F(NcclCommunicatorTest, WhatFollowsComesAfterALateLaunch) {
  for (int gpu = 0; gpu < 2; ++gpu) {
    FakeNcclFaults slow;
    slow.polls_in_progress = 7;
    nccl_->SetFaults(gpu, slow);
  }
  Init(2);
  EachRank([&](int, Rank& rank) {
    for (int k = 0; k < 4; ++k) rank.floats()[k] = 1;
    float* copy = rank.floats() + 8;
    NcclWork work;
    work.enqueue = [&](NcclComm comm) {
      return rank.communicator->options().api->all_reduce(rank.floats(), rank.floats(), 4,
                                                          NcclType::kFloat32, NcclReduction::kSum,
                                                          comm, rank.device->stream());
    };
    work.then = [&] { return rank.device->Copy(copy, rank.floats(), 16); };
    ASSERT_EQ(rank.communicator->Run(work, Op()), absl::OkStatus());
    EXPECT_EQ(copy[3], 2);
  });
}

TEST_F(NcclCommunicatorTest, InitThatNeverCompletesMeetsItsDeadline) {
  FakeNcclFaults faults;
  faults.init_never_completes = true;
  for (int gpu = 0; gpu < 2; ++gpu) nccl_->SetFaults(gpu, faults);
  first_rank_ = 4;
  Init(2, absl::Milliseconds(50));
  EXPECT_EQ(ranks_[1]->init.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(ranks_[1]->init.message()),
              HasSubstr("fabric rank 5: connect of layer 3: no message from rank 4 within 50ms"));
  EXPECT_EQ(nccl_->CallCount("ncclCommAbort"), 2);
}

TEST_F(NcclCommunicatorTest, InitThatIsRefusedCarriesTheTextOfNccl) {
  FakeNcclFaults faults;
  faults.init_result = NcclResult::kSystemError;
  nccl_->SetFaults(0, faults);
  Init(1);
  EXPECT_EQ(ranks_[0]->init.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(ranks_[0]->init.message()),
              AllOf(HasSubstr("ncclCommInitRankConfig failed: "),
                    HasSubstr("NCCL's last error: the fake was told to refuse")));
  EXPECT_EQ(nccl_->CallCount("ncclCommAbort"), 0);  // there was no handle
}

TEST_F(NcclCommunicatorTest, AnErrorAfterSomeCallsAborts) {
  FakeNcclFaults faults;
  faults.launches_until_error = 2;
  nccl_->SetFaults(1, faults);
  first_rank_ = 10;
  Init(2);
  EachRank([&](int i, Rank& rank) {
    ASSERT_EQ(Sum(rank), absl::OkStatus());
    ASSERT_EQ(Sum(rank), absl::OkStatus());
    const absl::Status status = Sum(rank, Op(i == 1 ? absl::Seconds(20) : absl::Milliseconds(100)));
    EXPECT_EQ(rank.communicator->state(), NcclState::kClosed);
    if (i == 0) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
      return;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(
        std::string(status.message()),
        AllOf(HasSubstr("fabric rank 11: test_op of layer 3: "), HasSubstr("remote process exited"),
              HasSubstr("NCCL's last error: the fake was told to fail this launch"),
              HasSubstr("waited for rank 10")));
  });
}

TEST_F(NcclCommunicatorTest, ALostPeerMeetsTheDeadlineAndNothingHoldsTheBuffer) {
  FakeNcclFaults faults;
  faults.lost = true;
  nccl_->SetFaults(2, faults);
  Init(3);
  EachRank([&](int i, Rank& rank) {
    const absl::Status status = Sum(rank, Op(absl::Milliseconds(60)));
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    if (i < 2) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("2"));
      EXPECT_TRUE(rank.device->Done().value());
    }
  });
}

TEST_F(NcclCommunicatorTest, ACancelFromAnotherThreadEndsAWait) {
  Init(2);
  absl::Notification running;
  std::thread other([&] {
    running.WaitForNotification();
    ranks_[0]->cancel.Cancel(absl::AbortedError("epoch-4 is abandoned"));
  });
  NcclWork work;
  Rank& rank = *ranks_[0];
  work.enqueue = [&](NcclComm comm) {
    running.Notify();
    return rank.communicator->options().api->recv(rank.floats(), 16, NcclType::kUint8, 1, comm,
                                                  rank.device->stream());
  };
  const absl::Status status = rank.communicator->Run(work, Op());
  other.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("rank 0: test_op of layer 3: cancelled: epoch-4 is abandoned"));
  EXPECT_EQ(rank.communicator->state(), NcclState::kClosed);
}

TEST_F(NcclCommunicatorTest, AnAbortThatHangsSaysThatTheProcessMustGo) {
  FakeNcclFaults faults;
  faults.lost = true;
  faults.abort_hangs = true;
  nccl_->SetFaults(0, faults);
  abort_timeout_ = absl::Milliseconds(50);
  Init(1);
  const absl::Status status = Sum(*ranks_[0], Op(absl::Milliseconds(20)));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("ncclCommAbort did not return within 50ms"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("start the worker again"));
  EXPECT_EQ(ranks_[0]->communicator->state(), NcclState::kStuck);
  nccl_->ReleaseHangs(1);
}

TEST_F(NcclCommunicatorTest, ADestroyThatHangsIsStuckToo) {
  FakeNcclFaults faults;
  faults.destroy_hangs = true;
  nccl_->SetFaults(0, faults);
  abort_timeout_ = absl::Milliseconds(50);
  Init(1);
  const absl::Status status = ranks_[0]->communicator->Finalize(Op());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("ncclCommDestroy did not return"));
  EXPECT_EQ(ranks_[0]->communicator->state(), NcclState::kStuck);
  nccl_->ReleaseHangs(1);
}

TEST_F(NcclCommunicatorTest, FinalizeThatNeverCompletesAborts) {
  FakeNcclFaults faults;
  faults.finalize_never_completes = true;
  nccl_->SetFaults(0, faults);
  Init(1);
  const absl::Status status = ranks_[0]->communicator->Finalize(Op(absl::Milliseconds(30)));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ranks_[0]->communicator->state(), NcclState::kClosed);
  EXPECT_EQ(nccl_->CallCount("ncclCommAbort"), 1);
}

TEST_F(NcclCommunicatorTest, AFailingDeviceIsAnError) {
  Init(1);
  FakeNcclFaults faults;
  faults.device_fails = true;
  nccl_->SetFaults(0, faults);
  const absl::Status status = Sum(*ranks_[0]);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the fake GPU failed"));
  EXPECT_EQ(ranks_[0]->communicator->state(), NcclState::kClosed);
}

TEST_F(NcclCommunicatorTest, TheSurvivorsShrinkAndGoOn) {
  FakeNcclFaults lost;
  lost.lost = true;
  nccl_->SetFaults(1, lost);
  shrink_on_fault_ = true;
  Init(4);
  ranks_[1]->communicator.reset();  // its process was killed
  EachRank([&](int i, Rank& rank) {
    if (i == 1) return;
    ASSERT_EQ(Sum(rank, Op(absl::Milliseconds(50))).code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(rank.communicator->state(), NcclState::kFaulted);
    auto child = rank.communicator->Shrink({1}, Op());
    ASSERT_TRUE(child.ok()) << child.status();
    EXPECT_EQ(rank.communicator->state(), NcclState::kClosed);
    EXPECT_EQ((*child)->options().index, i == 0 ? 0 : i - 1);
    EXPECT_EQ((*child)->options().rank(), i);
    for (int k = 0; k < 4; ++k) rank.floats()[k] = i;
    ASSERT_EQ(Sum(rank, **child), absl::OkStatus());
    EXPECT_EQ(rank.floats()[3], 0 + 2 + 3);
    EXPECT_EQ((*child)->Finalize(Op()), absl::OkStatus());
  });
}

TEST_F(NcclCommunicatorTest, AShrinkThatOneSurvivorMissesMeetsTheDeadline) {
  Init(3);
  EachRank([&](int i, Rank& rank) {
    if (i == 2) return;
    if (i == 0) {
      const auto child = rank.communicator->Shrink({2}, Op(absl::Milliseconds(50)));
      EXPECT_EQ(child.status().code(), absl::StatusCode::kDeadlineExceeded);
      EXPECT_THAT(std::string(child.status().message()), HasSubstr("rank 1"));
    }
  });
  EXPECT_EQ(ranks_[0]->communicator->state(), NcclState::kClosed);
  open_at_end_ = 1;  // the child that was never whole has no handle that could be closed
}

TEST_F(NcclCommunicatorTest, ShrinkFailsOrHangs) {
  Init(3);
  FakeNcclFaults faults;
  faults.shrink_fails = true;
  nccl_->SetFaults(0, faults);
  faults.shrink_fails = false;
  faults.shrink_hangs = true;
  nccl_->SetFaults(1, faults);
  const auto failed = ranks_[0]->communicator->Shrink({2}, Op());
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(failed.status().message()),
      HasSubstr("ncclCommShrink failed: remote process exited or there was a network error; "
                "NCCL's last error: the fake was told not to shrink"));
  const auto hung = ranks_[1]->communicator->Shrink({2}, Op(absl::Milliseconds(50)));
  EXPECT_EQ(hung.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ranks_[1]->communicator->state(), NcclState::kClosed);
  nccl_->ReleaseHangs(1);
}

TEST_F(NcclCommunicatorTest, ShrinkRefusesListsThatAreNotOfOthers) {
  Init(3);
  for (const std::vector<int>& lost :
       std::vector<std::vector<int>>{{}, {0}, {2, 1}, {1, 1}, {3}, {-1}}) {
    EXPECT_EQ(ranks_[0]->communicator->Shrink(lost, Op()).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(ranks_[0]->communicator->state(), NcclState::kReady);
}

TEST_F(NcclCommunicatorTest, AWrongCallIsAnErrorOfTheOperation) {
  Init(1);
  NcclWork work;
  float host[4] = {};
  work.enqueue = [&](NcclComm comm) {
    return ranks_[0]->communicator->options().api->send(host, 16, NcclType::kUint8, 0, comm,
                                                        ranks_[0]->device->stream());
  };
  const absl::Status status = ranks_[0]->communicator->Run(work, Op());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a buffer that is not in device memory"));
  EXPECT_EQ(nccl_->Misuse().size(), 1u);
  nccl_ = FakeNccl::Create();  // whose Misuse the fixture checks
}

}  // namespace
}  // namespace conclave
