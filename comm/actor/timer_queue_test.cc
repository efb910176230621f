#include "comm/actor/timer_queue.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(100);

TEST(TimerQueueTest, FiresInOrderOfTimeThenOfSetting) {
  TimerQueue timers;
  timers.Set(1, kStart + absl::Seconds(2));
  timers.Set(2, kStart + absl::Seconds(1));
  timers.Set(3, kStart + absl::Seconds(1));
  EXPECT_EQ(timers.Next(), kStart + absl::Seconds(1));
  EXPECT_EQ(timers.PopDue(kStart), std::nullopt);
  EXPECT_EQ(timers.PopDue(kStart + absl::Seconds(5)), 2u);
  EXPECT_EQ(timers.PopDue(kStart + absl::Seconds(5)), 3u);
  EXPECT_EQ(timers.PopDue(kStart + absl::Seconds(5)), 1u);
  EXPECT_EQ(timers.PopDue(kStart + absl::Seconds(5)), std::nullopt);
  EXPECT_EQ(timers.Next(), absl::InfiniteFuture());
}

TEST(TimerQueueTest, ATagHasOneTimer) {
  TimerQueue timers;
  timers.Set(7, kStart + absl::Seconds(1));
  timers.Set(7, kStart + absl::Seconds(3));
  EXPECT_EQ(timers.size(), 1u);
  EXPECT_TRUE(timers.Pending(7));
  EXPECT_EQ(timers.PopDue(kStart + absl::Seconds(2)), std::nullopt);
  timers.Cancel(7);
  timers.Cancel(8);
  EXPECT_FALSE(timers.Pending(7));
  EXPECT_EQ(timers.PopDue(kStart + absl::Seconds(9)), std::nullopt);
}

}  // namespace
}  // namespace conclave
