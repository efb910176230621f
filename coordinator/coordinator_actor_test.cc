#include "coordinator/coordinator_actor.h"

#include <memory>

#include "comm/actor/actor_test_kit.h"
#include "coordinator/coordinator_service.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

struct TestSink : public GenerationSink {
  void OnToken(const SampledToken& token) override { tokens.push_back(token.token); }
  void OnLogits(int32_t, int32_t, absl::Span<const float> values) override {
    logits += values.size();
  }
  void OnFinish(FinishReason r, const absl::Status& s) override {
    ++ends;
    reason = r;
    status = s;
  }
  std::vector<int32_t> tokens;
  size_t logits = 0;
  int ends = 0;
  FinishReason reason = FinishReason::kCancelled;
  absl::Status status;
};

CoordinatorOptions Options() {
  CoordinatorOptions options;
  options.shape.architecture = Architecture::kLlama;
  options.shape.layers = 4;
  options.shape.hidden = 16;
  options.shape.heads = 4;
  options.shape.kv_heads = 4;
  options.shape.head_dim = 4;
  options.shape.ffn = 16;
  options.shape.vocab = 50;
  options.shape.context_tokens = 128;
  options.shape.eos_token_ids = {0};
  options.model = "test";
  options.spec = ParallelSpec{.tp = 2};
  return options;
}

// A coordinator and the workers a (id 1) and b (id 2), played by the test.
class CoordinatorActorTest : public ::testing::Test {
 protected:
  explicit CoordinatorActorTest(CoordinatorOptions options = Options())
      : actor_(std::move(options)), kit_(actor_), service_(actor_, kit_) {
    kit_.Start();
  }

  void SayHello(const std::string& name, uint64_t id, uint64_t epoch = 0) {
    Hello hello;
    hello.name = name;
    hello.node = "node";
    hello.process = 100 + static_cast<int64_t>(id);
    kit_.Deliver(name, Epoch{epoch}, WorkerId{id}, hello);
  }
  void From(const std::string& name, uint64_t id, uint64_t epoch, Message message) {
    kit_.Deliver(name, Epoch{epoch}, WorkerId{id}, std::move(message));
  }
  void FromBoth(uint64_t epoch, const Message& message) {
    From("a", 1, epoch, message);
    From("b", 2, epoch, message);
  }
  Prepared MakePrepared() {
    Prepared prepared;
    prepared.kv_pages = 8;
    return prepared;
  }
  void MakeServing() {
    SayHello("a", 1);
    SayHello("b", 2);
    FromBoth(1, MakePrepared());
    FromBoth(1, Ready{});
    ASSERT_EQ(Status().state, ClusterState::kServing);
    kit_.DiscardSent();
  }
  // Both keep up their heartbeats for the time.
  void Live(absl::Duration duration, uint64_t epoch) {
    for (absl::Duration t; t < duration; t += absl::Milliseconds(100)) {
      FromBoth(epoch, Heartbeat{});
      kit_.Advance(absl::Milliseconds(100));
    }
  }
  // Both do `step`, sampling `token` at `position` of `request`.
  void DoStep(uint64_t epoch, uint64_t step, RequestId request, int position, int token) {
    StepDone done;
    done.result.epoch = Epoch{epoch};
    done.result.step = StepId{step};
    From("b", 2, epoch, done);
    done.result.tokens = {{request, position, token, 0}};
    From("a", 1, epoch, done);
  }
  std::pair<RequestId, std::shared_ptr<TestSink>> Submit(int prompt, int tokens_max) {
    GenerationRequest request;
    request.prompt.assign(prompt, 3);
    request.tokens_max = tokens_max;
    auto sink = std::make_shared<TestSink>();
    return {service_.Submit(request, sink), sink};
  }
  ClusterStatus Status() {
    ClusterStatus status;
    service_.GetStatus([&](const ClusterStatus& s) { status = s; });
    return status;
  }

  CoordinatorActor actor_;
  ActorTestKit kit_;
  CoordinatorService service_;
};

