#include "tests/hosts/proxy_pipe.h"

#include <algorithm>
#include <string>

#include "comm/base/rng.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

const absl::Time kStart = absl::UnixEpoch();
absl::Time At(double milliseconds) { return kStart + absl::Milliseconds(milliseconds); }

TEST(ProxyPipeTest, BytesPassAtOnceWithoutARule) {
  ProxyPipe pipe(100);
  EXPECT_EQ(pipe.NextRelease(), absl::InfiniteFuture());
  pipe.Put("hello", {}, kStart);
  EXPECT_EQ(pipe.Room(), 95u);
  EXPECT_EQ(pipe.Ready(kStart), "hello");
  pipe.Took(2);
  EXPECT_EQ(pipe.Ready(kStart), "llo");
  pipe.Took(3);
  EXPECT_TRUE(pipe.empty());
  EXPECT_EQ(pipe.Room(), 100u);
}

TEST(ProxyPipeTest, BytesWaitForTheirDelay) {
  ProxyPipe pipe(100);
  LinkRule rule;
  rule.delay = absl::Milliseconds(30);
  pipe.Put("a", rule, At(0));
  pipe.Put("b", rule, At(10));
  EXPECT_EQ(pipe.NextRelease(), At(30));
  EXPECT_EQ(pipe.Ready(At(29)), "");
  EXPECT_EQ(pipe.Ready(At(30)), "a");
  pipe.Took(1);
  EXPECT_EQ(pipe.Ready(At(39)), "");
  EXPECT_EQ(pipe.Ready(At(40)), "b");
}

TEST(ProxyPipeTest, NoneOvertakesWhenTheDelayShrinks) {
  ProxyPipe pipe(100);
  LinkRule slow;
  slow.delay = absl::Milliseconds(50);
  pipe.Put("first", slow, At(0));
  pipe.Put("second", {}, At(1));
  EXPECT_EQ(pipe.Ready(At(1)), "");
  EXPECT_EQ(pipe.Ready(At(50)), "first");
  pipe.Took(5);
  EXPECT_EQ(pipe.Ready(At(50)), "second");
}

TEST(ProxyPipeTest, TheEndComesLastAndIsDelayedToo) {
  ProxyPipe pipe(100);
  LinkRule rule;
  rule.delay = absl::Milliseconds(5);
  pipe.Put("x", rule, At(0));
  pipe.PutEnd(rule, At(1));
  EXPECT_TRUE(pipe.ended());
  EXPECT_FALSE(pipe.EndReady(At(100)));  // a byte is before it
  pipe.Took(1);
  EXPECT_FALSE(pipe.EndReady(At(5)));
  EXPECT_EQ(pipe.NextRelease(), At(6));
  EXPECT_TRUE(pipe.EndReady(At(6)));
}

TEST(ProxyPipeTest, ABandwidthSpreadsBytesOverTime) {
  // Any chunks at any times: by time t at most rate * t bytes (and one piece of 10 ms) have left,
  // none is lost, and the last leaves when the link has sent them all.
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    ProxyPipe pipe(1 << 20);
    LinkRule rule;
    rule.bytes_per_second = 1000 + static_cast<int64_t>(rng.Below(1'000'000));
    std::string sent, received;
    absl::Time now = kStart;
    for (int i = 0; i < 40; ++i) {
      const std::string chunk(rng.Below(2000), static_cast<char>('a' + i % 26));
      sent += chunk;
      pipe.Put(chunk, rule, now);
      now += absl::Microseconds(rng.Below(3000));
      for (; !pipe.Ready(now).empty(); pipe.Took(pipe.Ready(now).size())) {
        received += std::string(pipe.Ready(now));
      }
      const double most = rule.bytes_per_second * absl::ToDoubleSeconds(now - kStart);
      EXPECT_LE(static_cast<double>(received.size()), most + 1);
    }
    absl::Time last = now;
    while (!pipe.empty()) {
      last = pipe.NextRelease();
      received += std::string(pipe.Ready(last));
      pipe.Took(pipe.Ready(last).size());
    }
    EXPECT_EQ(received, sent);
    EXPECT_GE(absl::ToDoubleSeconds(last - kStart) * rule.bytes_per_second,
              static_cast<double>(sent.size()) - 1);
  }
}

}  // namespace
}  // namespace conclave
