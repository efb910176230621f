#include "coordinator/coordinator_actor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cluster_view.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr uint64_t kTickTimer = 1;
constexpr size_t kEventsMax = 64;
// Numbers beyond this are nonsense.
constexpr uint64_t kEpochMax = uint64_t{1} << 62;

ServingLoop::Options LoopOptions(const CoordinatorOptions& options) {
  ServingLoop::Options loop;
  loop.shape = options.shape;
  loop.batcher.batch_tokens_max = options.batch_tokens_max;
  loop.batcher.sequences_max = options.sequences_max;
  loop.batcher.waiting_max = options.waiting_max;
  loop.batcher.page_tokens = options.cache.page_tokens;
  loop.batcher.context_tokens = options.shape.context_tokens;
  if (options.context_tokens_max > 0) {
    loop.batcher.context_tokens =
        std::min(options.context_tokens_max, options.shape.context_tokens);
  }
  loop.tracker.vocab = options.shape.vocab;
  loop.tracker.resend_after = options.step_repeat;
  return loop;
}

// Errors that a worker reports when another one is gone.
bool MayComeFromALostPeer(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded ||
         code == absl::StatusCode::kCancelled || code == absl::StatusCode::kAborted;
}

}  // namespace

CoordinatorActor::CoordinatorActor(CoordinatorOptions options)
    : options_(std::move(options)),
      members_(options_.members),
      last_epoch_(options_.last_epoch),
      loop_(LoopOptions(options_)) {}

CoordinatorActor::~CoordinatorActor() = default;

bool CoordinatorActor::serving() const {
  return epoch_.has_value() && epoch_->phase() == PlacementEpoch::Phase::kServing;
}

std::string CoordinatorActor::WaitingFor() const {
  if (draining_) return "the cluster is draining; start it again to serve";
  if (serving()) return "";
  if (epoch_.has_value()) {
    return absl::StrCat("loading ", options_.model, ": ", epoch_->Progress(), "; wait");
  }
  const std::string last =
      last_failure_.ok() ? "" : absl::StrCat(" (before: ", last_failure_.message(), ")");
  const int here = static_cast<int>(members_.members().size());
  if (here < WorkersNeeded()) {
    return absl::StrFormat("%d of %d workers are here; start %d more%s", here, WorkersNeeded(),
                           WorkersNeeded() - here, last);
  }
  if (!plan_failure_.empty()) return plan_failure_;
  return absl::StrCat("a new plan is about to start", last);
}

void CoordinatorActor::Note(absl::Time now, const std::string& event) {
  events_.push_back(
      absl::StrCat(absl::FormatTime("%Y-%m-%d %H:%M:%E3S ", now, absl::UTCTimeZone()), event));
  if (events_.size() > kEventsMax) events_.pop_front();
}

void CoordinatorActor::SendToRank(ActorContext& ctx, int rank, Message message) {
  ctx.Send(epoch_->names()[rank], epoch_->epoch(), epoch_->plan().workers[rank],
           std::move(message));
}

void CoordinatorActor::OnStart(ActorContext& ctx) {
  not_serving_since_ = last_tick_ = ctx.Now();
  ctx.SetTimer(kTickTimer, options_.tick);
}

void CoordinatorActor::OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) {
  if (std::holds_alternative<Hello>(envelope.message)) return OnHello(ctx, from, envelope);
  if (std::holds_alternative<Heartbeat>(envelope.message)) return OnHeartbeat(ctx, from, envelope);
  if (!members_.OnHeard(from, envelope.worker, ctx.Now())) return;
  if (const auto* goodbye = std::get_if<Goodbye>(&envelope.message)) {
    return OnGoodbye(ctx, from, envelope.worker, *goodbye);
  }
  if (!epoch_.has_value() || envelope.epoch != epoch_->epoch()) return;
  const int rank = epoch_->RankOf(envelope.worker);
  if (rank >= 0) OnRankFact(ctx, rank, envelope);
}

// Workers may live in epochs of an earlier coordinator: those to come must be newer.
bool CoordinatorActor::SeeEpoch(Epoch epoch) {
  if (epoch.value > kEpochMax) return false;
  last_epoch_ = std::max(last_epoch_, epoch);
  return true;
}