TEST_F(CoordinatorActorTest, FromHelloToServing) {
  EXPECT_THAT(Status().waiting_for, HasSubstr("0 of 2 workers are here; start 2 more"));
  SayHello("a", 1);
  kit_.ExpectNothingSent();
  SayHello("b", 2);
  const Assign assign = kit_.ExpectSent<Assign>("a");
  EXPECT_EQ(assign.rank, 0);
  EXPECT_EQ(assign.plan.epoch, Epoch{1});
  EXPECT_EQ(assign.plan.workers, (std::vector<WorkerId>{{1}, {2}}));
  EXPECT_EQ(kit_.ExpectSent<Assign>("b").rank, 1);
  EXPECT_EQ(kit_.last_envelope().worker, WorkerId{2});
  EXPECT_EQ(Status().state, ClusterState::kLoading);
  From("a", 1, 1, MakePrepared());
  EXPECT_EQ(Status().workers[0].state, WorkerState::kPrepared);
  kit_.ExpectNothingSent();
  From("b", 2, 1, MakePrepared());
  EXPECT_EQ(kit_.ExpectSent<Commit>("a").nodes.size(), 2u);
  kit_.ExpectSent<Commit>("b");
  FromBoth(1, Ready{});
  EXPECT_EQ(Status().state, ClusterState::kServing);
  EXPECT_EQ(Status().waiting_for, "");
  EXPECT_EQ(Status().plan.spec.tp, 2);
}

TEST_F(CoordinatorActorTest, RepeatsAssignAndCommitUntilAnswered) {
  SayHello("a", 1);
  SayHello("b", 2);
  kit_.DiscardSent();
  for (int i = 0; i < 6; ++i) {
    SayHello("a", 1);
    From("b", 2, 1, Heartbeat{});  // b has its Assign
    kit_.Advance(absl::Milliseconds(100));
  }
  kit_.ExpectSent<Assign>("a");
  kit_.ExpectNothingSent();
  FromBoth(1, MakePrepared());
  From("a", 1, 1, Ready{});
  kit_.DiscardSent();
  Live(absl::Milliseconds(300), 1);
  kit_.ExpectSent<Commit>("b");
  kit_.ExpectNothingSent();
}

TEST_F(CoordinatorActorTest, StreamsTokensOneStepAhead) {
  MakeServing();
  const auto [id, sink] = Submit(3, 3);
  const StepPlan first = kit_.ExpectSent<Step>("a").plan;
  EXPECT_EQ(first.batch[0].tokens.size(), 3u);
  EXPECT_TRUE(kit_.ExpectSent<Step>("a").plan.batch[0].from_previous_step);
  EXPECT_EQ(kit_.ExpectSent<Step>("b").plan, first);
  DoStep(1, 1, id, 3, 11);
  EXPECT_EQ(sink->tokens, (std::vector<int32_t>{11}));
  DoStep(1, 2, id, 4, 12);
  DoStep(1, 3, id, 5, 13);
  EXPECT_EQ(sink->tokens, (std::vector<int32_t>{11, 12, 13}));
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(sink->reason, FinishReason::kLength);
  const ClusterStatus status = Status();
  EXPECT_EQ(status.requests_finished, 1);
  EXPECT_EQ(status.generated_tokens, 3);
  EXPECT_EQ(status.steps, 3);
  EXPECT_EQ(status.workers[0].kv_pages_used, 0);
}

TEST_F(CoordinatorActorTest, EndOfTextStops) {
  MakeServing();
  const auto [id, sink] = Submit(3, 30);
  DoStep(1, 1, id, 3, 11);
  DoStep(1, 2, id, 4, 0);
  EXPECT_EQ(sink->reason, FinishReason::kStop);
  DoStep(1, 3, id, 5, 9);  // planned ahead; its token is dropped
  EXPECT_EQ(sink->tokens, (std::vector<int32_t>{11, 0}));
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(Status().workers[0].kv_pages_used, 0);
}

TEST_F(CoordinatorActorTest, RepeatsStepsThatAreNotAnswered) {
  MakeServing();
  const auto [id, sink] = Submit(3, 1);
  kit_.ExpectSent<Step>("a");
  kit_.ExpectSent<Step>("b");
  From("a", 1, 1, Heartbeat{.progress = 1, .last_step = StepId{0}, .steps_queued = 1});
  From("b", 2, 1, Heartbeat{});
  kit_.Advance(absl::Milliseconds(300));
  kit_.ExpectSent<Step>("b");
  kit_.ExpectNothingSent();
}

