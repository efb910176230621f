#include "worker/worker_actor.h"

#include "comm/actor/actor_test_kit.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr WorkerId kMe{7};
const char* const kBoss = kCoordinatorPeer;

// Records the calls; the test decides when and how it answers.
class ManualEngine : public Engine {
 public:
  explicit ManualEngine(EngineListener& listener) : listener(listener) {}
  void Prepare(Epoch epoch, const Assign&) override { prepared.push_back(epoch); }
  void Connect(Epoch epoch, const Commit&) override { connected.push_back(epoch); }
  void RunStep(const StepPlan& plan) override { steps.push_back(plan.step); }
  void Abort(Epoch epoch, const std::string&) override { aborted.push_back(epoch); }
  uint64_t progress() const override { return 42; }

  EngineListener& listener;
  std::vector<Epoch> prepared, connected, aborted;
  std::vector<StepId> steps;
};

class ForwardingMailbox : public Mailbox {
 public:
  bool Post(std::function<void(ActorContext&)> work) override { return to->Post(std::move(work)); }
  Mailbox* to = nullptr;
};

class WorkerActorTest : public ::testing::Test {
 protected:
  WorkerActorTest() {
    mailbox_.to = &kit_;
    kit_.Start();
  }

  static WorkerActor::Options MakeOptions() {
    WorkerActor::Options options;
    options.id = kMe;
    options.hello.name = "w";
    return options;
  }
  std::unique_ptr<Engine> MakeEngine(EngineListener& listener) {
    auto engine = std::make_unique<ManualEngine>(listener);
    engine_ = engine.get();
    return engine;
  }
  void Deliver(uint64_t epoch, Message message) {
    kit_.Deliver(kBoss, Epoch{epoch}, kMe, std::move(message));
  }
  void DeliverStep(uint64_t epoch, uint64_t step) {
    Step message;
    message.plan.epoch = Epoch{epoch};
    message.plan.step = StepId{step};
    Deliver(epoch, message);
  }
  void FinishStep(uint64_t epoch, uint64_t step) {
    StepResult result;
    result.epoch = Epoch{epoch};
    result.step = StepId{step};
    engine_->listener.OnStepDone(Epoch{epoch}, result);
  }
  // To serving in `epoch`.
  void MakeReady(uint64_t epoch) {
    Deliver(epoch, Assign{});
    engine_->listener.OnPrepared(Epoch{epoch}, {.fabric_address = "here"});
    Deliver(epoch, Commit{});
    engine_->listener.OnConnected(Epoch{epoch});
    kit_.DiscardSent();
    kit_.Ignore<Heartbeat>();
  }
  template <typename T>
  T Expect() {
    return kit_.ExpectSent<T>(kBoss);
  }

  ManualEngine* engine_ = nullptr;
  ForwardingMailbox mailbox_;
  WorkerActor actor_{MakeOptions(), mailbox_, [this](EngineListener& l) { return MakeEngine(l); }};
  ActorTestKit kit_{actor_};
};

TEST_F(WorkerActorTest, SaysHelloUntilAssigned) {
  EXPECT_EQ(Expect<Hello>().name, "w");
  kit_.Advance(absl::Milliseconds(199));
  kit_.ExpectNothingSent();
  kit_.Advance(absl::Milliseconds(1));
  Expect<Hello>();
  Deliver(1, Assign{});
  EXPECT_EQ(engine_->prepared, (std::vector<Epoch>{{1}}));
  kit_.Advance(absl::Milliseconds(100));
  const Heartbeat beat = Expect<Heartbeat>();
  EXPECT_EQ(beat.progress, 42u);
  EXPECT_EQ(kit_.last_envelope().epoch, Epoch{1});
  EXPECT_EQ(kit_.last_envelope().worker, kMe);
  kit_.ExpectNothingSent();
}

