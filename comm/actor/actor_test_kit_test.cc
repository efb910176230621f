#include "comm/actor/actor_test_kit.h"

#include <string>
#include <vector>

#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr uint64_t kBeat = 1;
constexpr uint64_t kOnce = 2;

// Says Hello, beats every 100 ms, answers Abort with Goodbye, stops on Shutdown.
class SampleActor : public Actor {
 public:
  void OnStart(ActorContext& ctx) override {
    ctx.Send("coordinator", Epoch{0}, WorkerId{7}, Hello{.name = "worker-1"});
    ctx.SetTimer(kBeat, absl::Milliseconds(100));
    ctx.SetTimer(kOnce, absl::Milliseconds(250));
  }
  void OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) override {
    sequences.push_back(envelope.sequence);
    if (std::holds_alternative<Abort>(envelope.message)) {
      ctx.Send(from, envelope.epoch, WorkerId{7}, Goodbye{"aborted"});
      ctx.CancelTimer(kBeat);
    }
    if (std::holds_alternative<Shutdown>(envelope.message)) ctx.Stop(absl::OkStatus());
  }
  void OnTimer(ActorContext& ctx, uint64_t tag) override {
    fired.push_back({tag, ctx.Now()});
    if (tag != kBeat) return;
    ctx.Send("coordinator", Epoch{0}, WorkerId{7}, Heartbeat{.progress = ++beats});
    ctx.SetTimer(kBeat, absl::Milliseconds(100));
  }
  void OnPeerLost(ActorContext&, const PeerId& peer) override { lost = peer; }

  std::vector<uint64_t> sequences;
  std::vector<std::pair<uint64_t, absl::Time>> fired;
  uint64_t beats = 0;
  PeerId lost;
};

TEST(ActorTestKitTest, DeliverExpectAdvance) {
  SampleActor actor;
  ActorTestKit kit(actor);
  kit.Start();
  EXPECT_EQ(kit.ExpectSent<Hello>("coordinator").name, "worker-1");
  EXPECT_EQ(kit.last_envelope().worker, WorkerId{7});
  EXPECT_EQ(kit.last_envelope().sequence, 1u);
  kit.ExpectNothingSent();

  kit.Deliver("coordinator", Epoch{4}, WorkerId{7}, Abort{"enough"});
  EXPECT_EQ(kit.ExpectSent<Goodbye>("coordinator").reason, "aborted");
  EXPECT_EQ(kit.last_envelope().epoch, Epoch{4});
  kit.Deliver("coordinator", Epoch{4}, WorkerId{7}, Ready{});
  EXPECT_EQ(actor.sequences, (std::vector<uint64_t>{1, 2}));
  EXPECT_FALSE(kit.TimerPending(kBeat));
  kit.LosePeer("coordinator");
  EXPECT_EQ(actor.lost, "coordinator");
}

TEST(ActorTestKitTest, TimersFireAtTheirInstants) {
  SampleActor actor;
  ActorTestKit kit(actor);
  const absl::Time start = kit.now();
  kit.Start();
  kit.Advance(absl::Milliseconds(310));
  const std::vector<std::pair<uint64_t, absl::Time>> expected = {
      {kBeat, start + absl::Milliseconds(100)},
      {kBeat, start + absl::Milliseconds(200)},
      {kOnce, start + absl::Milliseconds(250)},
      {kBeat, start + absl::Milliseconds(300)}};
  EXPECT_EQ(actor.fired, expected);
  EXPECT_EQ(kit.now(), start + absl::Milliseconds(310));
}

TEST(ActorTestKitTest, NoiseCanBeIgnored) {
  SampleActor actor;
  ActorTestKit kit(actor);
  kit.Ignore<Heartbeat>();
  kit.Start();
  kit.Advance(absl::Seconds(1));
  kit.ExpectSent<Hello>("coordinator");
  kit.ExpectNothingSent();
  EXPECT_EQ(kit.SentCount<Heartbeat>(), 10u);
}

TEST(ActorTestKitTest, AStoppedActorGetsNothingMore) {
  SampleActor actor;
  ActorTestKit kit(actor);
  kit.Start();
  EXPECT_FALSE(kit.stopped().has_value());
  kit.Deliver("coordinator", Epoch{0}, WorkerId{7}, Shutdown{});
  ASSERT_TRUE(kit.stopped().has_value());
  EXPECT_TRUE(kit.stopped()->ok());
  kit.Advance(absl::Seconds(1));
  EXPECT_TRUE(actor.fired.empty());
  EXPECT_FALSE(kit.Post([](ActorContext&) { FAIL(); }));
}

TEST(ActorTestKitTest, PostsRunInOrderAfterTheCallback) {
  SampleActor actor;
  ActorTestKit kit(actor);
  std::vector<int> order;
  EXPECT_TRUE(kit.Post([&](ActorContext&) {
    kit.Post([&](ActorContext&) { order.push_back(2); });
    order.push_back(1);
  }));
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(ActorTestKitTest, WrongExpectationsFail) {
  static ActorTestKit* kit;  // EXPECT_NONFATAL_FAILURE cannot see locals
  SampleActor actor;
  ActorTestKit local(actor);
  kit = &local;
  local.Start();
  EXPECT_NONFATAL_FAILURE(kit->ExpectSent<Goodbye>("coordinator"), "a Hello was sent");
  EXPECT_NONFATAL_FAILURE(kit->ExpectSent<Goodbye>("nobody"), "nothing to it waits");
  local.Advance(absl::Milliseconds(100));
  EXPECT_NONFATAL_FAILURE(kit->ExpectNothingSent(), "Heartbeat to coordinator");
}

}  // namespace
}  // namespace conclave