TEST_F(CoordinatorActorTest, RefusesAtOnceWhatCannotBeServed) {
  auto [early_id, early] = Submit(3, 3);
  EXPECT_EQ(early->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(early->status.message()), HasSubstr("start 2 more"));
  MakeServing();
  EXPECT_EQ(Submit(0, 3).second->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Submit(100, 29).second->status.code(), absl::StatusCode::kInvalidArgument);
  auto [long_id, too_long] = Submit(100, 28);  // 127 positions in 8 pages of 16
  EXPECT_EQ(too_long->ends, 0);
  kit_.Ignore<Step>();
}

TEST_F(CoordinatorActorTest, CancelEndsWithinAStep) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  DoStep(1, 1, id, 3, 11);
  kit_.DiscardSent();
  service_.Cancel(id);
  EXPECT_EQ(sink->reason, FinishReason::kCancelled);
  DoStep(1, 2, id, 4, 12);
  DoStep(1, 3, id, 5, 13);
  kit_.ExpectNothingSent();
  service_.Cancel(id);
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(sink->tokens.size(), 1u);
}

TEST_F(CoordinatorActorTest, ALostWorkerIsNamedWithinASecondAndAHalf) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  From("a", 1, 1, Heartbeat{});
  kit_.DiscardSent();
  const absl::Time start = kit_.now();
  while (sink->ends == 0 && kit_.now() - start < absl::Seconds(3)) {
    From("a", 1, 1, Heartbeat{});  // b is silent
    kit_.Advance(absl::Milliseconds(100));
  }
  EXPECT_LE(kit_.now() - start, absl::Milliseconds(1500));
  EXPECT_EQ(sink->reason, FinishReason::kError);
  EXPECT_EQ(sink->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(sink->status.message()),
              HasSubstr("worker b (pid 102 on node) was lost in epoch-1: silent for 1.0s"));
  kit_.Ignore<Step>();
  kit_.ExpectSent<Abort>("a");
  EXPECT_EQ(Status().state, ClusterState::kWaiting);
  EXPECT_THAT(Status().waiting_for, HasSubstr("1 of 2 workers are here"));

  // The stopped process goes on: it is told that its epoch is over and joins again.
  From("b", 2, 1, Heartbeat{});
  kit_.ExpectSent<Abort>("b");
  EXPECT_EQ(kit_.last_envelope().epoch, Epoch{1});
  SayHello("b", 2, 1);
  EXPECT_EQ(kit_.ExpectSent<Assign>("a").plan.epoch, Epoch{2});
  EXPECT_EQ(kit_.ExpectSent<Assign>("b").plan.epoch, Epoch{2});
  FromBoth(2, MakePrepared());
  FromBoth(2, Ready{});
  EXPECT_EQ(Status().state, ClusterState::kServing);
  From("a", 1, 1, Ready{});  // late, of the epoch before
}

TEST_F(CoordinatorActorTest, AClosedConnectionIsEnoughAfterAMoment) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  kit_.LosePeer("b");
  Live(absl::ZeroDuration(), 1);
  for (int i = 0; i < 4; ++i) {
    From("a", 1, 1, Heartbeat{});
    kit_.Advance(absl::Milliseconds(100));
  }
  EXPECT_THAT(std::string(sink->status.message()), HasSubstr("its connection closed"));
}

TEST_F(CoordinatorActorTest, ARestartedWorkerEndsTheEpoch) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  kit_.DiscardSent();
  SayHello("b", 9);
  EXPECT_EQ(sink->reason, FinishReason::kError);
  kit_.ExpectSent<Abort>("a");
  EXPECT_EQ(kit_.ExpectSent<Assign>("a").plan.workers, (std::vector<WorkerId>{{1}, {9}}));
}

TEST_F(CoordinatorActorTest, AFaultThatALostPeerMayHaveCausedWaitsForTheLoss) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  Fault fault;
  fault.step = StepId{1};
  fault.code = static_cast<int>(absl::StatusCode::kDeadlineExceeded);
  fault.message = "all_reduce: rank 1 did not answer";
  From("a", 1, 1, fault);
  EXPECT_EQ(sink->ends, 0);
  for (int i = 0; i < 11; ++i) {
    From("a", 1, 1, Heartbeat{});
    kit_.Advance(absl::Milliseconds(100));
  }
  EXPECT_THAT(std::string(sink->status.message()), HasSubstr("worker b"));
}

