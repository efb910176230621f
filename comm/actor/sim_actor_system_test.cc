#include "comm/actor/sim_actor_system.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/codec/random_envelope.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr uint64_t kTick = 1;

// What outlives the actors: the log of what each saw.
struct World {
  std::map<PeerId, std::vector<uint64_t>> progress;  // of Heartbeats, by receiver
  std::map<PeerId, std::vector<PeerId>> lost;
  std::map<PeerId, int> starts;
  std::map<PeerId, int> ticks;
};

// Sends a numbered Heartbeat to each peer every millisecond.
class Chatter : public Actor {
 public:
  Chatter(World& world, PeerId self, std::vector<PeerId> peers)
      : world_(world), self_(std::move(self)), peers_(std::move(peers)) {}

  void OnStart(ActorContext& ctx) override {
    ++world_.starts[self_];
    id_ = WorkerId{ctx.rng().Next()};
    ctx.SetTimer(kTick, absl::Milliseconds(1));
  }
  void OnMessage(ActorContext& ctx, const PeerId&, const Envelope& envelope) override {
    if (const auto* beat = std::get_if<Heartbeat>(&envelope.message)) {
      world_.progress[self_].push_back(beat->progress);
    }
    if (const auto* stop = std::get_if<Shutdown>(&envelope.message)) {
      ctx.Stop(absl::AbortedError(stop->reason));
    }
  }
  void OnTimer(ActorContext& ctx, uint64_t) override {
    ++world_.ticks[self_];
    ++beats_;
    for (const PeerId& peer : peers_) {
      ctx.Send(peer, Epoch{1}, id_, Heartbeat{.progress = beats_});
    }
    ctx.SetTimer(kTick, absl::Milliseconds(1));
  }
  void OnPeerLost(ActorContext&, const PeerId& peer) override {
    world_.lost[self_].push_back(peer);
  }

 private:
  World& world_;
  const PeerId self_;
  const std::vector<PeerId> peers_;
  WorkerId id_;
  uint64_t beats_ = 0;
};

// Two chatters.
struct Pair {
  explicit Pair(SimActorSystem::Options options) : system(options) {
    system.AddActor("a", [this] { return Make("a", "b"); });
    system.AddActor("b", [this] { return Make("b", "a"); });
  }
  std::unique_ptr<Actor> Make(PeerId self, PeerId other) {
    return std::make_unique<Chatter>(world, self, std::vector<PeerId>{other});
  }
  World world;
  SimActorSystem system;
};

bool StrictlyGrows(const std::vector<uint64_t>& values) {
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] <= values[i - 1]) return false;
  }
  return true;
}

TEST(SimActorSystemTest, MessagesArriveOnceAndInOrder) {
  Pair pair({.seed = 1});
  pair.system.RunFor(absl::Seconds(1));
  EXPECT_EQ(pair.system.Now(), SimEpoch() + absl::Seconds(1));
  EXPECT_EQ(pair.world.ticks["a"], 1000);
  ASSERT_GE(pair.world.progress["b"].size(), 998u);
  for (size_t i = 0; i < pair.world.progress["b"].size(); ++i) {
    ASSERT_EQ(pair.world.progress["b"][i], i + 1);
  }
}

TEST(SimActorSystemTest, ABadNetworkLosesButNeverRepeatsOrOvertakes) {
  NetworkOptions network;
  network.drop_per_mille = 50;
  network.duplicate_per_mille = 100;
  network.reorder_per_mille = 100;
  Pair pair({.seed = 2, .network = network});
  pair.system.RunFor(absl::Seconds(2));
  const auto& seen = pair.world.progress["b"];
  EXPECT_TRUE(StrictlyGrows(seen));
  EXPECT_LT(seen.size(), 1980u);
  EXPECT_GT(seen.size(), 1000u);
  EXPECT_GT(pair.system.stats().repeated, 50u);
}