void CoordinatorActor::OnHello(ActorContext& ctx, const PeerId& from, const Envelope& envelope) {
  const Hello& hello = std::get<Hello>(envelope.message);
  // The channel has authenticated the peer's name; a worker cannot speak for another.
  if (hello.name != from || hello.name.empty() || !SeeEpoch(envelope.epoch)) return;
  const Member* known = members_.Find(from);
  const std::optional<Member> former = known == nullptr ? std::nullopt : std::make_optional(*known);
  switch (members_.OnHello(hello, envelope.worker, ctx.Now())) {
    case MemberTable::HelloOutcome::kRefused:
      return;
    case MemberTable::HelloOutcome::kKnown: {
      // A worker of this epoch that lost sight of us: any answer that may be repeated tells it that
      // we are here.
      const int rank = epoch_.has_value() && envelope.epoch == epoch_->epoch()
                           ? epoch_->RankOf(envelope.worker)
                           : -1;
      if (rank < 0) return;
      SendDecision(ctx, rank);
      return;
    }
    case MemberTable::HelloOutcome::kRestarted:
      LoseMember(ctx, *former, "its process was replaced by a new one");
      [[fallthrough]];
    case MemberTable::HelloOutcome::kJoined:
      Note(ctx.Now(), absl::StrCat(members_.Find(from)->Describe(), " joined"));
      TryPlan(ctx);
      return;
  }
}

void CoordinatorActor::OnHeartbeat(ActorContext& ctx, const PeerId& from,
                                   const Envelope& envelope) {
  const Heartbeat& heartbeat = std::get<Heartbeat>(envelope.message);
  if (!SeeEpoch(envelope.epoch)) return;
  const bool is_member =
      members_.OnHeartbeat(from, envelope.worker, envelope.epoch, heartbeat, ctx.Now());
  const int rank = is_member && epoch_.has_value() ? epoch_->RankOf(envelope.worker) : -1;
  if (rank >= 0) {
    if (envelope.epoch == epoch_->epoch()) loop_.OnHeartbeat(rank, heartbeat);
    return;  // of an older epoch: its Assign is on the way and is repeated
  }
  // It lives in an epoch that is over: it was declared lost, or has not heard that the epoch ended.
  ctx.Send(from, envelope.epoch, envelope.worker, Abort{"this epoch is over"});
}

void CoordinatorActor::OnRankFact(ActorContext& ctx, int rank, const Envelope& envelope) {
  const std::string& name = epoch_->names()[rank];
  absl::Status status;
  if (const auto* prepared = std::get_if<Prepared>(&envelope.message)) {
    status = OnPrepared(ctx, rank, *prepared);
  } else if (std::holds_alternative<Ready>(envelope.message)) {
    if (!epoch_->ready(rank)) members_.SetState(name, WorkerState::kReady, ctx.Now());
    if (epoch_->OnReady(rank)) BeginServing(ctx);
  } else if (const auto* done = std::get_if<StepDone>(&envelope.message)) {
    status = loop_.OnStepDone(rank, done->result);
    if (status.ok()) PumpSteps(ctx);
  } else if (const auto* logits = std::get_if<Logits>(&envelope.message)) {
    status = loop_.OnLogits(rank, *logits);
    if (status.ok()) PumpSteps(ctx);
  } else if (const auto* fault = std::get_if<Fault>(&envelope.message)) {
    OnFault(ctx, rank, *fault);
  }
  if (!status.ok()) {
    FailEpoch(ctx,
              absl::UnavailableError(absl::StrCat(
                  members_.Find(name)->Describe(), " cannot go on in ", epoch_->epoch().ToString(),
                  ": ", status.message(), "; the cluster plans again, send the request again")));
  }
  if (draining_) AdvanceDrain(ctx);
}

absl::Status CoordinatorActor::OnPrepared(ActorContext& ctx, int rank, const Prepared& prepared) {
  if (epoch_->prepared(rank) != nullptr) return absl::OkStatus();
  if (prepared.kv_pages < 1) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "its memory leaves ", prepared.kv_pages, " KV pages beside ", prepared.weight_bytes,
        " bytes of weights; give it more memory or use more workers"));
  }
  members_.SetState(epoch_->names()[rank], WorkerState::kPrepared, ctx.Now());
  if (!epoch_->OnPrepared(rank, prepared)) return absl::OkStatus();
  for (const std::string& name : epoch_->names()) {
    members_.SetState(name, WorkerState::kLoading, ctx.Now());  // they connect
  }
  AdvanceEpoch(ctx);
  return absl::OkStatus();
}

void CoordinatorActor::OnFault(ActorContext& ctx, int rank, const Fault& fault) {
  const Member* member = members_.Find(epoch_->names()[rank]);
  CHECK(member != nullptr);
  const std::string where = fault.step.value > 0 ? absl::StrCat(" at ", fault.step.ToString()) : "";
  const absl::Status status = absl::UnavailableError(absl::StrCat(
      member->Describe(), " failed in ", epoch_->epoch().ToString(), where, ": ", fault.message));
  if (!MayComeFromALostPeer(static_cast<absl::StatusCode>(fault.code))) {
    FailEpoch(ctx, status);
    return;
  }
  if (!pending_fault_.has_value()) pending_fault_ = PendingFault{status, ctx.Now()};
}