TEST_F(CoordinatorActorTest, AFaultOfItsOwnFailsTheEpochAtOnce) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  Fault fault;
  fault.step = StepId{1};
  fault.code = static_cast<int>(absl::StatusCode::kInternal);
  fault.message = "the device is on fire";
  From("a", 1, 1, fault);
  EXPECT_THAT(std::string(sink->status.message()),
              HasSubstr("worker a (pid 101 on node) failed in epoch-1 at step-1: the device"));
  EXPECT_EQ(Status().state, ClusterState::kLoading);  // the next epoch
  EXPECT_EQ(Status().plan.epoch, Epoch{2});
}

TEST_F(CoordinatorActorTest, LoadFailuresAreRetriedMoreAndMoreSlowly) {
  kit_.Ignore<Abort>();
  SayHello("a", 1);
  SayHello("b", 2);
  Fault fault;
  fault.code = static_cast<int>(absl::StatusCode::kNotFound);
  fault.message = "no tensor lm_head.weight in /models/x";
  From("a", 1, 1, fault);
  EXPECT_EQ(Status().state, ClusterState::kWaiting);
  EXPECT_THAT(Status().waiting_for, HasSubstr("no tensor lm_head.weight"));
  EXPECT_FALSE(Status().last_failure.ok());
  kit_.DiscardSent();
  const auto live = [&](int tenths) {
    for (int i = 0; i < tenths; ++i) {
      SayHello("a", 1);
      SayHello("b", 2);
      kit_.Advance(absl::Milliseconds(100));
    }
  };
  live(9);
  kit_.ExpectNothingSent();
  live(2);
  EXPECT_EQ(kit_.ExpectSent<Assign>("a").plan.epoch, Epoch{2});
  From("a", 1, 2, fault);
  kit_.DiscardSent();
  live(19);
  kit_.ExpectNothingSent();
}

TEST_F(CoordinatorActorTest, AWorkerThatBreaksTheProtocolEndsTheEpoch) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  DoStep(1, 1, id, 7, 11);  // a token of another position
  EXPECT_THAT(std::string(sink->status.message()),
              HasSubstr("cannot go on in epoch-1: step-1: no token came"));
}

TEST_F(CoordinatorActorTest, AWorkerWithoutRoomForKvIsAClearError) {
  SayHello("a", 1);
  SayHello("b", 2);
  Prepared prepared;
  prepared.kv_pages = -1;
  From("a", 1, 1, prepared);
  EXPECT_EQ(Status().state, ClusterState::kWaiting);
  EXPECT_THAT(Status().waiting_for, HasSubstr("its memory leaves -1 KV pages"));
}

