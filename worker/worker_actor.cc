#include "worker/worker_actor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr uint64_t kTickTimer = 1;

// The coordinator keeps at most two steps unanswered, so a step makes all but the one before it
// history.
constexpr uint64_t kStepsRemembered = 2;

}  // namespace

class WorkerActor::Listener : public EngineListener {
 public:
  Listener(WorkerActor& actor, Mailbox& mailbox) : actor_(actor), mailbox_(mailbox) {}

  // A post that is refused means that the actor has stopped: nobody is left to tell.
  void OnPrepared(Epoch epoch, Prepared prepared) override {
    mailbox_.Post([this, epoch, prepared = std::move(prepared)](ActorContext& ctx) {
      actor_.OnPrepared(ctx, epoch, prepared);
    });
  }
  void OnConnected(Epoch epoch) override {
    mailbox_.Post([this, epoch](ActorContext& ctx) { actor_.OnConnected(ctx, epoch); });
  }
  void OnLogits(Epoch epoch, Logits logits) override {
    mailbox_.Post([this, epoch, logits = std::move(logits)](ActorContext& ctx) mutable {
      actor_.OnLogits(ctx, epoch, std::move(logits));
    });
  }
  void OnStepDone(Epoch epoch, StepResult result) override {
    mailbox_.Post([this, epoch, result = std::move(result)](ActorContext& ctx) mutable {
      actor_.OnStepDone(ctx, epoch, std::move(result));
    });
  }
  void OnFault(Epoch epoch, StepId step, absl::Status status) override {
    mailbox_.Post([this, epoch, step, status = std::move(status)](ActorContext& ctx) {
      actor_.OnFault(ctx, epoch, step, status);
    });
  }

 private:
  WorkerActor& actor_;
  Mailbox& mailbox_;
};

WorkerActor::WorkerActor(Options options, Mailbox& mailbox, const EngineFactory& make_engine)
    : options_(std::move(options)),
      listener_(std::make_unique<Listener>(*this, mailbox)),
      engine_(make_engine(*listener_)) {
  CHECK(engine_ != nullptr);
}

// The engine goes first: it reports to the listener until then.
WorkerActor::~WorkerActor() { engine_.reset(); }

void WorkerActor::SendFact(ActorContext& ctx, Message fact) {
  ctx.Send(kCoordinatorPeer, epoch_, options_.id, std::move(fact));
}

void WorkerActor::OnStart(ActorContext& ctx) { OnTimer(ctx, kTickTimer); }

void WorkerActor::OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) {
  // What another worker id is on was meant for an earlier process of this name.
  if (from != kCoordinatorPeer || envelope.worker != options_.id) return;
  coordinator_lost_ = absl::InfiniteFuture();
  const Epoch epoch = envelope.epoch;
  if (const auto* assign = std::get_if<Assign>(&envelope.message)) {
    OnAssign(ctx, epoch, *assign);
  } else if (const auto* commit = std::get_if<Commit>(&envelope.message)) {
    OnCommit(ctx, epoch, *commit);
  } else if (const auto* step = std::get_if<Step>(&envelope.message)) {
    OnStep(ctx, epoch, step->plan);
  } else if (const auto* abort = std::get_if<Abort>(&envelope.message)) {
    OnAbort(ctx, epoch, abort->reason);
  } else if (const auto* shutdown = std::get_if<Shutdown>(&envelope.message)) {
    if (epoch >= epoch_) Leave(ctx, shutdown->reason);
  }
}

void WorkerActor::OnAssign(ActorContext& ctx, Epoch epoch, const Assign& assign) {
  if (epoch < epoch_ || leaving_) return;
  if (epoch == epoch_) {
    if (phase_ == Phase::kPrepared) SendFact(ctx, prepared_);
    if (phase_ == Phase::kIdle) TellAbandoned(ctx);
    return;
  }
  epoch_ = epoch;
  phase_ = Phase::kPreparing;
  next_step_ = StepId{1};
  last_step_ = StepId{};
  steps_queued_ = 0;
  held_.clear();
  outcomes_.clear();
  engine_->Prepare(epoch, assign);
}

