// Polling ends by each of its four ends; calls that do not return are left behind.
#include "comm/fabric/nccl/nccl_wait.h"

#include <memory>
#include <thread>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

SteadyTime In(absl::Duration duration) {
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(duration);
}

TEST(NcclWaitTest, EndsWhenThePollIsTrue) {
  const NcclCancel nobody;
  for (const absl::Duration spin : {absl::ZeroDuration(), absl::Microseconds(100)}) {
    int polls = 0;
    const auto result =
        NcclPoll({In(absl::Seconds(20)), spin, &nobody}, [&] { return ++polls == 40; });
    EXPECT_EQ(result.end, NcclWaitEnd::kDone);
    EXPECT_EQ(polls, 40);
  }
}

TEST(NcclWaitTest, PollsOnceAlsoPastTheDeadline) {
  const NcclCancel nobody;
  int polls = 0;
  const auto poll = [&]() -> absl::StatusOr<bool> { return ++polls > 1; };
  EXPECT_EQ(NcclPoll({In(-absl::Seconds(1)), {}, &nobody}, poll).end, NcclWaitEnd::kDeadline);
  EXPECT_EQ(polls, 1);
  EXPECT_EQ(NcclPoll({In(-absl::Seconds(1)), {}, &nobody}, poll).end, NcclWaitEnd::kDone);
}

TEST(NcclWaitTest, AnErrorOfThePollIsHandedOn) {
  const NcclCancel nobody;
  const auto result = NcclPoll({In(absl::Seconds(20)), {}, &nobody}, []() -> absl::StatusOr<bool> {
    return absl::UnavailableError("gone");
  });
  EXPECT_EQ(result.end, NcclWaitEnd::kFailed);
  EXPECT_EQ(result.error, absl::UnavailableError("gone"));
}

TEST(NcclWaitTest, ACancelFromAnotherThreadEndsIt) {
  NcclCancel cancel;
  absl::Notification polled;
  std::thread other([&] {
    polled.WaitForNotification();
    cancel.Cancel(absl::AbortedError("first"));
    cancel.Cancel(absl::AbortedError("second"));
  });
  const auto result = NcclPoll({In(absl::Seconds(20)), {}, &cancel}, [&] {
    if (!polled.HasBeenNotified()) polled.Notify();
    return false;
  });
  other.join();
  EXPECT_EQ(result.end, NcclWaitEnd::kCancelled);
  EXPECT_EQ(result.error, absl::AbortedError("first"));
}

TEST(NcclWaitTest, ACancelWithoutAReasonIsOneStill) {
  NcclCancel cancel;
  cancel.Cancel(absl::OkStatus());
  EXPECT_EQ(cancel.reason().code(), absl::StatusCode::kCancelled);
}

TEST(NcclWaitTest, ACallThatReturnsIsWaitedFor) {
  int calls = 0;
  EXPECT_TRUE(CallWithin(absl::Seconds(20), [&] { ++calls; }));
  EXPECT_EQ(calls, 1);
}

TEST(NcclWaitTest, ACallThatHangsIsLeftBehindWithWhatItHolds) {
  struct Held {
    absl::Notification* freed;
    ~Held() { freed->Notify(); }
  };
  absl::Notification release, freed;
  auto held = std::make_shared<Held>(&freed);
  EXPECT_FALSE(
      CallWithin(absl::Milliseconds(20), [&release, held] { release.WaitForNotification(); }));
  held.reset();
  EXPECT_FALSE(freed.HasBeenNotified());
  release.Notify();
  freed.WaitForNotification();
  EXPECT_TRUE(freed.HasBeenNotified());
}

}  // namespace
}  // namespace conclave
