#include "coordinator/membership/member_table.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

using Outcome = MemberTable::HelloOutcome;

const absl::Time kStart = absl::FromUnixSeconds(1000);

absl::Time At(int milliseconds) { return kStart + absl::Milliseconds(milliseconds); }

Hello HelloOf(const std::string& name) {
  Hello hello;
  hello.name = name;
  hello.node = "node-a";
  hello.process = 4711;
  return hello;
}

class MemberTableTest : public ::testing::Test {
 protected:
  // Heartbeats of `name` every 100 ms over [from, to].
  void Beat(const std::string& name, int from, int to, uint64_t progress, int queued) {
    for (int t = from; t <= to; t += 100) {
      const Heartbeat beat{.progress = progress, .steps_queued = queued};
      ASSERT_TRUE(table_.OnHeartbeat(name, WorkerId{1}, Epoch{1}, beat, At(t)));
      ASSERT_TRUE(table_.Expire(At(t)).empty()) << t;
    }
  }
  MemberTable table_{MemberOptions{}};
};

TEST_F(MemberTableTest, JoinsOnce) {
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{1}, At(0)), Outcome::kJoined);
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{1}, At(200)), Outcome::kKnown);
  EXPECT_EQ(table_.members().size(), 1u);
  EXPECT_EQ(table_.Find("w")->Describe(), "worker w (pid 4711 on node-a)");
}

TEST_F(MemberTableTest, SilenceIsSuspectThenLost) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  EXPECT_FALSE(table_.IsSuspect(*table_.Find("w"), At(299)));
  EXPECT_TRUE(table_.IsSuspect(*table_.Find("w"), At(300)));
  EXPECT_TRUE(table_.Expire(At(999)).empty());
  const auto losses = table_.Expire(At(1000));
  ASSERT_EQ(losses.size(), 1u);
  EXPECT_EQ(losses[0].reason, "silent for 1.0s");
  EXPECT_EQ(losses[0].member.id, WorkerId{1});
  EXPECT_EQ(table_.Find("w"), nullptr);
}

TEST_F(MemberTableTest, ALostWorkerIsUnknownUntilItsHello) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.Expire(At(1000));
  EXPECT_FALSE(table_.OnHeartbeat("w", WorkerId{1}, Epoch{1}, {}, At(1500)));
  EXPECT_FALSE(table_.OnHeard("w", WorkerId{1}, At(1500)));
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{1}, At(1600)), Outcome::kJoined);
}

TEST_F(MemberTableTest, ANewIdUnderTheNameIsARestart) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{2}, At(100)), Outcome::kRestarted);
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{1}, At(110)), Outcome::kRefused);
  EXPECT_FALSE(table_.OnHeartbeat("w", WorkerId{1}, Epoch{1}, {}, At(120)));
  EXPECT_EQ(table_.Find("w")->id, WorkerId{2});
}

TEST_F(MemberTableTest, ALateHelloOfADeadProcessDoesNotLockTheLivingOut) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.Expire(At(1000));
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{2}, At(1100)), Outcome::kJoined);
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{1}, At(1110)), Outcome::kRestarted);  // late
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{2}, At(1300)), Outcome::kRefused);
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{2}, At(1500)), Outcome::kRestarted);
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{1}, At(1510)), Outcome::kRefused);
}

TEST_F(MemberTableTest, GoodbyeIsForGood) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.Remove("w", /*for_good=*/true);
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{1}, At(10)), Outcome::kRefused);
  EXPECT_EQ(table_.OnHello(HelloOf("w"), WorkerId{2}, At(10)), Outcome::kJoined);
}

TEST_F(MemberTableTest, AHungEngineIsLostThoughItSpeaks) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.SetState("w", WorkerState::kReady, At(0));
  Beat("w", 100, 20000, 5, 0);  // idle: nothing is expected
  Beat("w", 20100, 29900, 5, 2);
  ASSERT_TRUE(table_.OnHeartbeat("w", WorkerId{1}, Epoch{1}, {.progress = 5, .steps_queued = 2},
                                 At(30000)));
  const auto losses = table_.Expire(At(30001));
  ASSERT_EQ(losses.size(), 1u);
  EXPECT_EQ(losses[0].reason, "no progress for 10.0s with 2 steps queued");
}

TEST_F(MemberTableTest, ALongStepThatAdvancesIsFine) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.SetState("w", WorkerState::kReady, At(0));
  for (int i = 0; i < 10; ++i) Beat("w", 100 + i * 5000, 5000 + i * 5000, i, 1);
}

TEST_F(MemberTableTest, ALoadThatStandsStillIsLost) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.SetState("w", WorkerState::kLoading, At(0));
  Beat("w", 100, 50000, 0, 0);
  Beat("w", 50100, 110000, 1, 0);
  ASSERT_TRUE(table_.OnHeartbeat("w", WorkerId{1}, Epoch{1}, {.progress = 1}, At(110100)));
  EXPECT_EQ(table_.Expire(At(110100)).size(), 1u);
}

TEST_F(MemberTableTest, APreparedWorkerMayWaitForTheOthers) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.SetState("w", WorkerState::kPrepared, At(0));
  Beat("w", 100, 200000, 3, 0);
}

TEST_F(MemberTableTest, AClosedConnectionShortensTheWait) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.OnPeerLost("w");
  table_.OnPeerLost("nobody");
  EXPECT_TRUE(table_.IsSuspect(*table_.Find("w"), At(1)));
  EXPECT_TRUE(table_.Expire(At(299)).empty());
  table_.OnHeard("w", WorkerId{1}, At(299));  // it came back
  EXPECT_TRUE(table_.Expire(At(700)).empty());
  table_.OnPeerLost("w");
  EXPECT_EQ(table_.Expire(At(700)).size(), 1u);
}

TEST_F(MemberTableTest, TimeTheCoordinatorSleptDoesNotCount) {
  table_.OnHello(HelloOf("w"), WorkerId{1}, At(0));
  table_.Forgive(absl::Seconds(5));
  EXPECT_TRUE(table_.Expire(At(5900)).empty());
  EXPECT_EQ(table_.Expire(At(6000)).size(), 1u);
}

TEST_F(MemberTableTest, TheTableIsBounded) {
  MemberOptions options;
  options.members_max = 1;
  MemberTable table(options);
  EXPECT_EQ(table.OnHello(HelloOf("a"), WorkerId{1}, At(0)), Outcome::kJoined);
  EXPECT_EQ(table.OnHello(HelloOf("b"), WorkerId{2}, At(0)), Outcome::kRefused);
  EXPECT_EQ(table.OnHello(HelloOf("a"), WorkerId{3}, At(0)), Outcome::kRestarted);
}

}  // namespace
}  // namespace conclave