TEST(SimActorSystemTest, CrashAndRestart) {
  Pair pair({.seed = 3});
  pair.system.RunFor(absl::Milliseconds(100));
  pair.system.Crash("b");
  EXPECT_FALSE(pair.system.Alive("b"));
  EXPECT_EQ(pair.system.actor("b"), nullptr);
  EXPECT_FALSE(pair.system.Post("b", [](ActorContext&) { FAIL(); }));
  const size_t seen = pair.world.progress["b"].size();
  pair.system.RunFor(absl::Milliseconds(100));
  EXPECT_EQ(pair.world.progress["b"].size(), seen);
  EXPECT_EQ(pair.world.ticks["b"], 100);
  EXPECT_EQ(pair.world.lost["a"], std::vector<PeerId>{"b"});
  EXPECT_GT(pair.system.stats().to_nobody, 90u);

  pair.system.Restart("b");
  pair.system.RunFor(absl::Milliseconds(100));
  EXPECT_EQ(pair.world.starts["b"], 2);
  EXPECT_GT(pair.world.progress["b"].size(), seen + 90);
  // The new life numbers its messages from its own start, and is heard.
  EXPECT_GE(pair.world.progress["a"].back(), 98u);
  EXPECT_LE(pair.world.progress["a"].back(), 100u);
}

TEST(SimActorSystemTest, PausedActorsCatchUp) {
  Pair pair({.seed = 4, .backlog_max = 60});
  pair.system.RunFor(absl::Milliseconds(10));
  pair.system.Pause("b");
  const size_t seen = pair.world.progress["b"].size();
  const int ticks = pair.world.ticks["b"];
  bool posted = false;
  EXPECT_TRUE(pair.system.Post("b", [&](ActorContext&) { posted = true; }));
  pair.system.RunFor(absl::Milliseconds(100));
  EXPECT_TRUE(pair.system.Paused("b"));
  EXPECT_EQ(pair.world.progress["b"].size(), seen);
  EXPECT_EQ(pair.world.ticks["b"], ticks);
  EXPECT_FALSE(posted);
  pair.system.Resume("b");
  pair.system.RunFor(absl::Microseconds(1));
  EXPECT_TRUE(posted);
  EXPECT_EQ(pair.world.ticks["b"], ticks + 1) << "one timer was due";
  EXPECT_EQ(pair.world.progress["b"].size(), seen + 60) << "the backlog is bounded";
  EXPECT_GT(pair.system.stats().backlog_dropped, 30u);
  EXPECT_TRUE(StrictlyGrows(pair.world.progress["b"]));
  pair.system.RunFor(absl::Milliseconds(100));
  EXPECT_GT(pair.world.progress["b"].size(), seen + 60 + 90);
}

TEST(SimActorSystemTest, PartitionsHeal) {
  Pair pair({.seed = 5});
  pair.system.RunFor(absl::Milliseconds(100));
  pair.system.network().Partition({"a"}, {"b"});
  const size_t seen = pair.world.progress["b"].size();
  pair.system.RunFor(absl::Milliseconds(100));
  EXPECT_EQ(pair.world.progress["b"].size(), seen);
  EXPECT_TRUE(pair.world.lost["a"].empty()) << "a silent network tells nobody";
  pair.system.network().UnblockAll();
  pair.system.RunFor(absl::Milliseconds(100));
  EXPECT_GT(pair.world.progress["b"].size(), seen + 90);
}

TEST(SimActorSystemTest, StopEndsALifeWithItsReason) {
  Pair pair({.seed = 6});
  pair.system.RunFor(absl::Milliseconds(10));
  EXPECT_EQ(pair.system.StopReason("b"), std::nullopt);
  pair.system.Post("a", [](ActorContext& ctx) {
    ctx.Send("b", Epoch{1}, WorkerId{0}, Shutdown{"over"});
    ctx.Send("nobody", Epoch{1}, WorkerId{0}, Shutdown{"over"});
  });
  ASSERT_TRUE(pair.system.RunUntilTrue([&] { return !pair.system.Alive("b"); }, absl::Seconds(1)));
  EXPECT_EQ(pair.system.StopReason("b"), absl::AbortedError("over"));
  EXPECT_FALSE(pair.system.RunUntilTrue([] { return false; }, absl::Milliseconds(5)));
}

TEST(SimActorSystemTest, PostsAndWorldEventsComeInOrder) {
  Pair pair({.seed = 7});
  std::vector<std::string> order;
  const absl::Time start = pair.system.Now();
  pair.system.After(absl::Microseconds(20), [&] { order.push_back("world"); });
  pair.system.Post("a", [&](ActorContext& ctx) { order.push_back("post"); });
  pair.system.mailbox("a").Post([&](ActorContext& ctx) { order.push_back("mail"); });
  pair.system.PostAfter("a", absl::Microseconds(10), [&](ActorContext& ctx) {
    order.push_back(absl::StrCat("later ", absl::ToInt64Microseconds(ctx.Now() - start)));
  });
  pair.system.RunFor(absl::Microseconds(30));
  EXPECT_EQ(order, (std::vector<std::string>{"post", "mail", "later 10", "world"}));
  EXPECT_EQ(pair.world.starts["a"], 1);
}

