// WorkerActor: the control side of a worker process: a thin shell that turns decisions of the
// coordinator into calls of Engine and the engine's outcomes into facts. Every decision may come
// twice, late or out of order: steps run strictly in order and once, answers are given again, older
// epochs are dropped. Owned by main; runs on the actor's thread. The engine reports on a thread of
// its own; the mailbox carries that over.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "comm/actor/actor.h"
#include "comm/actor/actor_system.h"
#include "worker/engine/engine.h"

namespace conclave {

class WorkerActor : public Actor {
 public:
  struct Options {
    WorkerId id;  // random, one for each process
    Hello hello;  // sent as it stands
    absl::Duration heartbeat_interval = absl::Milliseconds(100);
    // Ready and without steps: an idle cluster should sleep, and silence still shows within 1 s.
    absl::Duration idle_heartbeat_interval = absl::Milliseconds(200);
    absl::Duration hello_interval = absl::Milliseconds(200);
    absl::Duration repeat_interval = absl::Milliseconds(500);  // of Prepared and Fault
    absl::Duration coordinator_lease = absl::Seconds(5);       // after losing its sight
    absl::Duration leave_timeout = absl::Seconds(10);          // for steps queued at Shutdown
  };
  using EngineFactory = std::function<std::unique_ptr<Engine>(EngineListener&)>;

  // `mailbox` posts to this actor and outlives it.
  WorkerActor(Options options, Mailbox& mailbox, const EngineFactory& make_engine);
  ~WorkerActor() override;

  void OnStart(ActorContext& ctx) override;
  void OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) override;
  void OnTimer(ActorContext& ctx, uint64_t tag) override;
  void OnPeerLost(ActorContext& ctx, const PeerId& peer) override;

  // Finishes the steps queued, says Goodbye, stops: what SIGTERM asks for.
  void Leave(ActorContext& ctx, const std::string& reason);

  Engine& engine() { return *engine_; }

 private:
  // Of epoch_. kIdle: no epoch, or one that was abandoned.
  enum class Phase { kIdle, kPreparing, kPrepared, kConnecting, kReady, kFaulted };

  // What the engine reported of a step, kept until the coordinator cannot ask for it any more.
  struct Outcome {
    std::vector<Logits> logits;
    bool done = false;
    StepResult result;
  };
  class Listener;  // posts the engine's outcomes

  void SendFact(ActorContext& ctx, Message fact);
  void OnAssign(ActorContext& ctx, Epoch epoch, const Assign& assign);
  void OnCommit(ActorContext& ctx, Epoch epoch, const Commit& commit);
  void TellAbandoned(ActorContext& ctx);
  void OnStep(ActorContext& ctx, Epoch epoch, const StepPlan& plan);
  void OnAbort(ActorContext& ctx, Epoch epoch, const std::string& reason);

  void OnPrepared(ActorContext& ctx, Epoch epoch, Prepared prepared);
  void OnConnected(ActorContext& ctx, Epoch epoch);
  void OnLogits(ActorContext& ctx, Epoch epoch, Logits logits);
  void OnStepDone(ActorContext& ctx, Epoch epoch, StepResult result);
  void OnFault(ActorContext& ctx, Epoch epoch, StepId step, const absl::Status& status);

  void RunHeldSteps();
  void RepeatStep(ActorContext& ctx, StepId step);
  void ForgetSteps();
  void RepeatFacts(ActorContext& ctx);
  void StopWhenDone(ActorContext& ctx);

  const Options options_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Engine> engine_;

  Epoch epoch_;  // the newest heard of
  Phase phase_ = Phase::kIdle;
  Prepared prepared_;
  Fault fault_;

  StepId next_step_{1};              // the next to hand to the engine
  StepId last_step_;                 // the last finished
  int steps_queued_ = 0;             // in the engine
  std::map<StepId, StepPlan> held_;  // came before their turn; at most kStepsQueuedMax
  std::map<StepId, Outcome> outcomes_;

  absl::Time next_hello_ = absl::InfinitePast();
  absl::Time next_repeat_ = absl::InfinitePast();
  absl::Time coordinator_lost_ = absl::InfiniteFuture();  // since when; InfiniteFuture: not lost
  bool leaving_ = false;
  std::string leave_reason_;
  absl::Time leave_by_ = absl::InfiniteFuture();
};

}  // namespace conclave
