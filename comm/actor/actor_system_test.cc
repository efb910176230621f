#include "comm/actor/actor_system.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "comm/codec/codec.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

// The other end of a FakeChannel, for the test: thread-safe.
class Wire {
 public:
  void Arrive(ChannelEvent event) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(std::move(event));
  }
  void Wake() {
    absl::MutexLock lock(&mutex_);
    woken_ = true;
  }
  std::vector<ChannelEvent> Poll(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &Wire::Due), timeout);
    woken_ = false;
    ++polls_;
    return std::exchange(events_, {});
  }
  absl::Status Send(const std::string& peer, absl::string_view frame) {
    absl::MutexLock lock(&mutex_);
    if (peer == "gone") return absl::UnavailableError("gone is not connected");
    sent_.emplace_back(peer, std::string(frame));
    return absl::OkStatus();
  }
  std::vector<std::pair<std::string, std::string>> sent() {
    absl::MutexLock lock(&mutex_);
    return sent_;
  }
  int polls() {
    absl::MutexLock lock(&mutex_);
    return polls_;
  }

 private:
  bool Due() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return woken_ || !events_.empty(); }

  absl::Mutex mutex_;
  std::vector<ChannelEvent> events_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, std::string>> sent_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  int polls_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeChannel : public Channel {
 public:
  explicit FakeChannel(Wire& wire) : wire_(wire) {}
  absl::Status Send(const std::string& peer, absl::string_view frame) override {
    return wire_.Send(peer, frame);
  }
  std::vector<ChannelEvent> Poll(absl::Duration timeout) override { return wire_.Poll(timeout); }
  void Wake() override { wire_.Wake(); }
  std::string endpoint() const override { return ""; }

 private:
  Wire& wire_;
};

ChannelEvent Frame(std::string peer, WorkerId worker, uint64_t sequence, Message message) {
  return {ChannelEvent::Kind::kFrame, std::move(peer),
          Encode({Epoch{1}, worker, sequence, std::move(message)})};
}

// Calls the functions a test gives it.
struct ScriptedActor : Actor {
  void OnStart(ActorContext& ctx) override {
    if (start) start(ctx);
  }
  void OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) override {
    messages.push_back(from + " " + MessageName(envelope.message));
    if (message) message(ctx, envelope);
  }
  void OnTimer(ActorContext& ctx, uint64_t tag) override {
    timers.push_back(tag);
    if (timer) timer(ctx, tag);
  }
  void OnPeerLost(ActorContext&, const PeerId& peer) override { lost.push_back(peer); }

  std::function<void(ActorContext&)> start;
  std::function<void(ActorContext&, const Envelope&)> message;
  std::function<void(ActorContext&, uint64_t)> timer;
  std::vector<std::string> messages;
  std::vector<uint64_t> timers;
  std::vector<PeerId> lost;
};

class ActorSystemTest : public ::testing::Test {
 protected:
  Wire wire_;
  ScriptedActor actor_;
};

