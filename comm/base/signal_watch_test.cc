#include "comm/base/signal_watch.h"

#include <signal.h>
#include <unistd.h>

#include "absl/synchronization/blocking_counter.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(SignalWatchTest, CountsInterruptsButNotRepeatedRequestsToEnd) {
  absl::BlockingCounter seen(2);
  int last = 0;
  {
    SignalWatch watch([&](int count) {
      last = count;
      if (count == 1) {
        kill(getpid(), SIGTERM);
        kill(getpid(), SIGINT);
      }
      seen.DecrementCount();
    });
    kill(getpid(), SIGTERM);
    seen.Wait();
  }
  EXPECT_EQ(last, 2);
}

}  // namespace
}  // namespace conclave