TEST_F(WorkerActorTest, PreparesAndConnectsOnceAndAnswersAgain) {
  kit_.Ignore<Heartbeat>();
  kit_.Ignore<Hello>();
  Deliver(1, Assign{});
  Deliver(1, Assign{});
  kit_.ExpectNothingSent();
  engine_->listener.OnPrepared(Epoch{1}, {.fabric_address = "here"});
  EXPECT_EQ(Expect<Prepared>().fabric_address, "here");
  Deliver(1, Assign{});
  EXPECT_EQ(Expect<Prepared>().fabric_address, "here");
  kit_.Advance(absl::Milliseconds(600));
  Expect<Prepared>();  // repeats it until the Commit
  Deliver(1, Commit{});
  Deliver(1, Commit{});
  engine_->listener.OnConnected(Epoch{1});
  Expect<Ready>();
  Deliver(1, Commit{});
  Expect<Ready>();
  kit_.Advance(absl::Seconds(2));
  kit_.ExpectNothingSent();
  EXPECT_EQ(engine_->prepared.size(), 1u);
  EXPECT_EQ(engine_->connected.size(), 1u);
}

TEST_F(WorkerActorTest, DropsWhatIsMeantForOthersOrIsOld) {
  kit_.Deliver(kBoss, Epoch{1}, WorkerId{8}, Assign{});
  kit_.Deliver("impostor", Epoch{1}, kMe, Assign{});
  EXPECT_TRUE(engine_->prepared.empty());
  MakeReady(5);
  Deliver(4, Assign{});
  Deliver(4, Abort{});
  Deliver(4, Shutdown{});
  DeliverStep(4, 1);
  EXPECT_TRUE(engine_->steps.empty());
  EXPECT_TRUE(engine_->aborted.empty());
  EXPECT_FALSE(kit_.stopped().has_value());
}

TEST_F(WorkerActorTest, RunsStepsInOrderAndOnce) {
  MakeReady(1);
  DeliverStep(1, 2);
  EXPECT_TRUE(engine_->steps.empty());
  DeliverStep(1, 1);
  DeliverStep(1, 1);
  DeliverStep(1, 2);
  EXPECT_EQ(engine_->steps, (std::vector<StepId>{{1}, {2}}));
  FinishStep(1, 1);
  EXPECT_EQ(Expect<StepDone>().result.step, StepId{1});
  DeliverStep(1, 1);  // the answer was lost
  EXPECT_EQ(Expect<StepDone>().result.step, StepId{1});
  DeliverStep(1, 2);  // still running
  kit_.ExpectNothingSent();
  EXPECT_EQ(engine_->steps.size(), 2u);
}

TEST_F(WorkerActorTest, RepeatsLogitsWithTheirStep) {
  MakeReady(1);
  DeliverStep(1, 1);
  Logits logits;
  logits.step = StepId{1};
  logits.values = {1, 2};
  engine_->listener.OnLogits(Epoch{1}, logits);
  FinishStep(1, 1);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Expect<Logits>().values.size(), 2u);
    Expect<StepDone>();
    DeliverStep(1, 1);
  }
  kit_.DiscardSent();
  DeliverStep(1, 2);
  FinishStep(1, 2);
  DeliverStep(1, 3);
  kit_.DiscardSent();
  DeliverStep(1, 1);  // step 3 means that the coordinator has the answer of step 1
  kit_.ExpectNothingSent();
  DeliverStep(1, 2);
  Expect<StepDone>();
}

TEST_F(WorkerActorTest, HeldStepsAreBounded) {
  MakeReady(1);
  for (uint64_t step = 2; step < 100; ++step) DeliverStep(1, step);
  DeliverStep(1, 1);
  for (uint64_t step = 1; step < 20; ++step) {
    if (engine_->steps.size() >= step) FinishStep(1, step);
  }
  EXPECT_EQ(engine_->steps.size(), static_cast<size_t>(kStepsQueuedMax));
}