void WorkerActor::OnCommit(ActorContext& ctx, Epoch epoch, const Commit& commit) {
  if (epoch != epoch_) return;
  switch (phase_) {
    case Phase::kPrepared:
      phase_ = Phase::kConnecting;
      engine_->Connect(epoch, commit);
      return;
    case Phase::kReady:
      SendFact(ctx, Ready{});
      return;
    case Phase::kIdle:
      TellAbandoned(ctx);
      return;
    case Phase::kPreparing:
    case Phase::kConnecting:
    case Phase::kFaulted:
      return;
  }
}

// The lease ran out, or an Abort overtook the message: if the epoch is still alive, the coordinator
// must end it.
void WorkerActor::TellAbandoned(ActorContext& ctx) {
  Fault fault;
  fault.code = static_cast<int32_t>(absl::StatusCode::kUnavailable);
  fault.message = absl::StrCat(options_.hello.name, " has abandoned ", epoch_.ToString(),
                               " after losing sight of the coordinator");
  SendFact(ctx, std::move(fault));
}

void WorkerActor::OnStep(ActorContext& ctx, Epoch epoch, const StepPlan& plan) {
  if (epoch != epoch_ || plan.epoch != epoch_ || phase_ != Phase::kReady) return;
  if (plan.step < next_step_) {
    RepeatStep(ctx, plan.step);
    return;
  }
  const bool near = plan.step.value < next_step_.value + kStepsQueuedMax;
  if (near && !leaving_) held_.emplace(plan.step, plan);
  RunHeldSteps();
}

void WorkerActor::RunHeldSteps() {
  while (!held_.empty() && held_.begin()->first == next_step_ && steps_queued_ < kStepsQueuedMax) {
    const auto first = held_.extract(held_.begin());
    outcomes_[next_step_];
    ++steps_queued_;
    next_step_ = next_step_.Next();
    ForgetSteps();
    engine_->RunStep(first.mapped());
  }
}

void WorkerActor::ForgetSteps() {
  while (!outcomes_.empty() &&
         outcomes_.begin()->first.value + kStepsRemembered < next_step_.value &&
         outcomes_.begin()->second.done) {
    outcomes_.erase(outcomes_.begin());
  }
}

void WorkerActor::RepeatStep(ActorContext& ctx, StepId step) {
  const auto it = outcomes_.find(step);
  if (it == outcomes_.end() || !it->second.done) return;
  for (const Logits& logits : it->second.logits) SendFact(ctx, logits);
  SendFact(ctx, StepDone{it->second.result});
}

void WorkerActor::OnAbort(ActorContext& ctx, Epoch epoch, const std::string& reason) {
  if (epoch < epoch_) return;
  epoch_ = epoch;
  phase_ = Phase::kIdle;
  steps_queued_ = 0;
  held_.clear();
  outcomes_.clear();
  next_hello_ = absl::InfinitePast();
  engine_->Abort(epoch, reason);
  StopWhenDone(ctx);
}

void WorkerActor::OnPrepared(ActorContext& ctx, Epoch epoch, Prepared prepared) {
  if (epoch != epoch_ || phase_ != Phase::kPreparing) return;
  phase_ = Phase::kPrepared;
  prepared_ = std::move(prepared);
  next_repeat_ = ctx.Now() + options_.repeat_interval;
  SendFact(ctx, prepared_);
}

void WorkerActor::OnConnected(ActorContext& ctx, Epoch epoch) {
  if (epoch != epoch_ || phase_ != Phase::kConnecting) return;
  phase_ = Phase::kReady;
  SendFact(ctx, Ready{});
}

void WorkerActor::OnLogits(ActorContext& ctx, Epoch epoch, Logits logits) {
  const auto it = outcomes_.find(logits.step);
  if (epoch != epoch_ || phase_ != Phase::kReady || it == outcomes_.end()) return;
  it->second.logits.push_back(logits);
  SendFact(ctx, std::move(logits));
}