void CoordinatorActor::OnGoodbye(ActorContext& ctx, const PeerId& from, WorkerId id,
                                 const Goodbye& goodbye) {
  const Member member = *members_.Find(from);
  members_.Remove(from, /*for_good=*/true);
  LoseMember(ctx, member, absl::StrCat("it left: ", goodbye.reason));
  if (draining_) AdvanceDrain(ctx);
  TryPlan(ctx);
}

void CoordinatorActor::OnPeerLost(ActorContext& ctx, const PeerId& peer) {
  members_.OnPeerLost(peer);
}

void CoordinatorActor::PumpSteps(ActorContext& ctx) {
  if (!serving() || pending_fault_.has_value()) return;
  loop_.Pump(ctx.Now(), [&](int rank, const StepPlan& plan) { SendToRank(ctx, rank, Step{plan}); });
}

void CoordinatorActor::OnTimer(ActorContext& ctx, uint64_t tag) {
  const absl::Time now = ctx.Now();
  ctx.SetTimer(kTickTimer, options_.tick);
  const absl::Duration late = now - last_tick_ - options_.tick;
  last_tick_ = now;
  if (late > options_.tick) members_.Forgive(late);
  for (const MemberLoss& loss : members_.Expire(now)) LoseMember(ctx, loss.member, loss.reason);
  if (pending_fault_.has_value() && now - pending_fault_->at >= options_.fault_grace) {
    const absl::Status status = pending_fault_->status;
    FailEpoch(ctx, status);
  }
  TryPlan(ctx);
  AdvanceEpoch(ctx);
  if (!serving() && loop_.requests() > 0 && now - not_serving_since_ >= options_.queue_patience) {
    loop_.FailSubmittedBefore(absl::InfiniteFuture(),
                              absl::UnavailableError(absl::StrCat("not serving: ", WaitingFor())));
  }
  PumpSteps(ctx);
  if (draining_) AdvanceDrain(ctx);
}

void CoordinatorActor::Submit(ActorContext& ctx, RequestId id, GenerationRequest request,
                              std::shared_ptr<GenerationSink> sink) {
  if (draining_ || !serving()) {
    sink->OnFinish(FinishReason::kError,
                   absl::UnavailableError(absl::StrCat("not serving: ", WaitingFor())));
    return;
  }
  loop_.Submit(id, std::move(request), std::move(sink), ctx.Now());
  PumpSteps(ctx);
}

void CoordinatorActor::Cancel(ActorContext& ctx, RequestId id) {
  loop_.Cancel(id);
  if (draining_) AdvanceDrain(ctx);
}

void CoordinatorActor::Drain(ActorContext& ctx) {
  if (draining_) return;
  draining_ = true;
  drain_by_ = ctx.Now() + options_.drain_deadline;
  Note(ctx.Now(), "draining");
  AdvanceDrain(ctx);
}

// Waits for the requests, then for the workers to leave, each with its bound.
void CoordinatorActor::AdvanceDrain(ActorContext& ctx) {
  const absl::Time now = ctx.Now();
  if (shutdown_by_ == absl::InfiniteFuture()) {
    if (loop_.requests() > 0 && serving() && now < drain_by_) return;
    loop_.FailSubmittedBefore(absl::InfiniteFuture(),
                              absl::UnavailableError("the cluster was drained before the request "
                                                     "was done; start it again"));
    shutdown_by_ = now + options_.shutdown_deadline;
  }
  if (members_.members().empty() || now >= shutdown_by_) {
    ctx.Stop(absl::OkStatus());
    return;
  }
  for (const auto& [name, member] : members_.members()) {
    ctx.Send(name, last_epoch_, member.id, Shutdown{"the cluster is drained"});
  }
}

ClusterStatus CoordinatorActor::Status(absl::Time now) const {
  ClusterStatus status = MakeClusterStatus({members_, epoch_ ? &*epoch_ : nullptr, loop_}, now);
  status.state = draining_            ? ClusterState::kDraining
                 : serving()          ? ClusterState::kServing
                 : epoch_.has_value() ? ClusterState::kLoading
                                      : ClusterState::kWaiting;
  status.waiting_for = WaitingFor();
  status.last_failure = last_failure_;
  status.shape = options_.shape;
  status.model = options_.model;
  status.events.assign(events_.begin(), events_.end());
  return status;
}

}  // namespace conclave
