// Two actors in two threads, each with its real system and a CURVE channel between them: what two
// processes do.
#include <memory>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "comm/actor/actor_system.h"
#include "comm/channel/curve_keys.h"
#include "comm/channel/zmq_channel.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr uint64_t kGiveUp = 1;
constexpr uint64_t kHello = 2;
constexpr uint64_t kBeats = 1000;
constexpr absl::Duration kPatience = absl::Seconds(30);

// Echoes Heartbeats; ends when its worker says Goodbye and is gone.
class Echo : public Actor {
 public:
  void OnStart(ActorContext& ctx) override { ctx.SetTimer(kGiveUp, kPatience); }
  void OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) override {
    if (std::holds_alternative<Goodbye>(envelope.message)) said_goodbye = true;
    if (std::holds_alternative<Hello>(envelope.message)) ++hellos;
    ctx.Send(from, envelope.epoch, envelope.worker, envelope.message);
  }
  void OnPeerLost(ActorContext& ctx, const PeerId& peer) override {
    lost.push_back(peer);
    ctx.Stop(absl::OkStatus());
  }
  void OnTimer(ActorContext& ctx, uint64_t) override { ctx.Stop(absl::DeadlineExceededError("")); }

  bool said_goodbye = false;
  int hellos = 0;
  std::vector<PeerId> lost;
};

// Repeats Hello until it is answered, sends kBeats Heartbeats, counts the echoes, leaves.
class Beater : public Actor {
 public:
  void OnStart(ActorContext& ctx) override {
    ctx.SetTimer(kGiveUp, kPatience);
    ctx.SetTimer(kHello, absl::ZeroDuration());
  }
  void OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) override {
    EXPECT_EQ(from, kCoordinatorPeer);
    if (std::holds_alternative<Hello>(envelope.message) && echoes == 0 && !sent_) {
      sent_ = true;
      ctx.CancelTimer(kHello);
      for (uint64_t i = 1; i <= kBeats; ++i) {
        ctx.Send(from, Epoch{1}, WorkerId{5}, Heartbeat{.progress = i});
      }
    }
    if (const auto* beat = std::get_if<Heartbeat>(&envelope.message)) {
      EXPECT_EQ(beat->progress, ++echoes);
      if (echoes < kBeats) return;
      ctx.Send(from, Epoch{1}, WorkerId{5}, Goodbye{"done"});
      ctx.Stop(absl::OkStatus());
    }
  }
  void OnTimer(ActorContext& ctx, uint64_t tag) override {
    if (tag == kGiveUp) return ctx.Stop(absl::DeadlineExceededError("no echoes"));
    ctx.Send(kCoordinatorPeer, Epoch{0}, WorkerId{5}, Hello{.name = "worker-1"});
    ctx.SetTimer(kHello, absl::Milliseconds(10));
  }

  uint64_t echoes = 0;

 private:
  bool sent_ = false;
};

TEST(ZmqActorsTest, TalkAndPart) {
  const CurveKeys server_keys = MakeCurveKeys();
  const CurveKeys client_keys = MakeCurveKeys();
  ZmqServerOptions server_options;
  server_options.keys = server_keys;
  server_options.allowed_keys = {client_keys.public_key};
  auto server = ListenZmq(server_options);
  ASSERT_TRUE(server.ok()) << server.status();
  auto client = ZmqClientChannel::Connect(
      {(*server)->endpoint(), server_keys.public_key, client_keys, "worker-1"});
  ASSERT_TRUE(client.ok()) << client.status();

  Echo echo;
  ActorSystem echo_system(*std::move(server), {});
  std::thread echo_thread([&] { EXPECT_TRUE(echo_system.Run(echo).ok()); });
  Beater beater;
  {
    ActorSystem beater_system(*std::move(client), {});
    EXPECT_TRUE(beater_system.Run(beater).ok());
  }
  echo_thread.join();
  EXPECT_EQ(beater.echoes, kBeats);
  EXPECT_GE(echo.hellos, 1);
  EXPECT_TRUE(echo.said_goodbye);
  EXPECT_EQ(echo.lost, std::vector<PeerId>{"worker-1"});
  EXPECT_EQ(echo_system.stats().frames_bad, 0u);
}

}  // namespace
}  // namespace conclave