void WorkerActor::OnStepDone(ActorContext& ctx, Epoch epoch, StepResult result) {
  const auto it = outcomes_.find(result.step);
  if (epoch != epoch_ || phase_ != Phase::kReady || it == outcomes_.end()) return;
  CHECK(!it->second.done) << result.step << " is done twice";
  CHECK_EQ(result.step.value, last_step_.value + 1) << "the engine left the order of steps";
  last_step_ = result.step;
  --steps_queued_;
  it->second.done = true;
  it->second.result = result;
  SendFact(ctx, StepDone{std::move(result)});
  RunHeldSteps();
  StopWhenDone(ctx);
}

void WorkerActor::OnFault(ActorContext& ctx, Epoch epoch, StepId step, const absl::Status& status) {
  if (epoch != epoch_ || phase_ == Phase::kIdle || phase_ == Phase::kFaulted) return;
  phase_ = Phase::kFaulted;
  steps_queued_ = 0;
  held_.clear();
  fault_.step = step;
  fault_.code = status.raw_code();
  fault_.message = std::string(status.message());
  next_repeat_ = ctx.Now() + options_.repeat_interval;
  SendFact(ctx, fault_);
  StopWhenDone(ctx);
}

void WorkerActor::RepeatFacts(ActorContext& ctx) {
  if (phase_ != Phase::kPrepared && phase_ != Phase::kFaulted) return;
  if (ctx.Now() < next_repeat_) return;
  next_repeat_ = ctx.Now() + options_.repeat_interval;
  if (phase_ == Phase::kPrepared) {
    SendFact(ctx, prepared_);
  } else {
    SendFact(ctx, fault_);
  }
}

void WorkerActor::OnTimer(ActorContext& ctx, uint64_t tag) {
  const absl::Time now = ctx.Now();
  if (leaving_ && now >= leave_by_) {
    ctx.Stop(absl::DeadlineExceededError(absl::StrCat(
        steps_queued_, " steps did not finish within ",
        absl::FormatDuration(options_.leave_timeout), " of leaving: ", leave_reason_)));
    return;
  }
  const bool idle = phase_ == Phase::kReady && steps_queued_ == 0 && !leaving_;
  ctx.SetTimer(kTickTimer, idle ? options_.idle_heartbeat_interval : options_.heartbeat_interval);
  const bool out_of_sight = coordinator_lost_ != absl::InfiniteFuture();
  if (out_of_sight && phase_ != Phase::kIdle &&
      now - coordinator_lost_ >= options_.coordinator_lease) {
    OnAbort(ctx, epoch_, "the coordinator is lost");
  }
  if (phase_ != Phase::kIdle) {
    SendFact(ctx, Heartbeat{.progress = engine_->progress(),
                            .last_step = last_step_,
                            .steps_queued = steps_queued_});
    RepeatFacts(ctx);
  }
  if (!leaving_ && (phase_ == Phase::kIdle || out_of_sight) && now >= next_hello_) {
    next_hello_ = now + options_.hello_interval;
    SendFact(ctx, options_.hello);
  }
}

void WorkerActor::OnPeerLost(ActorContext& ctx, const PeerId& peer) {
  if (peer != kCoordinatorPeer || coordinator_lost_ != absl::InfiniteFuture()) return;
  coordinator_lost_ = ctx.Now();
}

void WorkerActor::Leave(ActorContext& ctx, const std::string& reason) {
  if (leaving_) return;
  leaving_ = true;
  leave_reason_ = reason;
  leave_by_ = ctx.Now() + options_.leave_timeout;
  held_.clear();
  StopWhenDone(ctx);
}

void WorkerActor::StopWhenDone(ActorContext& ctx) {
  if (!leaving_ || steps_queued_ > 0) return;
  SendFact(ctx, Goodbye{leave_reason_});
  ctx.Stop(absl::OkStatus());
}

}  // namespace conclave