TEST_F(WorkerActorTest, AFaultIsRepeatedUntilAbort) {
  MakeReady(1);
  kit_.Ignore<Hello>();
  DeliverStep(1, 1);
  engine_->listener.OnFault(Epoch{1}, StepId{1}, absl::InternalError("broken"));
  EXPECT_EQ(Expect<Fault>().message, "broken");
  kit_.Advance(absl::Milliseconds(600));
  EXPECT_EQ(Expect<Fault>().step, StepId{1});
  Deliver(1, Abort{"over"});
  EXPECT_EQ(engine_->aborted, (std::vector<Epoch>{{1}}));
  kit_.Advance(absl::Seconds(2));
  kit_.ExpectNothingSent();
  Deliver(1, Assign{});  // late; says that the epoch is gone
  Expect<Fault>();
  EXPECT_EQ(engine_->prepared.size(), 1u);
  Deliver(2, Assign{});
  EXPECT_EQ(engine_->prepared.size(), 2u);
}

TEST_F(WorkerActorTest, ANewEpochReplacesTheOld) {
  MakeReady(1);
  DeliverStep(1, 1);
  Deliver(2, Assign{});
  FinishStep(1, 1);  // of the epoch that is over
  kit_.ExpectNothingSent();
  engine_->listener.OnPrepared(Epoch{1}, {});
  kit_.ExpectNothingSent();
  engine_->listener.OnPrepared(Epoch{2}, {});
  Expect<Prepared>();
  EXPECT_EQ(kit_.last_envelope().epoch, Epoch{2});
}

TEST_F(WorkerActorTest, WithoutTheCoordinatorTheLeaseRunsOut) {
  MakeReady(1);
  kit_.LosePeer(kBoss);
  kit_.Advance(absl::Milliseconds(300));
  Expect<Hello>();
  kit_.DiscardSent();
  Deliver(1, Commit{});  // it is back
  Expect<Ready>();
  kit_.Advance(absl::Seconds(10));
  kit_.ExpectNothingSent();
  EXPECT_TRUE(engine_->aborted.empty());
  kit_.LosePeer(kBoss);
  kit_.Advance(absl::Seconds(6));
  EXPECT_EQ(engine_->aborted, (std::vector<Epoch>{{1}}));
  kit_.DiscardSent();
  Deliver(1, Commit{});
  EXPECT_EQ(Expect<Fault>().code, static_cast<int>(absl::StatusCode::kUnavailable));
}

TEST_F(WorkerActorTest, ShutdownFinishesWhatIsQueued) {
  MakeReady(1);
  DeliverStep(1, 1);
  Deliver(1, Shutdown{"done"});
  EXPECT_FALSE(kit_.stopped().has_value());
  DeliverStep(1, 2);
  EXPECT_EQ(engine_->steps.size(), 1u);
  FinishStep(1, 1);
  Expect<StepDone>();
  EXPECT_EQ(Expect<Goodbye>().reason, "done");
  ASSERT_TRUE(kit_.stopped().has_value());
  EXPECT_TRUE(kit_.stopped()->ok());
}

// The other ranks may have left first: then the coordinator ends the epoch, and what was queued
// will never finish.
TEST_F(WorkerActorTest, AnAbortEndsAShutdownThatWaits) {
  MakeReady(1);
  DeliverStep(1, 1);
  Deliver(1, Shutdown{"done"});
  Deliver(1, Abort{"a worker left"});
  EXPECT_EQ(Expect<Goodbye>().reason, "done");
  ASSERT_TRUE(kit_.stopped().has_value());
  EXPECT_TRUE(kit_.stopped()->ok());
}

TEST_F(WorkerActorTest, AHungEngineDoesNotHoldUpShutdownForEver) {
  MakeReady(1);
  DeliverStep(1, 1);
  Deliver(1, Shutdown{"done"});
  kit_.Advance(absl::Seconds(11));
  ASSERT_TRUE(kit_.stopped().has_value());
  EXPECT_EQ(kit_.stopped()->code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace conclave