TEST_F(ActorSystemTest, TimersFireInOrderAndStopGivesTheReason) {
  actor_.start = [](ActorContext& ctx) {
    ctx.SetTimer(3, absl::Milliseconds(3));
    ctx.SetTimer(1, absl::Milliseconds(1));
    ctx.SetTimer(2, absl::Milliseconds(50));
    ctx.SetTimer(2, absl::Milliseconds(2));  // replaces
    ctx.SetTimer(9, absl::ZeroDuration());
    ctx.CancelTimer(9);
  };
  absl::Time started = absl::Now();
  actor_.timer = [](ActorContext& ctx, uint64_t tag) {
    if (tag == 3) ctx.Stop(absl::AbortedError("done"));
  };
  ActorSystem system(std::make_unique<FakeChannel>(wire_), {});
  EXPECT_EQ(system.Run(actor_), absl::AbortedError("done"));
  EXPECT_EQ(actor_.timers, (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_GE(absl::Now() - started, absl::Milliseconds(3));
}

TEST_F(ActorSystemTest, BadAndRepeatedFramesAreDropped) {
  wire_.Arrive(Frame("w", WorkerId{1}, 5, Ready{}));
  wire_.Arrive(Frame("w", WorkerId{1}, 5, Ready{}));
  wire_.Arrive(Frame("w", WorkerId{1}, 4, Heartbeat{}));
  wire_.Arrive({ChannelEvent::Kind::kFrame, "w", "garbage!"});
  wire_.Arrive({ChannelEvent::Kind::kFrame, "w", ""});
  wire_.Arrive({ChannelEvent::Kind::kPeerLost, "w", ""});
  wire_.Arrive(Frame("w", WorkerId{2}, 1, Hello{}));
  wire_.Arrive(Frame("w", WorkerId{2}, 2, Shutdown{}));
  wire_.Arrive(Frame("w", WorkerId{2}, 3, Ready{}));  // after the stop: not seen
  actor_.message = [](ActorContext& ctx, const Envelope& envelope) {
    if (std::holds_alternative<Shutdown>(envelope.message)) ctx.Stop(absl::OkStatus());
  };
  ActorSystem system(std::make_unique<FakeChannel>(wire_), {});
  EXPECT_TRUE(system.Run(actor_).ok());
  EXPECT_EQ(actor_.messages, (std::vector<std::string>{"w Ready", "w Hello", "w Shutdown"}));
  EXPECT_EQ(actor_.lost, std::vector<PeerId>{"w"});
  EXPECT_EQ(system.stats().frames_bad, 2u);
  EXPECT_EQ(system.stats().frames_repeated, 2u);
  EXPECT_EQ(system.stats().frames_received, 3u);
}

TEST_F(ActorSystemTest, SentFramesAreNumberedPerPeer) {
  actor_.start = [](ActorContext& ctx) {
    ctx.Send("a", Epoch{2}, WorkerId{1}, Ready{});
    ctx.Send("a", Epoch{2}, WorkerId{1}, Abort{"x"});
    ctx.Send("b", Epoch{2}, WorkerId{1}, Ready{});
    ctx.Send("gone", Epoch{2}, WorkerId{1}, Ready{});
    ctx.Stop(absl::OkStatus());
  };
  ActorSystem system(std::make_unique<FakeChannel>(wire_), {});
  EXPECT_TRUE(system.Run(actor_).ok());
  const auto sent = wire_.sent();
  ASSERT_EQ(sent.size(), 3u);
  std::vector<Envelope> envelopes;
  for (const auto& [peer, frame] : sent) {
    const auto envelope = Decode(frame);
    ASSERT_TRUE(envelope.ok()) << envelope.status();
    envelopes.push_back(*envelope);
  }
  EXPECT_EQ(envelopes[1].sequence, envelopes[0].sequence + 1);
  EXPECT_EQ(envelopes[2].sequence, envelopes[0].sequence);
  EXPECT_EQ(envelopes[1].epoch, Epoch{2});
  EXPECT_EQ(std::get<Abort>(envelopes[1].message).reason, "x");
  EXPECT_EQ(system.stats().frames_sent, 3u);
  EXPECT_EQ(system.stats().frames_unsent, 1u);

  // A later start of the same process numbers above all the old ones.
  ActorSystem restarted(std::make_unique<FakeChannel>(wire_), {});
  EXPECT_TRUE(restarted.Run(actor_).ok());
  EXPECT_GT(Decode(wire_.sent()[3].second)->sequence, envelopes[1].sequence);
}

TEST_F(ActorSystemTest, PostsOfManyThreadsRunInTheirOrder) {
  ActorSystem system(std::make_unique<FakeChannel>(wire_), {});
  constexpr int kThreads = 4;
  constexpr int kPosts = 5000;
  std::vector<std::vector<int>> seen(kThreads);
  int total = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kPosts; ++i) {
        const auto work = [&, t, i](ActorContext& ctx) {
          seen[t].push_back(i);
          if (++total == kThreads * kPosts) ctx.Stop(absl::OkStatus());
        };
        while (!system.Post(work)) std::this_thread::yield();
      }
    });
  }
  EXPECT_TRUE(system.Run(actor_).ok());
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<int>& posts : seen) {
    ASSERT_EQ(posts.size(), static_cast<size_t>(kPosts));
    for (int i = 0; i < kPosts; ++i) ASSERT_EQ(posts[i], i);
  }
}

TEST_F(ActorSystemTest, PostsAreBoundedAndRefusedAfterTheEnd) {
  ActorSystem system(std::make_unique<FakeChannel>(wire_), {.posts_max = 2});
  int ran = 0;
  EXPECT_TRUE(system.Post([&](ActorContext&) { ++ran; }));
  EXPECT_TRUE(system.Post([&](ActorContext& ctx) {
    ++ran;
    ctx.Stop(absl::OkStatus());
  }));
  EXPECT_FALSE(system.Post([&](ActorContext&) { FAIL(); }));
  EXPECT_TRUE(system.Run(actor_).ok());
  EXPECT_EQ(ran, 2);
  EXPECT_FALSE(system.Post([&](ActorContext&) { FAIL(); }));
}

TEST_F(ActorSystemTest, RequestStopWakesAnIdleActor) {
  ActorSystem system(std::make_unique<FakeChannel>(wire_), {});
  absl::Notification running;
  actor_.start = [&](ActorContext&) { running.Notify(); };
  std::thread stopper([&] {
    running.WaitForNotification();
    system.RequestStop(absl::CancelledError("SIGTERM"));
    system.RequestStop(absl::OkStatus());  // the first reason stands
  });
  EXPECT_EQ(system.Run(actor_), absl::CancelledError("SIGTERM"));
  stopper.join();
  EXPECT_LE(wire_.polls(), 3) << "an idle actor sleeps";
}

TEST_F(ActorSystemTest, ClosuresThatNeverRanAreDestroyed) {
  const auto token = std::make_shared<int>(1);
  {
    ActorSystem system(std::make_unique<FakeChannel>(wire_), {});
    EXPECT_TRUE(system.Post([](ActorContext& ctx) { ctx.Stop(absl::OkStatus()); }));
    EXPECT_TRUE(system.Post([token](ActorContext&) { FAIL(); }));
    EXPECT_TRUE(system.Run(actor_).ok());
    EXPECT_EQ(token.use_count(), 1);
  }
}

}  // namespace
}  // namespace conclave