TEST(SimActorSystemTest, PostsAreBoundedAndDieWithTheirLife) {
  Pair pair({.seed = 8, .posts_max = 3});
  pair.system.RunFor(absl::Microseconds(1));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(pair.system.Post("a", [](ActorContext&) { FAIL(); }));
  EXPECT_FALSE(pair.system.Post("a", [](ActorContext&) { FAIL(); }));
  pair.system.Restart("a");
  pair.system.RunFor(absl::Microseconds(1));
  EXPECT_TRUE(pair.system.Post("a", [](ActorContext&) {}));
}

TEST(SimActorSystemTest, AnObserverSeesAndMayKill) {
  Pair pair({.seed = 9});
  std::vector<std::string> lines;
  int to_b = 0;
  pair.system.SetObserver([&](const SimEvent& event) {
    if (event.kind != SimEvent::Kind::kMessage) return;
    if (lines.empty()) lines.push_back(event.ToString());
    if (event.to == "b" && ++to_b == 5) pair.system.Crash("b");
  });
  pair.system.RunFor(absl::Milliseconds(50));
  EXPECT_FALSE(pair.system.Alive("b"));
  EXPECT_EQ(pair.world.progress["b"].size(), 4u) << "the fifth killed it";
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("Heartbeat epoch-1"), std::string::npos) << lines[0];
}

uint64_t HashOfRun(uint64_t seed, bool through_codec) {
  NetworkOptions network;
  network.drop_per_mille = 20;
  network.duplicate_per_mille = 20;
  network.reorder_per_mille = 20;
  Pair pair({.seed = seed, .network = network, .through_codec = through_codec});
  pair.system.After(absl::Milliseconds(50), [&] { pair.system.Restart("b"); });
  pair.system.After(absl::Milliseconds(80), [&] { pair.system.Pause("a"); });
  pair.system.After(absl::Milliseconds(90), [&] { pair.system.Resume("a"); });
  pair.system.RunFor(absl::Milliseconds(200));
  return pair.system.log_hash();
}

TEST(SimActorSystemTest, OneSeedOneHistory) {
  for (const bool through_codec : {true, false}) {
    EXPECT_EQ(HashOfRun(1, through_codec), HashOfRun(1, through_codec));
    EXPECT_NE(HashOfRun(1, through_codec), HashOfRun(2, through_codec));
  }
}

TEST(SimActorSystemTest, EveryKindOfMessagePassesTheCodec) {
  struct Sink : Actor {
    explicit Sink(std::vector<Message>& out) : received(out) {}
    void OnStart(ActorContext&) override {}
    void OnMessage(ActorContext&, const PeerId&, const Envelope& envelope) override {
      received.push_back(envelope.message);
    }
    void OnTimer(ActorContext&, uint64_t) override {}
    std::vector<Message>& received;
  };
  std::vector<Message> received;
  std::vector<Message> sent;
  SimActorSystem system({.seed = 10});
  system.AddActor("a", [&] { return std::make_unique<Sink>(received); });
  system.AddActor("b", [&] { return std::make_unique<Sink>(received); });
  Rng rng(1);
  for (int i = 0; i < 200; ++i) sent.push_back(RandomEnvelope(rng).message);
  system.Post("a", [&](ActorContext& ctx) {
    for (const Message& message : sent) ctx.Send("b", Epoch{1}, WorkerId{1}, message);
  });
  system.RunFor(absl::Seconds(1));
  EXPECT_EQ(received, sent);
}

TEST(SimActorSystemTest, IsFast) {
  World world;
  SimActorSystem system({.seed = 11});
  std::vector<PeerId> names;
  for (int i = 0; i < 8; ++i) names.push_back(absl::StrCat("worker-", i));
  for (const PeerId& name : names) {
    system.AddActor(
        name, [&world, name, names] { return std::make_unique<Chatter>(world, name, names); });
  }
  const absl::Time start = absl::Now();
  system.RunFor(absl::Seconds(3));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const double rate = static_cast<double>(system.stats().events) / seconds;
  RecordProperty("events_per_second", absl::StrCat(static_cast<int64_t>(rate)));
  std::cout << "events per second: " << static_cast<int64_t>(rate) << "\n";
  EXPECT_GT(system.stats().events, 200000u);
}

}  // namespace
}  // namespace conclave