TEST_F(CoordinatorActorTest, QueuedRequestsWaitForTheNextEpochWithABound) {
  CoordinatorOptions options = Options();
  MakeServing();
  std::vector<std::shared_ptr<TestSink>> sinks;
  for (int i = 0; i < 3; ++i) sinks.push_back(Submit(100, 28).second);  // one fills all pages
  From("a", 1, 1, Goodbye{"SIGTERM"});
  EXPECT_EQ(sinks[0]->ends, 1);
  EXPECT_THAT(std::string(sinks[0]->status.message()), HasSubstr("it left: SIGTERM"));
  EXPECT_EQ(sinks[1]->ends, 0);
  kit_.Advance(absl::Seconds(9));
  EXPECT_EQ(sinks[1]->ends, 0);
  kit_.Advance(absl::Seconds(2));
  EXPECT_EQ(sinks[1]->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(sinks[2]->ends, 1);
}

TEST_F(CoordinatorActorTest, LogitsWithoutGenerating) {
  MakeServing();
  GenerationRequest request;
  request.prompt.assign(3, 3);
  request.tokens_max = 0;
  request.want_logits = true;
  auto sink = std::make_shared<TestSink>();
  const RequestId id = service_.Submit(request, sink);
  EXPECT_FALSE(kit_.ExpectSent<Step>("a").plan.batch[0].sample);
  StepDone done;
  done.result.step = StepId{1};
  FromBoth(1, done);
  EXPECT_EQ(sink->ends, 0);
  Logits logits;
  logits.step = StepId{1};
  logits.request = id;
  logits.vocab = 50;
  logits.values.assign(150, 1);
  From("a", 1, 1, logits);
  EXPECT_EQ(sink->logits, 150u);
  EXPECT_EQ(sink->reason, FinishReason::kLength);
}

TEST_F(CoordinatorActorTest, DrainFinishesRequestsThenWorkersThenItself) {
  MakeServing();
  const auto [id, sink] = Submit(3, 1);
  kit_.DiscardSent();
  service_.Drain();
  EXPECT_EQ(Status().state, ClusterState::kDraining);
  EXPECT_THAT(std::string(Submit(3, 1).second->status.message()), HasSubstr("draining"));
  kit_.ExpectNothingSent();
  DoStep(1, 1, id, 3, 4);
  EXPECT_EQ(sink->reason, FinishReason::kLength);
  kit_.ExpectSent<Shutdown>("a");
  kit_.ExpectSent<Shutdown>("b");
  FromBoth(1, Goodbye{"drained"});
  ASSERT_TRUE(kit_.stopped().has_value());
  EXPECT_TRUE(kit_.stopped()->ok());
  auto [late_id, late] = Submit(1, 1);
  EXPECT_EQ(late->status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(CoordinatorActorTest, DrainHasDeadlines) {
  MakeServing();
  const auto [id, sink] = Submit(3, 100);
  service_.Drain();
  Live(absl::Seconds(29), 1);
  EXPECT_EQ(sink->ends, 0);
  Live(absl::Seconds(2), 1);
  EXPECT_EQ(sink->reason, FinishReason::kError);
  EXPECT_FALSE(kit_.stopped().has_value());
  Live(absl::Seconds(2), 1);  // nobody says goodbye
  EXPECT_TRUE(kit_.stopped().has_value());
}

TEST_F(CoordinatorActorTest, IdleTrafficIsNothing) {
  MakeServing();
  Live(absl::Seconds(5), 1);
  kit_.ExpectNothingSent();
}

TEST_F(CoordinatorActorTest, EpochsGrowBeyondThoseOfAnEarlierCoordinator) {
  SayHello("a", 1, 41);
  SayHello("b", 2, 7);
  EXPECT_EQ(kit_.ExpectSent<Assign>("a").plan.epoch, Epoch{42});
  EXPECT_EQ(kit_.ExpectSent<Assign>("b").plan.epoch, Epoch{42});
}

TEST_F(CoordinatorActorTest, AWorkerThatLostSightOfUsIsAnswered) {
  MakeServing();
  SayHello("a", 1, 1);
  kit_.ExpectSent<Commit>("a");
  kit_.ExpectNothingSent();
}

TEST_F(CoordinatorActorTest, NobodySpeaksForAnother) {
  Hello hello;
  hello.name = "a";
  kit_.Deliver("b", Epoch{0}, WorkerId{2}, hello);
  EXPECT_TRUE(Status().workers.empty());
}

class AutomaticCoordinatorTest : public CoordinatorActorTest {
 protected:
  AutomaticCoordinatorTest() : CoordinatorActorTest(MakeOptions()) {}
  static CoordinatorOptions MakeOptions() {
    CoordinatorOptions options = Options();
    options.spec.reset();
    options.workers_expected = 2;
    return options;
  }
};

TEST_F(AutomaticCoordinatorTest, GoesOnWithWhatIsLeft) {
  MakeServing();
  EXPECT_EQ(Status().plan.spec.tp, 2);
  From("b", 2, 1, Goodbye{"SIGTERM"});
  kit_.ExpectSent<Abort>("a");
  const Assign assign = kit_.ExpectSent<Assign>("a");
  EXPECT_EQ(assign.plan.epoch, Epoch{2});
  EXPECT_EQ(assign.plan.spec.WorkerCount(), 1);
  From("a", 1, 2, MakePrepared());
  From("a", 1, 2, Ready{});
  EXPECT_EQ(Status().state, ClusterState::kServing);
}

}  // namespace
}  // namespace conclave
